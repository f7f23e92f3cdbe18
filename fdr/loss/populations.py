"""Populations: which samples of the generator the FD of a training step is taken over.

A batch alone is too few samples: its covariance has rank below B, and its FD is biased far upwards. So the batch
joins a population of earlier samples, and the gradient goes to the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fdr.errors import InputError, unknown
from fdr.runtime import resolve_device

if TYPE_CHECKING:
    import torch

    from fdr.frechet import Moments
    from fdr.loss.terms import AbstractTerm

SOLVERS = ("fast", "exact", "newton-schulz")
"""How tr (S_p S_q)^{1/2} and its gradient are computed, see `make_term`."""
GRADIENTS = ("raw", "unit")
"""How the gradient is scaled, see `make_term`."""


@dataclass(frozen=True)
class EmaPopulation:
    """Moments averaged exponentially over batches: m <- beta m + (1 - beta) m_batch, the same for the covariance.

    `beta` in [0, 1) counts batches, not samples: 0.999 is a window of 1 / (1 - beta) = 1000 batches. Without a fill the
    first batches are not diluted by a start at zero: the average is that of the batches seen so far.
    """

    beta: float = 0.999

    def __post_init__(self) -> None:
        if not 0 <= self.beta < 1:
            raise InputError(f"beta is {self.beta}; expected at least 0 and below 1, such as 0.999.")


@dataclass(frozen=True)
class QueuePopulation:
    """The newest `size` samples, all with the same weight; unbiased covariance (n - 1).

    It holds size x d float32 features and 4 d^2 float64 numbers. In a very long queue the oldest features come from a
    generator that has since changed.
    """

    size: int = 50_000

    def __post_init__(self) -> None:
        if int(self.size) != self.size or self.size < 2:
            raise InputError(f"The queue's size is {self.size}; expected a whole number of at least 2.")


@dataclass(frozen=True)
class BatchPopulation:
    """The batch alone, with its biased covariance: no memory, and a large bias unless B is many times d."""


@dataclass(frozen=True)
class ExactPopulation:
    """k batches as one: the loss collects the features of all k first; each then gets its part of the exact gradient.

    The result is that of `BatchPopulation` over the k batches together; it takes two forward passes.
    """


Population = EmaPopulation | QueuePopulation | BatchPopulation | ExactPopulation


def make_term(
    population: Population,
    reference: Moments,
    solver: str = "fast",
    *,
    gradient: str = "raw",
    device: str | torch.device | None = None,
    first_life: float = 1.0,
) -> AbstractTerm:
    """The running state of `population` for one encoder, against its `reference`.

    `solver` is "fast" (for an EMA a frozen eigenbasis, refreshed when its estimated error asks for it; else exact),
    "exact" (a float64 eigendecomposition at every step) or "newton-schulz". `gradient` is "raw", dFD/dfeatures, or
    "unit", divided by the share of the population that the batch is, so that it does not depend on `beta` or `size`.
    The state lives and is solved on `device` (default: CPU). `first_life` in (0, 1] is the share of its usual life
    after which "fast" refreshes its first eigenbasis: terms that begin together with other shares do so at other steps.

    Raises `InputError` for names that are none of these, and for another share.
    """
    from fdr.loss.fast_term import FastEmaTerm
    from fdr.loss.queue_term import QueueTerm
    from fdr.loss.terms import BatchTerm, EmaTerm
    from fdr.loss.transport import Target, solver_named

    if solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    if gradient not in GRADIENTS:
        raise unknown("gradient scale", gradient, GRADIENTS)
    if not 0 < first_life <= 1:
        raise InputError(f"first_life is {first_life}; expected a share above 0 and at most 1.")
    where = resolve_device("cpu" if device is None else str(device))
    target, is_unit = Target.of(reference, where), gradient == "unit"
    solve = solver_named("exact" if solver == "fast" else solver)
    if isinstance(population, EmaPopulation) and solver == "fast":
        return FastEmaTerm(target, is_unit, population.beta, first_life)
    if isinstance(population, EmaPopulation):
        return EmaTerm(target, is_unit, solve, population.beta)
    if isinstance(population, QueuePopulation):
        return QueueTerm(target, is_unit, solve, int(population.size))
    if isinstance(population, BatchPopulation | ExactPopulation):
        return BatchTerm(target, is_unit, solve)
    raise InputError(
        f"{population!r} is no population; expected an EmaPopulation, QueuePopulation, BatchPopulation or "
        "ExactPopulation."
    )
