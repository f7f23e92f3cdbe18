"""The queries of one block: their stored latents, the points that matrix products take, and their exact distances."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdr.ifid.neighbours.exact_distances import pair_distances, squared_norms
from fdr.ifid.neighbours.latent_rows import LatentRows, read_between
from fdr.ifid.neighbours.pair_rules import PairRules
from fdr.ifid.neighbours.plan import SearchPlan
from fdr.ifid.neighbours.products import Arithmetic, Points
from fdr.ifid.neighbours.sweep import QueryPoints, Sweeper

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Span = tuple[int, int]


@dataclass(frozen=True)
class SearchSetting:
    """The settings that all blocks of a search share."""

    queries: LatentRows
    references: LatentRows
    metric: str
    top_k: int
    plan: SearchPlan
    how: Arithmetic
    rules: PairRules
    check: Callable[[], None]
    """Called at every shard; raises when another rank has failed."""

    @property
    def exact_device(self) -> torch.device:
        """The device for float64 arithmetic: that of the products, or the CPU where it has no float64 (mps)."""
        import torch

        return torch.device("cpu") if self.how.device.type == "mps" else self.how.device


def survey(setting: SearchSetting, span: Span) -> tuple[np.ndarray, float]:
    """The row numbers in `span` that have latents, and for l2 the largest norm among them (0 for cosine)."""
    import torch

    numbers, largest = [np.empty(0, np.int64)], 0.0
    for rows, latents in read_between(setting.queries, *span):
        numbers.append(rows)
        if setting.metric == "l2" and len(rows):
            largest = max(largest, float(torch.linalg.vector_norm(latents, dim=1, dtype=torch.float64).max()))
    return np.concatenate(numbers), largest


class QueryBlock:
    """The queries of a block, ordered by class so that a tile of references concerns a slice of them."""

    def __init__(self, setting: SearchSetting, span: Span, numbers: np.ndarray, largest: float) -> None:
        order = setting.rules.order(numbers)
        self.rows = numbers[order]
        self.place = np.empty_like(order)
        """int64 [Q]: the place in this order of each query, by ascending row number."""
        self.place[order] = np.arange(len(order))
        self.span, self.largest, self._numbers, self._setting = span, largest, numbers, setting

    def points(self, sweeper: Sweeper, chosen: np.ndarray) -> QueryPoints:
        """The points of the queries at the places `chosen`, which ascend."""
        import torch

        device, dim = sweeper.how.device, self._setting.queries.dim
        values = torch.empty(len(chosen), dim, dtype=sweeper.how.dtype, device=device)
        exact = self._setting.exact_device
        norm, residual, square = (torch.empty(len(chosen), dtype=torch.float64, device=exact) for _ in range(3))
        unscored = []
        for where, rows, latents in self._parts(chosen):
            part = sweeper.points(latents, rows, "queries")
            at = torch.from_numpy(where)
            values[at.to(device)] = part.values
            at = at.to(exact)
            norm[at], residual[at], square[at] = part.norm, part.residual, part.square
            if part.unscored is not None:
                unscored.append(at[part.unscored])
        points = Points(values, norm, residual, square, torch.cat(unscored) if unscored else None)
        return QueryPoints.of(points, self.rows[chosen], sweeper.space)

    def latents(self, chosen: np.ndarray) -> Tensor:
        """The stored latents [n, D] of the queries at the places `chosen`, on the device for float64."""
        import torch

        values = None
        for where, _, latents in self._parts(chosen):
            if values is None:
                shape = len(chosen), latents.shape[1]
                values = torch.empty(shape, dtype=latents.dtype, device=self._setting.exact_device)
            values[torch.from_numpy(where).to(values.device)] = latents.to(values.device)
        assert values is not None
        return values

    def _parts(self, chosen: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, Tensor]]:
        """Yield a few chosen queries at a time: their places in `chosen`, their row numbers, their latents."""
        line = np.full(len(self.rows), -1)
        line[chosen] = np.arange(len(chosen))
        size = self._setting.plan.chunk_rows
        for rows, latents in read_between(self._setting.queries, *self.span):
            where = line[self.place[np.searchsorted(self._numbers, rows)]]
            wanted = np.flatnonzero(where >= 0)
            for start in range(0, len(wanted), size):
                part = wanted[start : start + size]
                yield where[part], rows[part], latents[part]


class ExactQueries(NamedTuple):
    """Latents of queries, ready for distances in float64."""

    metric: str
    latents: Tensor
    norms: Tensor | None
    at_once: int

    @classmethod
    def of(cls, latents: Tensor, setting: SearchSetting) -> ExactQueries:
        import torch

        rows = torch.arange(len(latents), device=latents.device)
        at_once = setting.plan.pairs_at_once
        norms = squared_norms(latents, rows, at_once) if setting.metric == "cosine" else None
        return cls(setting.metric, latents, norms, at_once)

    @property
    def device(self) -> torch.device:
        return self.latents.device

    def to(self, references: Tensor, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        """Distances and squared distances, float64 [n], of queries i [n] and references j [n]."""
        references = references.to(self.device)
        return pair_distances(self.metric, self.latents, self.norms, i, references, j, self.at_once)
