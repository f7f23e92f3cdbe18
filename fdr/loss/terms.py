"""A term of FD-loss: the population of one encoder's features, its FD, and the gradient for the newest batch.

A step happens in two parts: `evaluate` computes the population with the batch in it and keeps it beside the committed
one; `commit` then replaces the committed one. A step that is not taken (`discard`) changes nothing.

Symbols, as in `transport.py`: m_p [d], S_p [d, d] are the moments of the reference, m_q, S_q those of the population
with the batch in it; T [d, d] is the transport map; z [d] is a row of the batch of B.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from fdr.errors import InputError, RunError
from fdr.loss.transport import Diagnostics, Solver, Target, Transport, solve_thin

if TYPE_CHECKING:
    from torch import Tensor

FILL_BLOCK = 2048
"""Rows of a fill that are cast to float64 at a time. Raising it takes more memory and fewer, larger products."""
MAX_FEATURE = 1e150
"""Larger features are refused. Raising it would let their squares overflow float64."""


@dataclass(frozen=True)
class TermValue:
    """FD of a population with the batch in it, and the gradient in the batch."""

    fd: Tensor
    """A float64 scalar. Rounding can make it slightly negative."""
    gradient: Tensor
    """dFD/dfeatures [B, d], in the dtype and on the device of the features, "raw" or "unit" as the term is set."""
    diagnostics: Diagnostics
    classes: ClassValue | None = None
    """The conditional term of the loss, whose scaled gradient is in `gradient`; None without one."""
    fd_debiased: float | None = None
    """FD without the bias of the number of samples (`debiased_value.py`); None where it is not known."""

    @property
    def is_fd(self) -> bool:
        """False for the solver "local", whose value is the quadratic loss."""
        return self.diagnostics.route != "local"

    @property
    def objective(self) -> float:
        """FD, plus the conditional term times its scale."""
        return float(self.fd) + (0.0 if self.classes is None else self.classes.scale * self.classes.value)


@dataclass(frozen=True)
class ClassValue:
    """The conditional term of a loss (`class_term.py`) at one step."""

    value: float
    """An unbiased estimate of the squared distance of the class means; it can be slightly negative."""
    scale: float
    """The factor of the term in the loss, which brings its gradient to the chosen ratio to that of FD."""


@dataclass(frozen=True)
class Influence:
    """How much one row z of the batch counts: by how much the moments move when z moves by dz.

    dm_q = mean dz and dS_q = scatter ((z - m_q) dz^T + dz (z - m_q)^T), to first order in dz.
    """

    mean: float
    scatter: float
    share: float
    """The share of the population that the whole batch has; the gradient "unit" is divided by it."""


class AbstractTerm(ABC):
    """FD of one encoder's population against its reference, as a function of the batch that is about to enter it.

    With `is_unit` the gradient is divided by the share of the batch, so that its size does not depend on the length of
    the population's memory.
    """

    in_own_precision = False
    """True for a term that takes float32 features as they are, False for one that takes all in float64."""
    pending: Any = None
    """The population with the batch of the last `evaluate` in it; None when there is none."""

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
        self.discard()
        for block in features.detach().split(FILL_BLOCK):
            self._fill(block.to(self.device, torch.float64))

    def evaluate(self, features: Tensor) -> TermValue:
        """FD with the batch [B, d] in the population, and its gradient. The batch waits for `commit` or `discard`.

        Raises `InputError` for another shape, `RunError` for features that are not finite.
        """
        self.discard()
        check_rows(features, self.dim)
        dtype = features.dtype if features.dtype.itemsize >= 4 else torch.float32
        value = self._evaluate(features.detach().to(self.device, dtype if self.in_own_precision else torch.float64))
        return replace(value, gradient=value.gradient.to(features.device, dtype))

    def commit(self) -> None:
        """Let the pending batch enter the population; it does nothing where no batch is pending."""
        if self.pending is not None:
            self._enter(self.pending)
        self.discard()

    def discard(self) -> None:
        """Drop the pending batch."""
        self.pending = None

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

    @abstractmethod
    def _enter(self, pending: Any) -> None: ...

    def _value(self, mean: Tensor, trace: Tensor, centred: Tensor, found: Transport, influence: Influence) -> TermValue:
        """FD and its gradient, from m_q [d], tr S_q, the rows z - m_q [B, d], and what the solver found for them.

        dFD/dz = 2 w (m_q - m_p) + 2 w' (z - m_q)(I - T), with w = `influence.mean` and w' = `influence.scatter`.
        """
        target, unit = self.target, influence.share if self.is_unit else 1.0
        fd = (mean - target.mean).square().sum() + trace + found.raised + target.trace - 2 * found.root_trace
        gradient = (centred - found.moved).mul_(2 * influence.scatter / unit)
        gradient.add_((mean - target.mean).to(gradient.dtype), alpha=2 * influence.mean / unit)
        return TermValue(fd, gradient, found.diagnostics)


class AbstractBatchTerm(AbstractTerm):
    """A term whose population is the batch alone: it has no state, and nothing fills it."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        check_state(state, {})

    def _fill(self, rows: Tensor) -> None:
        pass

    def _enter(self, pending: Any) -> None:
        pass


class BatchTerm(AbstractBatchTerm):
    """The batch is the population, with biased moments and no state."""

    def __init__(self, target: Target, is_unit: bool, solver: Solver) -> None:
        super().__init__(target, is_unit)
        self.solver = solver

    def _evaluate(self, rows: Tensor) -> TermValue:
        count = len(rows)
        mean = rows.mean(0)
        centred = rows - mean
        if count <= self.dim:
            found = solve_thin(self.target, centred)
        else:
            found = self.solver(self.target, centred.T @ centred / count, centred)
        influence = Influence(1 / count, 1 / count, share=1.0)
        return self._value(mean, centred.square().sum() / count, centred, found, influence)


def check_rows(features: Tensor, dim: int) -> None:
    """Raise `InputError` unless `features` are [n >= 1, dim] floats, and `RunError` for values that are not finite."""
    if features.ndim != 2 or features.shape[1] != dim or len(features) == 0 or not features.is_floating_point():
        raise InputError(
            f"Features have shape {list(features.shape)} and dtype {features.dtype}; expected [B, {dim}] in floating "
            "point, the width of the reference."
        )
    if not float(torch.linalg.vector_norm(features.detach(), ord=float("inf"))) < MAX_FEATURE:
        raise RunError(
            "The features hold NaN, infinity or values above 1e150; the generator or the encoder has overflowed."
        )


def check_not_stepped(num_steps: int) -> None:
    """Raise `InputError` when a population that is to be filled holds steps already."""
    if num_steps:
        raise InputError("The population already holds steps of training; it can only be filled before the first.")


def check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise `InputError` unless `state` has the names, shapes and dtypes of `expected`."""

    def kind(tensor: Tensor | None) -> str:
        return "absent" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"

    for name in sorted(state.keys() | expected.keys()):
        found, wanted = kind(state.get(name)), kind(expected.get(name))
        if found != wanted:
            raise InputError(
                f"The state of the population does not fit: {name!r} is {found}, expected {wanted}; encoder, "
                "reference, population and solver must be as when it was saved."
            )
