"""Products of a block of queries with all references, tile by tile, and the pairs that may be near enough.

v~ is the computed product of a query x and a reference y. products.py defines the symbols and derives the bounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdr.ifid.neighbours.pair_rules import PairRules
from fdr.ifid.neighbours.products import (
    Arithmetic,
    Bounds,
    Points,
    Space,
    bounds_of,
    make_points,
    query_offsets,
    scores,
)

if TYPE_CHECKING:
    from torch import Tensor

_LOWEST = -3e38
"""The lowest threshold for v~. It lies above minus infinity, which marks pairs that do not count."""


class QueryPoints(NamedTuple):
    """The queries of a block as points, ordered by class."""

    points: Points
    rows: np.ndarray
    """int64 [Q] row numbers."""
    constant: Tensor
    """constant_x, float64 [Q]"""
    kappa: Tensor
    """kappa_x, float64 [Q]"""

    @classmethod
    def of(cls, points: Points, rows: np.ndarray, space: Space) -> QueryPoints:
        return cls(points, rows, *query_offsets(points, space))


class Hits(NamedTuple):
    """Pairs that may be near enough: indices of queries, ascending, and of references in the tile, with bounds."""

    queries: Tensor
    columns: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Products:
    """v~ [q, t] of the queries `part` and the references `rows` of a tile.

    Minus infinity marks a pair that does not count, plus infinity one that only the exact distance can judge.
    """

    values: Tensor
    part: slice
    rows: np.ndarray
    queries: QueryPoints
    bounds: Bounds
    space: Space

    def near(self, limit: Tensor) -> np.ndarray | Tensor:
        """Flat places, ascending, of the pairs whose distance may be at most `limit` [q], float64.

        Each query gets one threshold for v~, by the largest error in the tile: a quick test that lets no pair slip.
        """
        import torch

        q, bounds = self.queries, self.bounds
        limit = limit.clamp(max=1e300)
        margin = q.points.norm[self.part] * bounds.slope.max() + q.points.residual[self.part] * bounds.reach.max()
        margin += bounds.offset.max() + q.kappa[self.part]
        need = (q.constant[self.part] - limit / self.space.scale) / self.space.factor - margin
        unit = bounds.output_unit * 1.01
        need = torch.where(need >= 0, need / (1 + unit), need / (1 - unit))
        need -= need.abs() * 2.0**-22
        threshold = need.clamp(min=_LOWEST).float().to(self.values.device)
        is_near = self.values >= threshold[:, None]
        if is_near.device.type == "cpu":
            return np.flatnonzero(is_near.numpy())
        return is_near.view(-1).nonzero()[:, 0]

    def hits(self, places: np.ndarray | Tensor) -> Hits:
        """The pairs at the flat `places`, with bounds of their distances."""
        import torch

        flat = torch.as_tensor(places, device=self.values.device)
        width = self.values.shape[1]
        line = flat // width
        values = self.values.reshape(-1)[flat].to(self.bounds.slope.device).double()
        columns, line = (index.to(values.device) for index in (flat - line * width, line))
        low, high = self._bounded(values, line + self.part.start, columns)
        return Hits(line + self.part.start, columns, low, high)

    def best(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The `count` nearest of each query in the tile: columns, low and high [q, count], and a bound [q].

        The last is a lower bound of the distances of all other references. Pairs that do not count have bounds of
        infinity.
        """
        import torch

        top = self.values.topk(min(count, self.values.shape[1]), dim=1)
        values, columns = (each.to(self.bounds.slope.device) for each in top)
        lines = torch.arange(self.part.start, self.part.stop, device=values.device)[:, None].expand_as(columns)
        low, high = (
            side.view_as(columns)
            for side in self._bounded(values.double().reshape(-1), lines.reshape(-1), columns.reshape(-1))
        )
        others = torch.full((len(values),), torch.inf, dtype=torch.float64, device=values.device)
        if count < self.values.shape[1]:
            others = self._others(values[:, -1].double())
        is_out = values == -torch.inf
        return columns, low.masked_fill(is_out, torch.inf), high.masked_fill(is_out, torch.inf), others

    def _others(self, largest: Tensor) -> Tensor:
        """A lower bound [q] of the distance of all pairs whose v~ is at most `largest` [q]; infinity if none counts."""
        import torch

        q, bounds = self.queries, self.bounds
        error = q.points.norm[self.part] * bounds.slope.max() + q.points.residual[self.part] * bounds.reach.max()
        error += bounds.offset.max() + q.kappa[self.part] + 1.01 * bounds.output_unit * largest.abs()
        low = self.space.scale * (q.constant[self.part] - self.space.factor * (largest + error))
        return torch.where(largest == -torch.inf, torch.inf, torch.where(largest == torch.inf, -torch.inf, low))

    def _bounded(self, values: Tensor, lines: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the distances of n pairs with v~ = `values`; minus and plus infinity where v~ is infinite."""
        import torch

        q, bounds = self.queries, self.bounds
        error = q.points.norm[lines] * bounds.slope[columns] + q.points.residual[lines] * bounds.reach[columns]
        error += bounds.offset[columns] + q.kappa[lines]
        if bounds.output_unit:
            error += 1.01 * bounds.output_unit * values.abs()
        centre = q.constant[lines] - self.space.factor * values
        is_infinite = torch.isinf(values)
        low = (self.space.scale * (centre - self.space.factor * error)).masked_fill_(is_infinite, -torch.inf)
        return low, (self.space.scale * (centre + self.space.factor * error)).masked_fill_(is_infinite, torch.inf)


@dataclass(frozen=True)
class Sweeper:
    """Forms the products of queries with a shard of references, a tile at a time."""

    how: Arithmetic
    space: Space
    rules: PairRules
    tile_rows: int
    score_rows: int
    chunk_rows: int

    def scratch(self, dim: int) -> tuple[Tensor, Tensor]:
        """Allocate the two buffers that `products` writes to."""
        import torch

        size = self.tile_rows * self.score_rows
        is_summed = self.how.is_float32 and self.how.num_blocks(dim) > 1
        first = torch.empty(size, dtype=torch.float32, device=self.how.device)
        return first, torch.empty_like(first) if is_summed else first

    def points(self, latents: Tensor, rows: np.ndarray, what: str) -> Points:
        """The points of latents [n, D]; `what` names the set in errors."""
        return make_points(latents, rows, self.space, self.how, self.chunk_rows, what)

    def products(
        self, queries: QueryPoints, rows: np.ndarray, latents: Tensor, scratch: tuple[Tensor, Tensor]
    ) -> Iterator[Products]:
        """Yield the products of all queries with one shard; each is overwritten by the next."""
        for start in range(0, len(rows), self.tile_rows):
            numbers = rows[start : start + self.tile_rows]
            concerned = self.rules.concerned(queries.rows, numbers)
            if concerned.start >= concerned.stop:
                continue
            tile = self.points(latents[start : start + self.tile_rows], numbers, "references")
            bounds = bounds_of(tile, self.space, self.how)
            for first in range(concerned.start, concerned.stop, self.score_rows):
                part = slice(first, min(first + self.score_rows, concerned.stop))
                values = scores(queries.points.values[part], tile, bounds, self.how, scratch)
                self._mark(values, part, queries, numbers)
                yield Products(values, part, numbers, queries, bounds, self.space)

    def _mark(self, values: Tensor, part: slice, queries: QueryPoints, numbers: np.ndarray) -> None:
        """Mark unscored queries by plus infinity, and pairs that do not count by minus infinity."""
        unscored = queries.points.unscored
        if unscored is not None:
            here = unscored[(unscored >= part.start) & (unscored < part.stop)] - part.start
            values[here.to(values.device)] = float("inf")
        self.rules.forbid(values, queries.rows[part], numbers)
