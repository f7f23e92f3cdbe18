"""A population of the newest features: they are kept in a ring buffer, with exact running sums over it.

Symbols: x [d] is a row of the ring less a fixed origin o [d]; n is the number of rows in the ring. The sums

    s1 = sum of x [d],        s2 = sum of x x^T [d, d]

give the mean m_q = o + s1 / n and the unbiased covariance S_q = (s2 - s1 s1^T / n) / (n - 1). They change by the rows
that enter and the rows that leave, so a step costs B d^2, not n d^2. Adding and subtracting alone would let rounding
errors pile up. So a second pair of sums covers only the rows written since position 0 of the ring was last written.
When the end of the ring is reached, these are all the rows in it, summed without any subtraction, and the second pair
replaces the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fdr.errors import InputError
from fdr.loss.terms import FILL_BLOCK, AbstractTerm, Influence, TermValue, check_not_stepped, check_state
from fdr.loss.transport import Solver, Target

if TYPE_CHECKING:
    from torch import Tensor

LOST_DIGITS = 1e6
"""Sums that were once this many times larger than now are computed again from the rows, as subtraction lost digits.

Raising it computes them again less often, with more digits lost: 1e6 leaves about ten of float64's sixteen.
"""


@dataclass(frozen=True)
class RowSums:
    """Sums over rows x, in float64."""

    first: Tensor
    """s1 [d]."""
    second: Tensor
    """s2 [d, d]."""

    def plus(self, rows: Tensor, sign: int = 1) -> RowSums:
        """The sums with `rows` [n, d] added, or with `sign` -1 subtracted; the rows are about the origin already."""
        return RowSums(
            torch.add(self.first, rows.sum(0), alpha=sign),
            torch.addmm(self.second, rows.T, rows, alpha=sign),
        )


@dataclass(frozen=True)
class QueueSums:
    """Sums over the ring, and where it stands."""

    all: RowSums
    """Over all rows in the ring."""
    turn: RowSums
    """Over the rows written since position 0 was last written. At the end of the ring they replace `all`."""
    count: int
    """n, the number of rows in the ring."""
    position: int
    """Where the next row goes."""
    steps: int = 0
    """Steps of training so far."""
    peak: float = 0.0
    """The largest trace of the s2 of `all` since it was last computed without subtraction."""

    def moments(self, origin: Tensor) -> tuple[Tensor, Tensor]:
        """m_q [d] and S_q [d, d]."""
        shift, scale = self.all.first / self.count, 1 / (self.count - 1)
        sigma = self.all.second * scale
        return origin + shift, sigma.addr_(shift, shift, alpha=-self.count * scale)


class QueueTerm(AbstractTerm):
    """A population of the newest `size` features, in float32; its unbiased moments (n - 1) come from float64 sums.

    It works from two rows on: until the ring is full, the moments are those of the rows there are.
    """

    def __init__(self, target: Target, is_unit: bool, size: int, solver: Solver) -> None:
        super().__init__(target, is_unit)
        self.solver, self.size = solver, size
        self.ring = torch.zeros(size, self.dim, dtype=torch.float32, device=self.device)
        self.origin = torch.zeros_like(target.mean)
        empty = RowSums(self.origin, self.origin.new_zeros(self.dim, self.dim))
        self.sums = QueueSums(empty, empty, 0, 0)

    def state_dict(self) -> dict[str, Tensor]:
        sums = self.sums
        return {
            "ring": self.ring,
            "origin": self.origin,
            "peak": torch.tensor(sums.peak, dtype=torch.float64),
            "all_first": sums.all.first,
            "all_second": sums.all.second,
            "turn_first": sums.turn.first,
            "turn_second": sums.turn.second,
            "count": torch.tensor(sums.count),
            "position": torch.tensor(sums.position),
            "steps": torch.tensor(sums.steps),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        check_state(state, self.state_dict())
        own = {name: value.to(self.device, copy=True) for name, value in state.items()}
        count, position, steps = (int(state[name]) for name in ("count", "position", "steps"))
        if not (0 <= count <= self.size and 0 <= position < self.size):
            raise InputError(f"The state of the queue holds {count} rows, the next at {position}, of {self.size}.")
        everything = RowSums(own["all_first"], own["all_second"])
        turn = RowSums(own["turn_first"], own["turn_second"])
        self.ring, self.origin, self.pending = own["ring"], own["origin"], None
        self.sums = QueueSums(everything, turn, count, position, steps, float(state["peak"]))

    def _fill(self, rows: Tensor) -> None:
        check_not_stepped(self.sums.steps)
        for part in rows.split(self.size):
            self._set_origin(part)
            stored = part.float()
            self._enter((stored, self._after(stored.double(), steps=0)))

    def _evaluate(self, rows: Tensor) -> TermValue:
        if len(rows) > self.size:
            raise InputError(f"A batch of {len(rows)} does not fit into a queue of {self.size}; make the queue longer.")
        self._set_origin(rows)
        steps = self.sums.steps + 1
        sums = self._after(rows, steps)
        if sums.count < 2:
            raise InputError("A queue needs two samples for a covariance; fill it, or use a larger batch.")
        mean, sigma = sums.moments(self.origin)
        centred = rows - mean
        found = self.solver(self.target, sigma, centred)
        influence = Influence(1 / sums.count, 1 / (sums.count - 1), share=len(rows) / sums.count)
        value = self._value(mean, sigma.trace(), centred, found, influence)
        stored = rows.float()  # the ring is float32, and its sums have to be those of the rows as they are stored
        is_same = torch.equal(stored.double(), rows)
        self.pending = stored, sums if is_same else self._after(stored.double(), steps)
        return value

    def _set_origin(self, rows: Tensor) -> None:
        """Take the mean of the first rows ever as the origin of all sums, so that a large mean costs no digits."""
        if self.sums.count == 0:
            self.origin = rows.mean(0)

    def _after(self, rows: Tensor, steps: int) -> QueueSums:
        """The sums after `rows` [B, d] have replaced the oldest rows; they are cut where the end of the ring falls."""
        sums, start = self.sums, 0
        while start < len(rows):
            part = rows[start : start + self.size - sums.position]
            sums = self._advanced(sums, part, steps)
            start += len(part)
        if sums.peak > LOST_DIGITS * float(sums.all.second.trace()):
            return self._summed_again(sums, rows)
        return sums

    def _advanced(self, sums: QueueSums, part: Tensor, steps: int) -> QueueSums:
        """The sums after the rows of `part`, which do not go beyond the end of the ring."""
        stop = sums.position + len(part)
        centred = part - self.origin
        if stop == self.size:
            whole = sums.turn.plus(centred)
            empty = RowSums(torch.zeros_like(whole.first), torch.zeros_like(whole.second))
            return QueueSums(whole, empty, self.size, 0, steps, float(whole.second.trace()))
        evicted = self.ring[sums.position : min(stop, sums.count)].double() - self.origin
        everything = sums.all.plus(centred).plus(evicted, -1)
        peak = max(sums.peak, float(everything.second.trace()))
        return QueueSums(everything, sums.turn.plus(centred), max(sums.count, stop), stop, steps, peak)

    def _summed_again(self, sums: QueueSums, rows: Tensor) -> QueueSums:
        """`sums`, computed again from the rows: once a huge outlier has left, the running sums are rounding error."""
        kept = torch.ones(sums.count, dtype=torch.bool, device=self.device)
        kept[self._places(len(rows))] = False
        everything = RowSums(torch.zeros_like(sums.all.first), torch.zeros_like(sums.all.second))
        for part in (*self.ring[: sums.count][kept].split(FILL_BLOCK), rows):
            everything = everything.plus(part.double() - self.origin)
        return dataclasses.replace(sums, all=everything, peak=float(everything.second.trace()))

    def _places(self, num_rows: int) -> Tensor:
        """The places of the ring that the next rows take [num_rows]."""
        return (torch.arange(num_rows, device=self.device) + self.sums.position) % self.size

    def _enter(self, pending: tuple[Tensor, QueueSums]) -> None:
        rows, sums = pending
        self.ring[self._places(len(rows))] = rows
        self.sums = sums
