"""The nearest of some centres for every point, exactly, where every centre has a weight of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from fdr.neighbours.feature_points import Block, Sweep, raised, strips
from fdr.neighbours.plan import DEFAULT_MEMORY

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def nearest_centre(
    points: np.ndarray,
    centres: np.ndarray,
    device: torch.device,
    weights: Tensor | None = None,
    memory: int = DEFAULT_MEMORY,
    done: Callable[[float], None] = lambda amount: None,
) -> tuple[Tensor, Tensor]:
    """For every point, the least weight * squared distance to any centre, float64 [N], and that centre, int64 [N].

    `points` [N, D] and `centres` [M, D] are float32; `weights` [M] are float64, above 0, and 1 if left out. The first
    of equally near centres is taken. The result does not depend on `memory`, in bytes, nor on the device. `done` is
    called with the number of distances that are known.
    """
    import torch

    if weights is None:
        weights = torch.ones(len(centres), dtype=torch.float64, device=device)
    search = _Search(Sweep(centres, points, device, memory), weights)
    for part in search.sweep.slices(len(centres)):
        for other in search.sweep.slices(len(points)):
            search.visit(part, other)
            done((part.stop - part.start) * (other.stop - other.start))
    search.settle()
    return search.best, search.centre


class _Search:
    """The best of the settled pairs for every point, and pairs (centre, point) that wait.

    `limit` [N] is an upper bound of the best, in the unit of the frame.
    """

    def __init__(self, sweep: Sweep, weights: Tensor) -> None:
        import torch

        self.sweep, self.weights = sweep, weights
        self.best = torch.full((len(sweep.columns),), torch.inf, dtype=torch.float64, device=sweep.device)
        self.centre = torch.full((len(sweep.columns),), len(sweep.rows), dtype=torch.int64, device=sweep.device)
        self.limit = self.best.clone()
        self.waiting: list[tuple[Tensor, Tensor, Tensor]] = []

    def visit(self, rows: slice, columns: slice) -> None:
        """Offer the centres of one block to its points."""
        while True:
            block = self.sweep.block(rows, columns)
            # weights that are rounded down keep the products lower bounds
            weights = (self.weights[rows] * (1 - 2.0**-22)).to(block.low.dtype)
            product = block.low.clamp(min=0).mul_(weights[:, None])
            self._lower_limits(block, product)
            near = product <= raised(self.limit[columns], product.dtype)
            if not self.sweep.refine(int(near.count_nonzero()), block):
                break
        for i, j in strips(near):
            self.waiting.append(((i + rows.start).int(), (j + columns.start).int(), product[i, j].double()))
            if sum(len(each[0]) for each in self.waiting) > self.sweep.pending:
                self.settle()

    def _lower_limits(self, block: Block, product: Tensor) -> None:
        """Bound the best of every point by the centre that seems best in this block."""
        import torch

        i = product.argmin(0)
        high = block.bounds(i, torch.arange(len(i), device=i.device))[1]
        high *= self.weights[block.rows][i] * (1 + 2.0**-40)
        self.limit[block.columns] = torch.minimum(self.limit[block.columns], high)

    def settle(self) -> None:
        """Compute the distances of all pairs that may be the best."""
        import torch

        if not self.waiting:
            return
        i, j, low = (torch.cat(each) for each in zip(*self.waiting, strict=True))
        self.waiting, is_near = [], low <= self.limit[j] * (1 + 2.0**-40)
        i, j = i[is_near].long(), j[is_near].long()
        value = self.sweep.exact(i, j) * self.weights[i]
        best = self.best.scatter_reduce(0, j, value, "amin")
        centre = self.centre.masked_fill(best < self.best, len(self.sweep.rows))
        is_best = value == best[j]
        self.centre = centre.scatter_reduce(0, j[is_best], i[is_best], "amin")
        self.best = best
