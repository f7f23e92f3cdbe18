"""A population that is an exponential average over batches.

Symbols: X [B, d] is the batch less the mean of the population before it; e [d] is the mean of X; a is the share of the
population that the batch gets. Mean and covariance of the population become

    m <- m + a e,        S <- (1 - a) S + a X^T X / B - a^2 e e^T.

This equals averaging z z^T and subtracting m m^T at the end, without the digits that such a subtraction loses.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from fdr.loss.terms import AbstractTerm, Influence, TermValue, check_not_stepped, check_state
from fdr.loss.transport import Solver, Target

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Average:
    """The mean of the population, and the weights of the average.

    An average that starts at 0 holds weights that sum to 1 - beta^t after t batches; dividing by that sum removes the
    bias (as Adam does, arXiv 1412.6980). The average is stored divided, so batch t gets the share
    a = (1 - beta) / (1 - beta^t).
    """

    mean: Tensor
    """m_q [d], float64."""
    weight: float = 0.0
    """1 - beta^t, or 1 where the population was filled."""
    num_filled: int = 0
    """Samples that the population was filled with."""
    num_steps: int = 0
    """Batches since the fill."""

    def filled(self, rows: Tensor) -> Entry:
        """Let `rows` [n, d] enter with the same weight as every sample of the fill so far."""
        check_not_stepped(self.num_steps)
        total = self.num_filled + len(rows)
        return self._entry(rows, len(rows) / total, weight=1.0, num_filled=total)

    def stepped(self, rows: Tensor, beta: float) -> Entry:
        """Let a batch [B, d] enter."""
        weight = beta * self.weight + (1 - beta)
        return self._entry(rows, (1 - beta) / weight, weight=weight, num_steps=self.num_steps + 1)

    def _entry(self, rows: Tensor, share: float, **changes: Any) -> Entry:
        anchor = self.mean if self.weight > 0 else rows.mean(0)
        centred = rows - anchor
        shift = centred.mean(0)
        return Entry(share, centred, shift, replace(self, mean=anchor + share * shift, **changes))

    def state(self) -> dict[str, Tensor]:
        """The fields as tensors, for `state_dict`."""
        return {
            "mean": self.mean,
            "weight": torch.tensor(self.weight, dtype=torch.float64),
            "num_filled": torch.tensor(self.num_filled),
            "num_steps": torch.tensor(self.num_steps),
        }

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Average:
        """The average that `state` was taken of."""
        return cls(state["mean"], float(state["weight"]), int(state["num_filled"]), int(state["num_steps"]))


@dataclass(frozen=True)
class Entry:
    """A batch that enters a population."""

    share: float
    """a, the weight of the batch in the population with the batch in it."""
    centred: Tensor
    """X, the batch less the old mean [B, d]."""
    shift: Tensor
    """e, the mean of X over the batch [d]."""
    average: Average
    """The average with the batch in it; its mean is m_q."""

    @property
    def influence(self) -> Influence:
        """How much one row of the batch counts."""
        return Influence(self.share / len(self.centred), self.share / len(self.centred), self.share)

    def recentred(self, dtype: torch.dtype) -> Tensor:
        """The batch less the new mean, z - m_q [B, d]."""
        return self.centred.to(dtype, copy=True).sub_(self.shift.to(dtype), alpha=self.share)


def updated(matrix: Tensor, rows: Tensor, shift: Tensor, share: float) -> Tensor:
    """(1 - a) S + a X^T X / B - a^2 e e^T, for S = `matrix`, X = `rows`, e = `shift` and a = `share`."""
    after = torch.addmm(matrix, rows.T, rows, beta=1 - share, alpha=share / len(rows))
    return after.addr_(shift, shift, alpha=-(share**2))


class AbstractEmaTerm(AbstractTerm):
    """What the two forms of the population share: `moments` holds an `Average` and something for the covariance."""

    moments: Any

    def __init__(self, target: Target, is_unit: bool, beta: float) -> None:
        super().__init__(target, is_unit)
        self.beta = beta

    @abstractmethod
    def _with(self, entry: Entry) -> Any:
        """The moments with a batch in them."""

    def _fill(self, rows: Tensor) -> None:
        self.moments = self._with(self.moments.average.filled(rows))

    def _enter(self, pending: Any) -> None:
        self.moments = pending


@dataclass(frozen=True)
class FullMoments:
    """The average with the biased covariance S_q [d, d] of all batches so far."""

    average: Average
    sigma: Tensor


class EmaTerm(AbstractEmaTerm):
    """Exponentially averaged moments in float64. The state is d + d^2 numbers, however long the window is."""

    def __init__(self, target: Target, is_unit: bool, beta: float, solver: Solver) -> None:
        super().__init__(target, is_unit, beta)
        self.solver = solver
        zeros = torch.zeros_like(target.mean)
        self.moments = FullMoments(Average(zeros), zeros.new_zeros(self.dim, self.dim))

    def state_dict(self) -> dict[str, Tensor]:
        return {"sigma": self.moments.sigma, **self.moments.average.state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        check_state(state, self.state_dict())
        own = {name: value.to(self.device, copy=True) for name, value in state.items()}
        self.moments, self.pending = FullMoments(Average.of(own), own["sigma"]), None

    def _with(self, entry: Entry) -> FullMoments:
        return FullMoments(entry.average, updated(self.moments.sigma, entry.centred, entry.shift, entry.share))

    def _evaluate(self, rows: Tensor) -> TermValue:
        entry = self.moments.average.stepped(rows, self.beta)
        moments = self._with(entry)
        mean, sigma = entry.average.mean, moments.sigma
        centred = rows - mean
        found = self.solver(self.target, sigma, centred)
        value = self._value(mean, sigma.trace(), centred, found, entry.influence)
        self.pending = moments
        return value
