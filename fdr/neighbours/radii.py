"""Squared distances of every feature to its K nearest others in one set, exactly, from each product once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from fdr.neighbours.feature_points import Block, Sweep, raised, strips
from fdr.neighbours.plan import DEFAULT_MEMORY

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def nearest_others(
    features: np.ndarray,
    k: int,
    device: torch.device,
    memory: int = DEFAULT_MEMORY,
    done: Callable[[float], None] = lambda amount: None,
) -> Tensor:
    """The squared distances of every feature to its k nearest others, ascending, float64 [N, k].

    A copy of a feature is an other one, at distance 0. `features` [N, D] are float32 with N > k. The result does not
    depend on `memory`, in bytes, nor on the device. `done` is called with the number of distances that are known.
    """
    search = _Search(Sweep(features, features, device, memory), k)
    slices = search.sweep.slices(len(features))
    for rows in slices:
        search.visit(rows, rows)
        done((rows.stop - rows.start) ** 2)
    for number, rows in enumerate(slices):
        for columns in slices[number + 1 :]:
            search.visit(rows, columns)
            done(2 * (rows.stop - rows.start) * (columns.stop - columns.start))
    search.settle()
    return search.best


class _Search:
    """The k smallest distances `best` [N, k] of the pairs that are settled, and pairs (i, j) that wait.

    `highs` [N, k] are the smallest upper bounds of distances, and `first` [N] bounds the k-th distance, both in the
    unit of the frame.
    """

    def __init__(self, sweep: Sweep, k: int) -> None:
        import torch

        self.sweep, self.k = sweep, k
        self.best, self.highs = (
            torch.full((len(sweep.rows), k), torch.inf, dtype=torch.float64, device=sweep.device) for _ in range(2)
        )
        self.first = self.highs[:, 0].clone()
        self.waiting: list[tuple[Tensor, Tensor, Tensor]] = []

    def limit(self) -> Tensor:
        """[N] upper bounds of the k-th distances."""
        import torch

        settled = self.sweep.scaled(self.best[:, -1]) * (1 + 2.0**-40)
        return torch.minimum(torch.minimum(self.highs[:, -1], self.first), settled)

    def visit(self, rows: slice, columns: slice) -> None:
        """Offer the pairs of one block to the rows, and to the columns unless these are the same features."""
        while True:
            block = self.sweep.block(rows, columns)
            is_own = rows == columns
            if is_own:
                block.low.fill_diagonal_(float("inf"))
                self._find_first_limits(block)
            limit = raised(self.limit(), block.low.dtype)
            near_rows = block.low <= limit[rows, None]
            near_columns = None if is_own else block.low <= limit[columns]
            count = int(near_rows.count_nonzero()) + (0 if near_columns is None else int(near_columns.count_nonzero()))
            if not self.sweep.refine(count, block):
                break
        for i, j in strips(near_rows):
            self._offer(i + rows.start, j + columns.start, *block.bounds(i, j))
        for i, j in () if near_columns is None else strips(near_columns):
            self._offer(j + columns.start, i + rows.start, *block.bounds(i, j))

    def _find_first_limits(self, block: Block) -> None:
        """Bound the k-th distances of the rows of a block by its own pairs, before these are offered."""
        import torch

        if block.low.shape[1] <= self.k:
            return
        j = block.low.topk(self.k, dim=1, largest=False).indices
        i = torch.arange(len(j), device=j.device)[:, None].expand_as(j)
        self.first[block.rows] = block.bounds(i, j)[1].amax(1)

    def _offer(self, first: Tensor, second: Tensor, low: Tensor, high: Tensor) -> None:
        """Let the features `first` [n] meet `second` [n], which may be among their k nearest."""
        _merge(self.highs, first, high)
        self.waiting.append((first.int(), second.int(), low))
        if sum(len(each[0]) for each in self.waiting) > self.sweep.pending:
            kept = self._near()
            self.waiting = [kept]
            if len(kept[0]) > self.sweep.pending // 2:
                self.settle()

    def _near(self) -> tuple[Tensor, Tensor, Tensor]:
        """The waiting pairs that may still be among the k nearest."""
        import torch

        first, second, low = (torch.cat(each) for each in zip(*self.waiting, strict=True))
        is_near = low <= self.limit()[first]
        return first[is_near], second[is_near], low[is_near]

    def settle(self) -> None:
        """Compute the distances of the waiting pairs that may be among the k nearest.

        The k that seem nearest come first: they tell which of the others are still of interest.
        """
        if not self.waiting:
            return
        first, second, low = self._near()
        self.waiting = []
        order, rank = _ranks(first, low)
        for part in (order[rank < self.k], order[rank >= self.k]):
            part = part[low[part] <= self.limit()[first[part]]]
            i, j = first[part].long(), second[part].long()
            _merge(self.best, i, self.sweep.exact(i, j))


def _ranks(lines: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The order by line, then by value; and the rank of every entry within its line, in this order."""
    import torch

    order = values.argsort()
    order = order[lines[order].argsort(stable=True)]
    lines = lines[order]
    return order, torch.arange(len(lines), device=lines.device) - torch.searchsorted(lines, lines)


def _merge(smallest: Tensor, lines: Tensor, values: Tensor) -> None:
    """Merge `values` [n] of the `lines` [n] into the k smallest values [N, k] of every line, which stay ascending."""
    import torch

    k = smallest.shape[1]
    order, rank = _ranks(lines, values)
    order, rank = order[rank < k], rank[rank < k]
    unique, place = lines[order].unique(return_inverse=True)
    fresh = values.new_full((len(unique), k), torch.inf)
    fresh[place, rank] = values[order]
    smallest[unique] = torch.cat([smallest[unique], fresh], 1).sort(1).values[:, :k]
