"""The candidates of each query: references that may be among its K nearest, each with bounds of its distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NO_NEIGHBOUR = -1
"""The row number in a place that no reference has taken."""


class Candidates:
    """For each of Q queries, the C references with the smallest lower bounds.

    `rows`, `low`, `high` and `squared` are [Q, C]: row numbers, bounds of the distance, and the squared distance once
    it is computed. `limit` [Q] is the K-th smallest upper bound: a reference with a lower bound above it cannot be
    among the K nearest and need not be offered. `lost` [Q] is the smallest lower bound of all references that might be
    near enough and found no place.
    """

    def __init__(self, num_queries: int, capacity: int, top_k: int, device: torch.device) -> None:
        import torch

        shape = num_queries, capacity
        self.capacity, self.top_k = capacity, top_k
        self.rows = torch.full(shape, NO_NEIGHBOUR, dtype=torch.int64, device=device)
        self.low, self.high, self.squared = (
            torch.full(shape, torch.inf, dtype=torch.float64, device=device) for _ in range(3)
        )
        self.lost, self.limit = (
            torch.full((num_queries,), torch.inf, dtype=torch.float64, device=device) for _ in range(2)
        )

    def offer(self, queries: Tensor, rows: Tensor, low: Tensor, high: Tensor, others: Tensor) -> None:
        """Offer the references `rows` [q, m] to the distinct `queries` [q].

        `others` [q] is a lower bound of the distances of references that may be near and are not offered. A row with
        infinite bounds takes a place only while there are free ones.
        """
        import torch

        low = torch.cat([self.low[queries], low], 1)
        low, order = low.sort(dim=1, stable=True)
        kept = order[:, : self.capacity]
        self.low[queries] = low[:, : self.capacity]
        self.rows[queries] = torch.cat([self.rows[queries], rows], 1).gather(1, kept)
        self.high[queries] = torch.cat([self.high[queries], high], 1).gather(1, kept)
        self.lost[queries] = torch.minimum(self.lost[queries], torch.minimum(low[:, self.capacity], others))
        self.tighten(queries)

    def refine(self, places: Tensor, distances: Tensor, squared: Tensor) -> None:
        """Enter the computed distances [n] of the candidates at the flat `places` [n]."""
        self.low.view(-1)[places] = distances
        self.high.view(-1)[places] = distances
        self.squared.view(-1)[places] = squared
        self.tighten((places // self.capacity).unique())

    def tighten(self, queries: Tensor) -> None:
        """Update the limits of `queries`: K references are at least as near as the K-th smallest upper bound."""
        nearest = self.high[queries].topk(self.top_k, dim=1, largest=False)
        self.limit[queries] = nearest.values.amax(1)
