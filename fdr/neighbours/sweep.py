"""Products of a block of queries with all references, tile by tile, and the pairs that may be near enough.

v~ is the computed product of a query x and a reference y. products.py defines the symbols and derives the bounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdr.neighbours.pair_rules import PairRules
from fdr.neighbours.plan import SearchPlan
from fdr.neighbours.products import (
    Arithmetic,
    Bounds,
    Piece,
    Points,
    Space,
    bounds_of,
    make_points,
    query_offset,
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
    kappa: Tensor
    """kappa_x, float64 [Q]"""


class Pairs(NamedTuple):
    """n pairs, or m for each of n queries: indices of queries and of references in the tile, with bounds."""

    queries: Tensor
    """int64 [n], ascending"""
    columns: Tensor
    """int64 [n], or [n, m]"""
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

    def best(self, limit: Tensor, most: int) -> tuple[Pairs, Tensor] | None:
        """The nearest references of the queries that have some whose distance may be at most `limit` [q].

        All queries get equally many, at most `most`. The tensor [n] is a lower bound of the distances of all others
        that may be at most `limit`, and infinity if there are none. None if no query has any.
        """
        import torch

        threshold = self._thresholds(limit)
        lines = (self.values.amax(1) >= threshold).nonzero()[:, 0]
        if not len(lines):
            return None
        values, threshold = self.values.index_select(0, lines), threshold[lines]
        counts = (values >= threshold[:, None]).sum(1, dtype=torch.int32)
        top, columns = values.topk(min(most, int(counts.max())), dim=1)
        low, high = self._bounded(top.double(), lines[:, None], columns)
        low, high = (each.masked_fill(top == -torch.inf, torch.inf) for each in (low, high))
        last = top[:, -1].double()
        error = self._largest_error(lines) + 1.01 * self.bounds.output_unit * last.abs()
        others = self._distance(lines, last + error).masked_fill(last == torch.inf, -torch.inf)
        others = others.masked_fill(counts <= top.shape[1], torch.inf)
        return Pairs(lines + self.part.start, columns, low, high), others

    def near(self, limit: Tensor) -> Tensor:
        """Flat places in `values`, ascending, of the pairs whose distance may be at most `limit` [q]."""
        return (self.values >= self._thresholds(limit)[:, None]).view(-1).nonzero()[:, 0]

    def pairs(self, places: Tensor) -> Pairs:
        """The pairs at the flat `places`, with bounds of their distances."""
        lines, columns = places // self.values.shape[1], places % self.values.shape[1]
        low, high = self._bounded(self.values[lines, columns].double(), lines, columns)
        return Pairs(lines + self.part.start, columns, low, high)

    def _thresholds(self, limit: Tensor) -> Tensor:
        """The smallest v~, float32 [q], that a pair with a distance of at most `limit` can have.

        Each query has one for the whole tile, by the largest error in it: a quick test that misses no pair.
        """
        import torch

        square = self.queries.points.square[self.part]
        need = (square - limit.clamp(max=1e300) / self.space.scale) / self.space.factor - self._largest_error()
        unit = self.bounds.output_unit * 1.01
        need = torch.where(need >= 0, need / (1 + unit), need / (1 - unit))
        need -= need.abs() * 2.0**-22
        return need.clamp(min=_LOWEST).float()

    def _bounded(self, values: Tensor, lines: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the distances of pairs with v~ = `values`; minus and plus infinity where v~ is infinite."""
        import torch

        bounds = self.bounds
        error = self._error(lines, bounds.slope[columns], bounds.reach[columns], bounds.offset[columns])
        if bounds.output_unit:
            error += 1.01 * bounds.output_unit * values.abs()
        is_infinite = torch.isinf(values)
        low = self._distance(lines, values + error).masked_fill(is_infinite, -torch.inf)
        return low, self._distance(lines, values - error).masked_fill(is_infinite, torch.inf)

    def _distance(self, lines: Tensor, product: Tensor) -> Tensor:
        """The distance of pairs whose product v, with the bias, is `product`."""
        square = self.queries.points.square[self.part][lines]
        return self.space.scale * (square - self.space.factor * product)

    def _largest_error(self, lines: Tensor | slice = slice(None)) -> Tensor:
        """A bound of the errors of all products of the queries `lines`, float64 [n], without that of the output."""
        return self._error(lines, self.bounds.slope.max(), self.bounds.reach.max(), self.bounds.offset.max())

    def _error(self, lines: Tensor | slice, slope: Tensor, reach: Tensor, offset: Tensor) -> Tensor:
        """e of products.py, for the queries `lines` of this part."""
        points = self.queries.points
        norm, residual, kappa = (each[self.part][lines] for each in (points.norm, points.residual, self.queries.kappa))
        return norm * slope + residual * reach + offset + kappa


@dataclass(frozen=True)
class Sweeper:
    """Forms the products of queries with a shard of references, a tile at a time."""

    how: Arithmetic
    space: Space
    rules: PairRules
    plan: SearchPlan

    def queries(self, pieces: Iterator[Piece], rows: np.ndarray, dim: int) -> QueryPoints:
        """The queries in `rows`, whose latents `pieces` yields, as points."""
        points = make_points(pieces, (len(rows), dim), self.space, self.how, "queries")
        return QueryPoints(points, rows, query_offset(points, self.space))

    def products(self, queries: QueryPoints, rows: np.ndarray, latents: Tensor) -> Iterator[Products]:
        """Yield the products of all queries with one shard; each is overwritten by the next."""
        import torch

        plan = self.plan
        scratch = torch.empty(plan.tile_rows * plan.score_rows, dtype=torch.float32, device=self.how.device)
        for start in range(0, len(rows), plan.tile_rows):
            numbers = rows[start : start + plan.tile_rows]
            concerned = self.rules.concerned(queries.rows, numbers)
            if concerned.start >= concerned.stop:
                continue
            pieces = self._pieces(numbers, latents[start : start + plan.tile_rows])
            tile = make_points(pieces, (len(numbers), latents.shape[1]), self.space, self.how, "references")
            bounds = bounds_of(tile, self.space, self.how)
            for first in range(concerned.start, concerned.stop, plan.score_rows):
                part = slice(first, min(first + plan.score_rows, concerned.stop))
                values = scores(queries.points.values[part], tile, bounds, self.how, scratch)
                out = queries.points.out_of_range
                values[out[(out >= part.start) & (out < part.stop)] - part.start] = float("inf")
                self.rules.forbid(values, queries.rows[part], numbers)
                yield Products(values, part, numbers, queries, bounds, self.space)

    def _pieces(self, rows: np.ndarray, latents: Tensor) -> Iterator[Piece]:
        for start in range(0, len(rows), self.plan.chunk_rows):
            part = slice(start, start + self.plan.chunk_rows)
            yield part, rows[part], latents[part]
