"""Which points lie in which balls, exactly: the test behind precision, recall, density and coverage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fdr.neighbours.feature_points import Block, Sweep, raised, strips
from fdr.neighbours.plan import DEFAULT_MEMORY

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Balls:
    """Balls around all rows or all columns of a sweep, and what is asked of them."""

    squared_radii: Tensor
    """float64 [n]"""
    around_rows: bool
    is_open: bool = False
    """True if a point on the border lies outside."""
    is_counted: bool = False
    """True if numbers are wanted; False if it is enough to know which points lie in any ball."""


@dataclass(frozen=True)
class Hits:
    """The result of one set of balls."""

    by_point: Tensor
    """int64 [m]: in how many balls each point lies; 0 or more than 0 if the balls are not counted."""
    by_ball: Tensor
    """int64 [n]: how many points each ball holds, if they are counted."""
    index_sum: Tensor
    """int64 [n]: the sum of the numbers of these points: a ball with one point names it."""


def ball_hits(
    rows: np.ndarray,
    columns: np.ndarray,
    balls: Sequence[Balls],
    device: torch.device,
    memory: int = DEFAULT_MEMORY,
    done: Callable[[float], None] = lambda amount: None,
) -> list[Hits]:
    """The points of one set in the balls around the other, for each of `balls`; every product is formed once.

    `rows` [N, D] and `columns` [M, D] are float32. The result does not depend on `memory`, in bytes, nor on the device.
    `done` is called with the number of distances that are known.
    """
    test = _Test(Sweep(rows, columns, device, memory), balls)
    for part in test.sweep.slices(len(rows)):
        for other in test.sweep.slices(len(columns)):
            test.visit(part, other)
            done((part.stop - part.start) * (other.stop - other.start))
    test.settle()
    return test.hits


class _Test:
    """The hits so far, and the pairs (row, column) that wait for their exact distance."""

    def __init__(self, sweep: Sweep, balls: Sequence[Balls]) -> None:
        import torch

        self.sweep, self.balls = sweep, balls
        sizes = len(sweep.rows), len(sweep.columns)
        self.hits = []
        for each in balls:
            around, others = sizes if each.around_rows else sizes[::-1]
            counts = (torch.zeros(size, dtype=torch.int64, device=sweep.device) for size in (others, around, around))
            self.hits.append(Hits(*counts))
        self.reach = [self._reach(True), self._reach(False)]
        self.waiting: list[tuple[Tensor, ...]] = []

    def _reach(self, around_rows: bool) -> Tensor | None:
        """The largest squared radii around the rows or the columns, in the unit of the frame."""
        import torch

        radii = [each.squared_radii for each in self.balls if each.around_rows == around_rows]
        return self.sweep.scaled(torch.stack(radii).amax(0)) * (1 + 2.0**-40) if radii else None

    def visit(self, rows: slice, columns: slice) -> None:
        """Find the pairs of one block that lie in a ball, or may."""
        while True:
            block = self.sweep.block(rows, columns)
            near = self._near(block)
            is_much = self.sweep.is_much(int(near.count_nonzero()), block)
            if not (is_much and self.sweep.refine(self._num_doubtful(block), block)):
                break
        for i, j in strips(near):
            self._judge(block, i, j)

    def _near(self, block: Block) -> Tensor:
        """bool [n, m]: pairs that may lie in a ball."""
        near = None
        for reach, part, at in zip(self.reach, block[:2], ((slice(None), None), (None, slice(None))), strict=True):
            if reach is not None:
                here = block.low <= raised(reach[part], block.low.dtype)[at]
                near = here if near is None else near.logical_or_(here)
        assert near is not None
        return near

    def _num_doubtful(self, block: Block) -> int:
        """The number of pairs of which the bounds do not tell whether they lie in a ball."""
        high = block.low + block.x.width[:, None] + block.y.width
        doubtful = 0
        for each in self.balls:
            part, at = (block.rows, (slice(None), None)) if each.around_rows else (block.columns, (None, slice(None)))
            radii = self.sweep.scaled(each.squared_radii[part])[at]
            doubtful += int(((block.low <= radii) & (high > radii)).count_nonzero())
        return doubtful

    def _judge(self, block: Block, i: Tensor, j: Tensor) -> None:
        """Count the pairs at the places i, j of a block whose bounds tell enough; let the others wait."""
        low, high = block.bounds(i, j)
        i, j = i + block.rows.start, j + block.columns.start
        waits = None
        for each, hits in zip(self.balls, self.hits, strict=True):
            around, other = (i, j) if each.around_rows else (j, i)
            radii = self.sweep.scaled(each.squared_radii)[around]
            is_sure = high < radii * (1 - 2.0**-40)
            _count(each, hits, around[is_sure], other[is_sure])
            is_doubtful = ~is_sure & (low <= radii * (1 + 2.0**-40))
            waits = is_doubtful if waits is None else waits | is_doubtful
        assert waits is not None
        self._wait(i[waits], j[waits], low[waits], high[waits])

    def _wait(self, i: Tensor, j: Tensor, low: Tensor, high: Tensor) -> None:
        self.waiting.append((i.int(), j.int(), low, high))
        if sum(len(each[0]) for each in self.waiting) > self.sweep.pending:
            self.settle()

    def settle(self) -> None:
        """Compute the distances of all pairs that wait, unless they no longer matter, and count them."""
        import torch

        if not self.waiting:
            return
        i, j, low, high = (torch.cat(each) for each in zip(*self.waiting, strict=True))
        self.waiting, i, j = [], i.long(), j.long()
        asked = [self._asked(each, hits, i, j, low, high) for each, hits in zip(self.balls, self.hits, strict=True)]
        is_asked = torch.stack(asked).any(0)
        squared = torch.full((len(i),), torch.inf, dtype=torch.float64, device=self.sweep.device)
        squared[is_asked] = self.sweep.exact(i[is_asked], j[is_asked])
        for each, hits, mine in zip(self.balls, self.hits, asked, strict=True):
            around, other = (i, j) if each.around_rows else (j, i)
            radii = each.squared_radii[around]
            is_in = mine & ((squared < radii) if each.is_open else (squared <= radii))
            _count(each, hits, around[is_in], other[is_in])

    def _asked(self, balls: Balls, hits: Hits, i: Tensor, j: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """bool [n]: the pairs that wait because of these balls, and whose answer still matters."""
        around, other = (i, j) if balls.around_rows else (j, i)
        radii = self.sweep.scaled(balls.squared_radii)[around]
        is_doubtful = (high >= radii * (1 - 2.0**-40)) & (low <= radii * (1 + 2.0**-40))
        return is_doubtful if balls.is_counted else is_doubtful & (hits.by_point[other] == 0)


def _count(balls: Balls, hits: Hits, around: Tensor, other: Tensor) -> None:
    """Note that the balls `around` [n] hold the points `other` [n]."""
    if not balls.is_counted:
        hits.by_point[other] = 1
        return
    ones = around.new_ones(len(around))
    hits.by_point.index_add_(0, other, ones)
    hits.by_ball.index_add_(0, around, ones)
    hits.index_sum.index_add_(0, around, other)
