"""A population that is an exponential average over batches.

Symbols: X [B, d] is the batch less the mean of the population before it; e [d] is the mean of X; a is the share of the
population that the batch gets. Mean and covariance of the population become

    m <- m + a e,        S <- (1 - a) S + a X^T X / B - a^2 e e^T.

This equals averaging z z^T and subtracting m m^T at the end, without the digits that such a subtraction loses.

The batch may have one share in the population whose FD and gradient are computed, and another in the one that is kept:
see `batch_share`. W = sum of the squared weights of all samples says how many samples the population is worth: 1 / W.
It becomes (1 - a)^2 W + a^2 / B.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from fdr.loss.debiased_value import Weights, excess_of
from fdr.loss.lag import Carry
from fdr.loss.options import EmaPopulation
from fdr.loss.terms import AbstractTerm, Influence, TermValue, check_not_stepped, check_rows, check_state
from fdr.loss.transport import Solver, Target, Transport

if TYPE_CHECKING:
    from torch import Tensor


def batch_share(ratio: float) -> float:
    """The share a of a batch at which the gradient's bias vanishes to first order, given K = `ratio` = B W.

    With isotropic features at the minimum, the mean gradient is proportional to w_0 - 3/4 W', with w_0 = a / B the
    weight of a sample of the batch, and W' = (1 - a)^2 W + a^2 / B. w_0 is what a sample itself does to S_q, which
    shrinks the generator; 3/4 W' is by how much E[M^{-1/2}] exceeds its true value, which expands it. They cancel at

        a = 1.5 K / (1 + 1.5 K + sqrt(1 + 0.75 K)),

    the smaller root of a = 3/4 [(1 - a)^2 K + a^2], written without cancellation. docs/populations.md derives it.
    """
    return 1.5 * ratio / (1 + 1.5 * ratio + math.sqrt(1 + 0.75 * ratio))


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
    squares: float = 0.0
    """W, the sum of the squared weights of all samples; 0 while there are none.

    NaN in a state that was saved before this field existed, until the next batch enters (`_squares_before`).
    """

    def filled(self, rows: Tensor) -> Entry:
        """Let `rows` [n, d] enter with the same weight as every sample of the fill so far."""
        check_not_stepped(self.num_steps)
        total = self.num_filled + len(rows)
        squares = 1 / total
        return self._entry(rows, len(rows) / total, None, weight=1.0, num_filled=total, squares=squares)

    def stepped(self, rows: Tensor, beta: float, is_debiased: bool = False) -> Entry:
        """Let a batch [B, d] enter; `is_debiased` gives it the share `batch_share` in the gradient's population.

        That share is never more than the one it is kept with. It would be more while a fill prevails that is worth
        fewer samples than the window: the basis of the fast solver would then not outlast a step.
        """
        weight, count = beta * self.weight + (1 - beta), len(rows)
        kept, before = (1 - beta) / weight, self._squares_before(count, beta)
        share = min(batch_share(count * before), kept) if is_debiased and self.weight > 0 else kept
        squares = mixed(before, kept, count)
        own = squares if share == kept else mixed(before, share, count)
        return self._entry(rows, kept, (share, own), weight=weight, num_steps=self.num_steps + 1, squares=squares)

    def _squares_before(self, count: int, beta: float) -> float:
        """W before a batch of `count`; where it is unknown, as if all batches had been of this size."""
        if not math.isnan(self.squares):
            return self.squares
        left = beta**self.num_steps  # the weight of the fill, or of the start at 0
        steps = (1 - beta) / (1 + beta) * (1 - left**2) / count
        return left**2 / self.num_filled + steps if self.num_filled else steps / self.weight**2

    def _entry(self, rows: Tensor, kept: float, seen: tuple[float, float] | None, **changes: Any) -> Entry:
        """`seen` is the share of the batch in the population of the gradient, and its W; None where it is `kept`'s."""
        anchor = self.mean if self.weight > 0 else rows.mean(0)
        centred = rows - anchor
        shift = centred.mean(0)
        average = replace(self, mean=anchor + kept * shift, **changes)
        share, squares = seen or (kept, average.squares)
        mean = average.mean if share == kept else anchor + share * shift
        return Entry(share, kept, centred, shift, mean, squares, average)

    def state(self) -> dict[str, Tensor]:
        """The fields as tensors, for `state_dict`."""
        return {
            "mean": self.mean,
            "weight": torch.tensor(self.weight, dtype=torch.float64),
            "num_filled": torch.tensor(self.num_filled),
            "num_steps": torch.tensor(self.num_steps),
            "squares": torch.tensor(self.squares, dtype=torch.float64),
        }

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Average:
        """The average that `state` was taken of."""
        counts = int(state["num_filled"]), int(state["num_steps"])
        return cls(state["mean"], float(state["weight"]), *counts, float(state["squares"]))


def with_squares(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with an unknown W where it was saved before W was."""
    return {"squares": torch.tensor(math.nan, dtype=torch.float64), **state}


def mixed(squares: float, share: float, count: int) -> float:
    """W after a batch of `count` samples has entered with `share`."""
    return (1 - share) ** 2 * squares + share**2 / count


@dataclass(frozen=True)
class Entry:
    """A batch that enters a population."""

    share: float
    """a, the weight of the batch in the population whose FD and gradient are computed."""
    kept: float
    """b, the weight of the batch in the population that is kept; it is a for the batch weight "paper"."""
    centred: Tensor
    """X, the batch less the old mean [B, d]."""
    shift: Tensor
    """e, the mean of X over the batch [d]."""
    mean: Tensor
    """m_q [d], the mean of the population whose FD and gradient are computed."""
    squares: float
    """W of that population."""
    average: Average
    """The average that is kept."""

    @property
    def influence(self) -> Influence:
        """How much one row of the batch counts in the population that is kept."""
        return Influence(self.kept / len(self.centred), self.kept / len(self.centred), self.kept)

    def recentred(self, dtype: torch.dtype) -> Tensor:
        """The batch less the new mean, z - m_q [B, d]."""
        return self.centred.to(dtype, copy=True).sub_(self.shift.to(dtype), alpha=self.share)

    def reweighted(self, before: Tensor, after: Tensor, shift: Tensor) -> Tensor:
        """The covariance that is kept [n, n], made of `after`, which holds the batch with share a, in its memory.

        `before` is without the batch. All three may be in another basis, in which e is `shift` [n]. With b for a,

            S_b = S + (b / a) (S_a - S) + b (a - b) e e^T,

        which costs no second product with the batch.
        """
        if self.kept == self.share:
            return after
        torch.lerp(before, after, self.kept / self.share, out=after)
        return after.addr_(shift, shift, alpha=self.kept * (self.share - self.kept))


def updated(matrix: Tensor, rows: Tensor, shift: Tensor, share: float) -> Tensor:
    """(1 - a) S + a X^T X / B - a^2 e e^T, for S = `matrix`, X = `rows`, e = `shift` and a = `share`."""
    after = torch.addmm(matrix, rows.T, rows, beta=1 - share, alpha=share / len(rows))
    return after.addr_(shift, shift, alpha=-(share**2))


class AbstractEmaTerm(AbstractTerm):
    """What the two forms of the population share: `moments` holds an `Average` and something for the covariance."""

    moments: Any

    def __init__(self, target: Target, is_unit: bool, population: EmaPopulation) -> None:
        super().__init__(target, is_unit)
        self.beta, self.is_debiased = population.beta, population.batch_weight == "debiased"
        self.lag_correction = population.lag_correction

    def stepped(self, rows: Tensor) -> Entry:
        """Let a batch [B, d] enter the average."""
        return self.moments.average.stepped(rows, self.beta, self.is_debiased)

    @property
    @abstractmethod
    def rank(self) -> int:
        """The rank r of the reference's covariance."""

    @abstractmethod
    def _with(self, entry: Entry) -> Any:
        """The moments with a batch in them."""

    @abstractmethod
    def _carried(self, carry: Carry) -> Any:
        """The moments of the history at the present weights."""

    def evaluate_carried(self, features: Tensor, previous: Tensor) -> TermValue:
        """`evaluate`, with a history that is first carried along, as `lag.py` says.

        `previous` [B, d] are the features of the same noise under the weights of the step before.
        """
        check_rows(previous, self.dim)
        held = self.moments
        if held.average.weight > 0:
            rows, before = (self._turned(part.detach().to(self.device, torch.float64)) for part in (features, previous))
            self.moments = self._carried(Carry.of(held.average.mean, rows, before))
        try:
            return self.evaluate(features)
        finally:
            self.moments = held

    def _turned(self, rows: Tensor) -> Tensor:
        """Rows [B, d] in the coordinates of the moments: the features as they are, unless a term says otherwise."""
        return rows

    def _fill(self, rows: Tensor) -> None:
        self.moments = self._with(self.moments.average.filled(self._turned(rows)))

    def _enter(self, pending: Any) -> None:
        self.moments = pending

    def _value_of(self, entry: Entry, trace: Tensor, centred: Tensor, found: Transport, excess: float) -> TermValue:
        """FD and its gradient, from tr S_q, the rows z - m_q [B, d], and what the solver found for them.

        The debiased gradient is that of the unbiased covariance S_q / (1 - W), so its map is sqrt(1 - W) T. `excess`
        is that of `debiased_value.excess_of`, NaN where it is not known.
        """
        if self.is_debiased:
            found.moved.mul_(math.sqrt(max(1 - entry.squares, 0)))
        value = self._value(entry.mean, trace, centred, found, entry.influence)
        if math.isnan(excess):
            return value
        return replace(value, fd_debiased=float(value.fd - 2 * found.root_trace * excess * entry.squares))

    def _excess(self, entry: Entry, found: Transport) -> float:
        """`debiased_value.excess_of` the population; NaN without eigenvalues, or where the history is carried."""
        if found.roots is None or self.lag_correction:
            return math.nan
        average = entry.average
        weights = Weights.of(entry.share, entry.squares, self.beta, average.num_steps, average.num_filled)
        return excess_of(found.roots, weights, self.rank)


@dataclass(frozen=True)
class FullMoments:
    """The average with the biased covariance S_q [d, d] of all batches so far."""

    average: Average
    sigma: Tensor


class EmaTerm(AbstractEmaTerm):
    """Exponentially averaged moments in float64. The state is d + d^2 numbers, however long the window is."""

    def __init__(self, target: Target, is_unit: bool, population: EmaPopulation, solver: Solver) -> None:
        super().__init__(target, is_unit, population)
        self.solver = solver
        zeros = torch.zeros_like(target.mean)
        self.moments = FullMoments(Average(zeros), zeros.new_zeros(self.dim, self.dim))

    @property
    def rank(self) -> int:
        return self.target.factor.shape[1]

    def state_dict(self) -> dict[str, Tensor]:
        return {"sigma": self.moments.sigma, **self.moments.average.state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        state = with_squares(state)
        check_state(state, self.state_dict())
        own = {name: value.to(self.device, copy=True) for name, value in state.items()}
        self.moments, self.pending = FullMoments(Average.of(own), own["sigma"]), None

    def _with(self, entry: Entry) -> FullMoments:
        return FullMoments(entry.average, updated(self.moments.sigma, entry.centred, entry.shift, entry.share))

    def _carried(self, carry: Carry) -> FullMoments:
        return FullMoments(replace(self.moments.average, mean=carry.mean), carry.moved(self.moments.sigma))

    def _evaluate(self, rows: Tensor) -> TermValue:
        entry, before = self.stepped(rows), self.moments.sigma
        sigma = updated(before, entry.centred, entry.shift, entry.share)
        centred = rows - entry.mean
        found = self.solver(self.target, sigma, centred)
        value = self._value_of(entry, sigma.trace(), centred, found, self._excess(entry, found))
        self.pending = FullMoments(entry.average, entry.reweighted(before, sigma, entry.shift))
        return value
