"""Products of a block of queries with references, tile by tile, and the pairs among them that may be near enough."""

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
"""Just above minus infinity, which marks pairs that do not count."""


class QueryPoints(NamedTuple):
    """Queries as the product sees them, in the order of their classes."""

    points: Points
    rows: np.ndarray
    """int64 [Q]"""
    constant: Tensor
    """constant_x, float64 [Q]"""
    kappa: Tensor
    """float64 [Q]"""

    @classmethod
    def of(cls, points: Points, rows: np.ndarray, space: Space) -> QueryPoints:
        return cls(points, rows, *query_offsets(points, space))


class Hits(NamedTuple):
    """Pairs that are near enough: indices among the queries, ascending, and in the tile; bounds of the distance."""

    queries: Tensor
    columns: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Products:
    """v~ of the queries `part` with the references `rows` of a tile; minus infinity for pairs that do not count."""

    values: Tensor
    part: slice
    rows: np.ndarray
    queries: QueryPoints
    bounds: Bounds
    space: Space

    def near(self, limit: Tensor) -> np.ndarray | Tensor:
        """Flat places, ascending, of the pairs whose lower bound may be at most `limit` [q], float64."""
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
        """The pairs at flat `places`, with bounds."""
        import torch

        flat = torch.as_tensor(places, device=self.values.device)
        width = self.values.shape[1]
        line = flat // width
        values = self.values.reshape(-1)[flat].to(self.bounds.slope.device).double()
        columns, line = (index.to(values.device) for index in (flat - line * width, line))
        low, high = self._bounded(values, line + self.part.start, columns)
        return Hits(line + self.part.start, columns, low, high)

    def best(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The `count` largest of each query: columns [q, count], bounds, and the least lower bound [q] of all others.

        Pairs that do not count have bounds of infinity.
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
        """A lower bound [q] for all pairs with v~ of at most `largest` [q]; infinity where these do not count."""
        import torch

        q, bounds = self.queries, self.bounds
        error = q.points.norm[self.part] * bounds.slope.max() + q.points.residual[self.part] * bounds.reach.max()
        error += bounds.offset.max() + q.kappa[self.part] + 1.01 * bounds.output_unit * largest.abs()
        low = self.space.scale * (q.constant[self.part] - self.space.factor * (largest + error))
        return torch.where(largest == -torch.inf, torch.inf, torch.where(largest == torch.inf, -torch.inf, low))

    def _bounded(self, values: Tensor, lines: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the distances of pairs [n] whose v~ are `values`; minus and plus infinity where v~ is infinite."""
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
    """How the references pass by the queries."""

    how: Arithmetic
    space: Space
    rules: PairRules
    tile_rows: int
    score_rows: int
    chunk_rows: int

    def scratch(self, dim: int) -> tuple[Tensor, Tensor]:
        """The buffers of `products`."""
        import torch

        size = self.tile_rows * self.score_rows
        is_summed = self.how.is_float32 and self.how.num_blocks(dim) > 1
        first = torch.empty(size, dtype=torch.float32, device=self.how.device)
        return first, torch.empty_like(first) if is_summed else first

    def points(self, latents: Tensor, rows: np.ndarray, what: str) -> Points:
        """Points of latents [n, D]."""
        return make_points(latents, rows, self.space, self.how, self.chunk_rows, what)

    def products(
        self, queries: QueryPoints, rows: np.ndarray, latents: Tensor, scratch: tuple[Tensor, Tensor]
    ) -> Iterator[Products]:
        """Of all queries with a shard; each is valid until the next."""
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
        unscored = queries.points.unscored
        if unscored is not None:
            here = unscored[(unscored >= part.start) & (unscored < part.stop)] - part.start
            values[here.to(values.device)] = float("inf")
        self.rules.forbid(values, queries.rows[part], numbers)
