"""A term of FD-loss: the population of one encoder's features, its FD, and the gradient for the newest batch.

A step happens in two parts: `evaluate` computes the population with the batch in it and keeps it beside the committed
one; `commit` then replaces the committed one. A step that is not taken (`discard`) changes nothing.

Symbols: m_p [d], S_p [d, d] are the moments of the reference, m_q, S_q those of the population with the batch in it;
z [d] is a row of the batch of B; a is the share of the population that the batch has.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fdr.errors import InputError
from fdr.loss.transport import (
    Diagnostics,
    Solver,
    Target,
    TermValue,
    Transport,
    check_rows,
    frechet_distance_of,
    solve_thin,
)

if TYPE_CHECKING:
    from torch import Tensor

FILL_BLOCK = 2048
"""Rows of a fill that are cast to float64 at a time. Raising it takes more memory and fewer, larger products."""


class AbstractTerm(ABC):
    """FD of one encoder's population against its reference, as a function of the batch that is about to enter it.

    With `is_unit` the gradient is divided by the share of the batch, so that its size does not depend on the length of
    the population's memory.
    """

    def __init__(self, target: Target, is_unit: bool) -> None:
        self.target, self.is_unit = target, is_unit

    @property
    def dim(self) -> int:
        """Width d of the features."""
        return self.target.dim

    @property
    def device(self) -> torch.device:
        """Where the population lives and the solver works."""
        return self.target.mean.device

    def fill(self, features: Tensor) -> None:
        """Add generated features [n, d] to the initial population; it may be called once a batch.

        It does nothing where the population is the batch alone. Raises `InputError` once a step has been committed.
        """
        check_rows(features, self.dim)
        for block in features.detach().split(FILL_BLOCK):
            self._fill(block.to(self.device, torch.float64))

    def evaluate(self, features: Tensor) -> TermValue:
        """FD with the batch [B, d] in the population, and its gradient. The batch waits for `commit` or `discard`.

        Raises `InputError` for another shape, `RunError` for features that are not finite.
        """
        self.discard()
        check_rows(features, self.dim)
        value = self._evaluate(features.detach().to(self.device, torch.float64))
        dtype = features.dtype if features.dtype.itemsize >= 4 else torch.float32
        return dataclasses.replace(value, gradient=value.gradient.to(features.device, dtype))

    @abstractmethod
    def commit(self) -> None:
        """Let the pending batch enter the population; it does nothing where no batch is pending."""

    @abstractmethod
    def discard(self) -> None:
        """Drop the pending batch."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """The committed population as tensors: all that the next steps depend on."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state_dict` gave, bit for bit. Raises `InputError` where it is another population's."""

    @abstractmethod
    def _fill(self, rows: Tensor) -> None: ...

    @abstractmethod
    def _evaluate(self, rows: Tensor) -> TermValue: ...


@dataclass(frozen=True)
class Weights:
    """How much one row z of the batch counts: by how much the moments move when z moves by dz.

    dm_q = mean dz and dS_q = scatter ((z - m_q) dz^T + dz (z - m_q)^T), to first order in dz.
    """

    mean: float
    scatter: float
    share: float
    """The share of the population that the whole batch has; the gradient "unit" is divided by it."""

    def gradient(self, target: Target, mean: Tensor, centred: Tensor, moved: Tensor, is_unit: bool) -> Tensor:
        """The gradient [B, d] of all rows: dFD/dz = 2 w_mean (m_q - m_p) + 2 w_scatter (z - m_q)(I - T).

        `mean` is m_q [d]; `centred` holds the rows z - m_q [B, d], `moved` the rows (z - m_q) T [B, d].
        """
        unit = self.share if is_unit else 1.0
        pull = (centred - moved).mul_(2 * self.scatter / unit)
        return pull.add_((mean - target.mean).to(pull.dtype), alpha=2 * self.mean / unit)


def finish(
    target: Target, mean: Tensor, trace: Tensor, centred: Tensor, found: Transport, weights: Weights, is_unit: bool
) -> TermValue:
    """FD and gradient, from m_q [d], tr S_q, the rows z - m_q [B, d], and what the solver found for them."""
    fd = frechet_distance_of(target, mean, trace, found.root_trace)
    gradient = weights.gradient(target, mean, centred, found.moved, is_unit)
    return TermValue(fd, gradient, Diagnostics(found.route, found.residual, refreshed=found.route != "newton-schulz"))


# ------------------------------------------------------------------------------------------------------ batch alone


class BatchTerm(AbstractTerm):
    """The batch is the population, with biased moments and no state.

    Given the features of k batches at once, it is the loss over k steps (`ExactPopulation`).
    """

    def __init__(self, target: Target, is_unit: bool, solver: Solver) -> None:
        super().__init__(target, is_unit)
        self.solver = solver

    def commit(self) -> None:
        pass

    def discard(self) -> None:
        pass

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        check_state(state, {})

    def _fill(self, rows: Tensor) -> None:
        pass

    def _evaluate(self, rows: Tensor) -> TermValue:
        count = len(rows)
        mean = rows.mean(0)
        centred = rows - mean
        if count <= self.dim:
            found = solve_thin(self.target, centred)
        else:
            found = self.solver(self.target, centred.T @ centred / count, centred)
        weights = Weights(1 / count, 1 / count, share=1.0)
        return finish(self.target, mean, centred.square().sum() / count, centred, found, weights, self.is_unit)


# ---------------------------------------------------------------------------------------------- exponential average


@dataclass(frozen=True)
class Averaging:
    """The weights of an exponential average over batches.

    An average that starts at 0 holds weights that sum to 1 - beta^t after t batches; dividing by that sum removes the
    bias (as Adam does, arXiv 1412.6980). The average is stored divided, so batch t moves it by the share
    a = (1 - beta) / (1 - beta^t).
    """

    weight: float = 0.0
    """1 - beta^t, or 1 where the population was filled."""
    num_filled: int = 0
    """Samples that the population was filled with."""
    num_steps: int = 0
    """Batches since the fill."""

    def filled(self, rows: int) -> tuple[Averaging, float]:
        """The averaging after a fill with `rows` more samples, all of the same weight, and the share of these."""
        if self.num_steps:
            raise InputError("The population already holds steps of training; it can only be filled before the first.")
        total = self.num_filled + rows
        return Averaging(1.0, total, 0), rows / total

    def stepped(self, beta: float) -> tuple[Averaging, float]:
        """The averaging after one more batch, and the share of that batch."""
        weight = beta * self.weight + (1 - beta)
        return Averaging(weight, self.num_filled, self.num_steps + 1), (1 - beta) / weight

    def state(self) -> dict[str, Tensor]:
        """The fields as tensors, for `state_dict`."""
        return {
            "weight": torch.tensor(self.weight, dtype=torch.float64),
            "num_filled": torch.tensor(self.num_filled),
            "num_steps": torch.tensor(self.num_steps),
        }

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Averaging:
        """The averaging that `state` was taken of."""
        return cls(float(state["weight"]), int(state["num_filled"]), int(state["num_steps"]))


@dataclass(frozen=True)
class AveragedMoments:
    """Weighted mean [d] and biased covariance [d, d] of all batches so far."""

    averaging: Averaging
    mean: Tensor
    sigma: Tensor

    def absorbing(self, rows: Tensor, averaging: Averaging, share: float) -> AveragedMoments:
        """The moments after `rows` [B, d] have entered with the weight a = `share`.

        With X [B, d] the rows less the old mean and e [d] the mean of X, the mean moves by a e, and
        S <- (1 - a) S + a X^T X / B - a^2 e e^T. This equals averaging z z^T and subtracting m m^T at the end, without
        the digits that such a subtraction loses.
        """
        anchor = self.mean if self.averaging.weight > 0 else rows.mean(0)
        centred = rows - anchor
        shift = centred.mean(0)
        sigma = torch.addmm(self.sigma, centred.T, centred, beta=1 - share, alpha=share / len(rows))
        sigma.addr_(shift, shift, alpha=-(share**2))
        return AveragedMoments(averaging, anchor + share * shift, sigma)


class EmaTerm(AbstractTerm):
    """Exponentially averaged moments in float64. The state is d + d^2 numbers, however long the window is."""

    def __init__(self, target: Target, is_unit: bool, solver: Solver, beta: float) -> None:
        super().__init__(target, is_unit)
        self.solver, self.beta = solver, beta
        zeros = torch.zeros_like(target.mean)
        self.moments = AveragedMoments(Averaging(), zeros, zeros.new_zeros(self.dim, self.dim))
        self.pending: AveragedMoments | None = None

    def commit(self) -> None:
        self.moments, self.pending = self.pending or self.moments, None

    def discard(self) -> None:
        self.pending = None

    def state_dict(self) -> dict[str, Tensor]:
        return {"mean": self.moments.mean, "sigma": self.moments.sigma, **self.moments.averaging.state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        check_state(state, self.state_dict())
        mean, sigma = (state[name].to(self.device, torch.float64, copy=True) for name in ("mean", "sigma"))
        self.moments, self.pending = AveragedMoments(Averaging.of(state), mean, sigma), None

    def _fill(self, rows: Tensor) -> None:
        self.discard()
        self.moments = self.moments.absorbing(rows, *self.moments.averaging.filled(len(rows)))

    def _evaluate(self, rows: Tensor) -> TermValue:
        averaging, share = self.moments.averaging.stepped(self.beta)
        moments = self.moments.absorbing(rows, averaging, share)
        centred = rows - moments.mean
        found = self.solver(self.target, moments.sigma, centred)
        weights = Weights(share / len(rows), share / len(rows), share)
        value = finish(self.target, moments.mean, moments.sigma.trace(), centred, found, weights, self.is_unit)
        self.pending = moments
        return value


def check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise `InputError` unless `state` has the names, shapes and dtypes of `expected`."""
    found, wanted = (
        {name: (tuple(x.shape), str(x.dtype).removeprefix("torch.")) for name, x in side.items()}
        for side in (state, expected)
    )
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise InputError(
                f"The state of the population does not fit: {name!r} is {_shown(found.get(name))}, expected "
                f"{_shown(wanted.get(name))}; encoder, reference, population and solver must be as when it was saved."
            )


def _shown(entry: tuple[tuple[int, ...], str] | None) -> str:
    return "absent" if entry is None else f"{entry[1]} {list(entry[0])}"
