"""The search for the K nearest references of one block of queries, in three steps.

1. Sweep. A matrix product in low precision gives an interval around the distance of every query to every reference.
   Each query keeps the references with the smallest lower bounds as its candidates.
2. Re-rank. The distances of the candidates are computed in float64. The result of a query is certified if its K-th
   distance is below the lower bounds of all references that found no place among its candidates.
3. Exact pass. Queries that are not certified meet all references again, in float32 products, and the distance of every
   reference that may be as near as the K-th is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fdr.errors import RunError
from fdr.neighbours.candidates import NO_NEIGHBOUR, Candidates
from fdr.neighbours.exact_distances import ExactQueries
from fdr.neighbours.latent_rows import LatentRows, Span, read_between, read_shards
from fdr.neighbours.pair_rules import PairRules
from fdr.neighbours.plan import SearchPlan
from fdr.neighbours.products import Arithmetic, Piece, arithmetic, space_of
from fdr.neighbours.sweep import Products, QueryPoints, Sweeper
from fdr.runtime import ProgressTask

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Neighbours:
    """The K nearest references of every query, nearest first, equal distances in the order of rows."""

    rows: np.ndarray
    """int64 [Q, K] row numbers of references."""
    distances: np.ndarray
    """float64 [Q, K]"""
    squared: np.ndarray
    """float64 [Q, K] squared Euclidean distance, with either metric."""
    query_rows: np.ndarray
    """int64 [Q] row numbers of the queries, ascending."""

    @property
    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """rows, distances and squared distances."""
        return self.rows, self.distances, self.squared

    @classmethod
    def none_yet(cls, query_rows: np.ndarray, top_k: int) -> Neighbours:
        """`NO_NEIGHBOUR` at infinity, K times for each query."""
        shape = len(query_rows), top_k
        return cls(np.full(shape, NO_NEIGHBOUR, np.int64), np.full(shape, np.inf), np.full(shape, np.inf), query_rows)


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


class BlockSearch:
    """The three steps for the queries in `query_rows`, which lie in the rows `span`."""

    def __init__(self, setting: SearchSetting, span: Span, query_rows: np.ndarray) -> None:
        self.setting, self.plan, self.span = setting, setting.plan, span
        self.order = setting.rules.order(query_rows)  # by class, so that a tile of references concerns a slice
        self.rows = query_rows[self.order]
        self.candidates = Candidates(len(self.rows), self.plan.capacity, setting.top_k, setting.how.device)
        self.best = Neighbours.none_yet(self.rows, setting.top_k)

    def run(self, task: ProgressTask) -> Neighbours:
        """Search; `task` advances by the number of references swept."""
        self._sweep(task)
        self._rank_again()
        uncertain = self._certify()
        for start in range(0, len(uncertain), self.plan.exact_rows):
            self._search_exactly(uncertain[start : start + self.plan.exact_rows])
        ascending = np.argsort(self.order)
        rows, distances, squared = (column[ascending] for column in self.best.columns)
        return Neighbours(rows, distances, squared, self.rows[ascending])

    # Step 1

    def _sweep(self, task: ProgressTask) -> None:
        """Offer every reference to the candidates of every query, shard by shard."""
        sweeper = self._sweeper(self.setting.how)
        queries = self._points(sweeper, np.arange(len(self.rows)))
        spans = self.setting.references.shards()
        for (start, stop), (rows, latents) in zip(spans, self._shards(spans), strict=True):
            for products in sweeper.products(queries, rows, latents):
                self._offer(products)
            task.advance(stop - start)

    def _offer(self, products: Products) -> None:
        """Offer the references of one tile to the queries for which they may be among the K nearest."""
        import torch

        found = self.candidates
        best = products.best(found.limit[products.part], found.capacity)
        if best is not None:
            pairs, others = best
            rows = torch.from_numpy(products.rows).to(pairs.low.device)[pairs.columns]
            rows = rows.masked_fill(pairs.low == torch.inf, NO_NEIGHBOUR)
            found.offer(pairs.queries, rows, pairs.low, pairs.high, others)

    # Step 2

    def _rank_again(self) -> None:
        """Compute the distance of all candidates that may be among the K nearest; it replaces both their bounds."""
        found = self.candidates
        needed = (found.low <= found.limit[:, None]) & (found.low < found.high)
        places = needed.view(-1).nonzero()[:, 0].cpu().numpy()
        numbers = found.rows.view(-1).cpu().numpy()[places]
        order = np.argsort(numbers)
        places, numbers = places[order], numbers[order]
        parts = [slice(*np.searchsorted(numbers, span)) for span in self.setting.references.shards()]
        todo = [
            (span, part)
            for span, part in zip(self.setting.references.shards(), parts, strict=True)
            if numbers[part].size
        ]
        if not todo:
            return
        queries = self._exact(np.arange(len(self.rows)))
        for (_, part), (rows, latents) in zip(todo, self._shards([span for span, _ in todo]), strict=True):
            self._rank_shard(queries, places[part], np.searchsorted(rows, numbers[part]), latents)

    def _rank_shard(self, queries: ExactQueries, flat: np.ndarray, columns: np.ndarray, latents: Tensor) -> None:
        """Re-rank the candidates at the flat places `flat`, whose latents are the rows `columns` of `latents`."""
        import torch

        found = self.candidates
        places, index = (torch.from_numpy(each).to(found.low.device) for each in (flat, columns))
        is_needed = found.low.view(-1)[places] <= found.limit[places // found.capacity]
        places, index = places[is_needed], index[is_needed]
        distances, squared = queries.distances(latents, places // found.capacity, index)
        self._audit(distances, found.low.view(-1)[places], found.high.view(-1)[places])
        found.refine(places, distances, squared)

    def _audit(self, distances: Tensor, low: Tensor, high: Tensor) -> None:
        """Raise `RunError` if a distance lies outside of its interval, so that the bounds cannot be trusted."""
        if not bool(((low <= distances) & (distances <= high)).all()):
            raise RunError(
                f"The matrix product in {self.plan.precision} on {self.plan.device} is less exact than it may be, so "
                "that neighbours could be missed; search with precision float32, or on the cpu."
            )

    def _certify(self) -> np.ndarray:
        """Put the K nearest known references into `best`; return the places of the queries that need the exact pass."""
        found, top_k = self.candidates, self.setting.top_k
        is_exact = (found.low == found.high) & (found.rows != NO_NEIGHBOUR)
        distances = found.low.masked_fill(~is_exact, np.inf).cpu().numpy()
        rows, squared = (each.cpu().numpy() for each in (found.rows, found.squared))
        order = np.lexsort((rows, distances), axis=1)[:, :top_k]
        for column, known in zip(self.best.columns, (rows, distances, squared), strict=True):
            column[:] = np.take_along_axis(known, order, 1)
        lost = found.lost.cpu().numpy()
        return np.flatnonzero((self.best.distances[:, -1] >= lost) & (lost < np.inf))  # minus infinity is uncertain

    # Step 3

    def _search_exactly(self, chosen: np.ndarray) -> None:
        """Find the K nearest of the queries at the places `chosen` among all references."""
        import torch

        within = self.best.distances[chosen, -1]
        for column, empty in zip(
            self.best.columns, Neighbours.none_yet(chosen, self.setting.top_k).columns, strict=True
        ):
            column[chosen] = empty
        sweeper = self._sweeper(arithmetic("float32", self.setting.how.device))
        queries, exact = self._points(sweeper, chosen), self._exact(chosen)
        for rows, latents in self._shards(self.setting.references.shards()):
            for products in sweeper.products(queries, rows, latents):
                limit = np.minimum(self.best.distances[chosen[products.part], -1], within[products.part])
                offset = int(np.searchsorted(rows, products.rows[0]))
                places = products.near(torch.from_numpy(limit).to(products.values.device))
                for few in places.split(self.plan.score_rows * self.plan.capacity):
                    pairs = products.pairs(few)
                    distances, squared = exact.distances(latents, pairs.queries, pairs.columns + offset)
                    self._audit(distances, pairs.low, pairs.high)
                    new = products.rows[pairs.columns.cpu().numpy()], distances.cpu().numpy(), squared.cpu().numpy()
                    self._merge(chosen[pairs.queries.cpu().numpy()], new)

    def _merge(self, line: np.ndarray, new: Sequence[np.ndarray]) -> None:
        """Merge n pairs into `best`: the rows and distances `new` of the queries at places `line` [n], ascending."""
        top_k, unique = self.setting.top_k, np.unique(line)
        line = np.concatenate([np.repeat(unique, top_k), line])
        merged = [
            np.concatenate([own[unique].reshape(-1), more]) for own, more in zip(self.best.columns, new, strict=True)
        ]
        order = np.lexsort((merged[0], merged[1], line))
        kept = order[np.searchsorted(line[order], unique)[:, None] + np.arange(top_k)]
        for own, values in zip(self.best.columns, merged, strict=True):
            own[unique] = values[kept]

    # The latents

    def _sweeper(self, how: Arithmetic) -> Sweeper:
        space = space_of(self.setting.metric, self.setting.references, how.device)
        return Sweeper(how, space, self.setting.rules, self.plan)

    def _shards(self, spans: Sequence[Span]) -> Iterator[tuple[np.ndarray, Tensor]]:
        for shard in read_shards(self.setting.references, spans):
            self.setting.check()
            yield shard

    def _points(self, sweeper: Sweeper, chosen: np.ndarray) -> QueryPoints:
        """The queries at the places `chosen`, which ascend, as points."""
        return sweeper.queries(self._pieces(chosen), self.rows[chosen], self.setting.queries.dim)

    def _exact(self, chosen: np.ndarray) -> ExactQueries:
        """The queries at the places `chosen`, as they are stored, ready for exact distances."""
        import torch

        values = None
        for at, _, latents in self._pieces(chosen):
            if values is None:
                shape = len(chosen), latents.shape[1]
                values = torch.empty(shape, dtype=latents.dtype, device=self.setting.how.device)
            values[at] = latents.to(values.device)
        assert values is not None
        return ExactQueries(self.setting.metric, values, self.plan.pairs_at_once)

    def _pieces(self, chosen: np.ndarray) -> Iterator[Piece]:
        """Yield a few queries at the places `chosen` at a time, with their places in `chosen`."""
        import torch

        by_row = np.argsort(self.rows[chosen])
        ascending = self.rows[chosen][by_row]
        for rows, latents in read_between(self.setting.queries, *self.span):
            first, last = np.searchsorted(ascending, (rows[0], rows[-1] + 1)) if len(rows) else (0, 0)
            for start in range(first, last, self.plan.chunk_rows):
                part = slice(start, min(start + self.plan.chunk_rows, last))
                here = torch.from_numpy(np.searchsorted(rows, ascending[part]))
                yield torch.from_numpy(by_row[part]).to(self.setting.how.device), ascending[part], latents[here]
