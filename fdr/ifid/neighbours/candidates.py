"""The candidates of each query: references that may be among its K nearest, each with bounds of its distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NO_ROW = -1
"""The row number in a place that no reference has taken."""
CANDIDATE_BYTES = 3 * 8
"""Memory of one candidate: its row and both bounds."""


class Candidates:
    """For each of Q queries, the C references with the smallest lower bounds.

    `rows`, `low`, `high` and `squared` are [Q, C]: row numbers, bounds of the distance, and the squared distance once
    it is computed. `limit` [Q] is the K-th smallest upper bound: a reference with a lower bound above it cannot be
    among the K nearest and need not be offered. `lost` [Q] is the smallest lower bound of all references that were
    offered and found no place.
    """

    def __init__(self, num_queries: int, capacity: int, top_k: int, device: torch.device) -> None:
        import torch

        shape = num_queries, capacity
        self.top_k = top_k
        self.rows = torch.full(shape, NO_ROW, dtype=torch.int64, device=device)
        self.low = torch.full(shape, torch.inf, dtype=torch.float64, device=device)
        self.high = torch.full(shape, torch.inf, dtype=torch.float64, device=device)
        self.squared = torch.full(shape, torch.inf, dtype=torch.float64, device=device)
        self.lost = torch.full((num_queries,), torch.inf, dtype=torch.float64, device=device)
        self.limit = torch.full((num_queries,), torch.inf, dtype=torch.float64, device=device)

    @property
    def capacity(self) -> int:
        return self.rows.shape[1]

    def offer(self, queries: Tensor, rows: Tensor, low: Tensor, high: Tensor) -> None:
        """Offer the references `rows` [q, m] to the distinct `queries` [q]; `NO_ROW` must have bounds of infinity."""
        import torch

        all_low = torch.cat([self.low[queries], low], 1)
        order = all_low.argsort(dim=1, stable=True)
        kept = order[:, : self.capacity]
        self.low[queries] = all_low.gather(1, kept)
        self.rows[queries] = torch.cat([self.rows[queries], rows], 1).gather(1, kept)
        all_high = torch.cat([self.high[queries], high], 1).gather(1, kept)
        self.high[queries] = all_high
        if all_low.shape[1] > self.capacity:
            first_out = all_low.gather(1, order[:, self.capacity : self.capacity + 1])[:, 0]
            self.lost[queries] = torch.minimum(self.lost[queries], first_out)
        self.limit[queries] = self._limits(all_high)

    def lose(self, queries: slice, low: Tensor) -> None:
        """Record that references with lower bounds of at least `low` [q] were left out although they might be near."""
        import torch

        self.lost[queries] = torch.minimum(self.lost[queries], low)

    def refine(self, places: Tensor, distances: Tensor, squared: Tensor) -> None:
        """Enter the computed distances [n] of the candidates at the flat `places` [n]."""
        self.low.view(-1)[places] = distances
        self.high.view(-1)[places] = distances
        self.squared.view(-1)[places] = squared

    def tighten(self, queries: Tensor) -> None:
        """Update the limits of `queries` after `refine`."""
        self.limit[queries] = self._limits(self.high[queries])

    def _limits(self, high: Tensor) -> Tensor:
        """The K-th smallest upper bound of each row; K references are at least as near as that."""
        if high.shape[1] < self.top_k:
            return high.new_full((len(high),), float("inf"))
        return high.topk(self.top_k, dim=1, largest=False).values.amax(1)


def grouped(queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Group ascending `queries` [n] by value: the distinct values, and for every item its group and its place in it."""
    import torch

    unique, counts = torch.unique_consecutive(queries, return_counts=True)
    first = counts.cumsum(0) - counts
    line = torch.repeat_interleave(torch.arange(len(unique), device=queries.device), counts)
    return unique, line, torch.arange(len(queries), device=queries.device) - first[line]
