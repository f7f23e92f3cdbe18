"""The search for the K nearest references of one block of queries, in three steps.

1. Sweep. A matrix product in low precision gives an interval around the distance of every query to every reference.
   Each query keeps the references with the smallest lower bounds as its candidates.
2. Re-rank. The distances of the candidates are computed in float64. The result of a query is certified if its K-th
   distance is below the lower bounds of all references that found no place among its candidates.
3. Search exactly. Queries that are not certified meet all references again, in float32 products, and the distance of
   every reference that may be as near as the K-th is computed in float64.

The state of each step is saved from time to time, and a killed search goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdr.errors import RunError
from fdr.ifid.neighbours.candidates import NO_ROW, Candidates, grouped
from fdr.ifid.neighbours.latent_rows import read_shards
from fdr.ifid.neighbours.products import Arithmetic, arithmetic, space_of
from fdr.ifid.neighbours.query_block import ExactQueries, QueryBlock, SearchSetting, Span, survey
from fdr.ifid.neighbours.state import SearchState, Shapes
from fdr.ifid.neighbours.sweep import Products, Sweeper
from fdr.runtime import ProgressTask

if TYPE_CHECKING:
    from torch import Tensor


class Nearest(NamedTuple):
    """The K nearest references of Q queries, [Q, K], nearest first; `NO_ROW` at infinity where none is known."""

    rows: np.ndarray
    distances: np.ndarray
    squared: np.ndarray

    @classmethod
    def empty(cls, num_queries: int, top_k: int) -> Nearest:
        shape = num_queries, top_k
        return cls(np.full(shape, NO_ROW, np.int64), np.full(shape, np.inf), np.full(shape, np.inf))

    @classmethod
    def shapes(cls, num_queries: int, top_k: int) -> Shapes:
        shape = num_queries, top_k
        return {"rows": (shape, np.int64), "distances": (shape, np.float64), "squared": (shape, np.float64)}


def search_block(
    setting: SearchSetting, span: Span, state: SearchState, task: ProgressTask
) -> tuple[Nearest, np.ndarray]:
    """The K nearest references of the queries in the rows `span`, and the row numbers [Q] of these queries."""
    numbers, largest = survey(setting, span)
    shapes = Nearest.shapes(len(numbers), setting.top_k)
    found = state.finished(shapes) if len(numbers) else Nearest.empty(0, setting.top_k)._asdict()
    if found is not None:
        task.resume(setting.references.num_rows)
        return Nearest(**found), numbers
    block = QueryBlock(setting, span, numbers, largest)
    result = _Search(setting, block, state).run(task)
    result = Nearest(*(array[block.place] for array in result))
    state.finish(result._asdict())
    return result, numbers


class _Search:
    """The three steps for one block, with everything that is saved to resume them."""

    def __init__(self, setting: SearchSetting, block: QueryBlock, state: SearchState) -> None:
        self.setting, self.block, self.state, self.plan = setting, block, state, setting.plan
        self.spans = list(setting.references.shards())
        num_queries = len(block.rows)
        device = setting.exact_device
        self.candidates = Candidates(num_queries, self.plan.capacity, setting.top_k, device)
        self.best = Nearest.empty(num_queries, setting.top_k)
        self.shards_done = 0
        self.exact_progress = np.zeros(3, np.int64)
        """Progress of step 3: queries done, queries in the current group, shards that this group has met."""
        self._restore()

    def run(self, task: ProgressTask) -> Nearest:
        """Run the steps that are left; `task` advances by the number of references swept."""
        task.resume(sum(stop - start for start, stop in self.spans[: self.shards_done]))
        if self.shards_done < len(self.spans):
            self._sweep(task)
        self._rank_again()
        doubtful = self._settle()
        for start in range(int(self.exact_progress[0]), len(doubtful), self.plan.exact_rows):
            self._search_exactly(doubtful[start : start + self.plan.exact_rows], start)
        self._check_counts()
        return self.best

    # Step 1

    def _sweep(self, task: ProgressTask) -> None:
        """Offer every reference to the candidates of every query, shard by shard."""
        sweeper = self._sweeper(self.setting.how)
        queries = self.block.points(sweeper, np.arange(len(self.block.rows)))
        scratch = sweeper.scratch(self.setting.references.dim)
        for rows, latents in self._shards(self.spans[self.shards_done :]):
            start, stop = self.spans[self.shards_done]
            left = float(stop - start)
            for products in sweeper.products(queries, rows, latents, scratch):
                self._offer(products)
                part = len(products.rows) * (products.part.stop - products.part.start) / len(self.block.rows)
                task.advance(min(part, left))
                left -= min(part, left)
            self.shards_done += 1
            task.advance(left)
            self._keep()

    def _offer(self, products: Products) -> None:
        """Offer the references of one tile to the queries for which they may be among the K nearest.

        Where many pairs qualify, each query is offered its best only, and the bound of the others is recorded as lost.
        """
        import torch

        rows = torch.from_numpy(products.rows).to(self.candidates.rows.device)
        places = products.near(self.candidates.limit[products.part])
        capacity = self.candidates.capacity
        if len(places) > capacity * len(products.values) // 4:  # at first, or if all are about as near
            columns, low, high, others = products.best(capacity)
            chosen = torch.arange(products.part.start, products.part.stop, device=low.device)
            self.candidates.offer(chosen, rows[columns].masked_fill(low == torch.inf, NO_ROW), low, high)
            self.candidates.lose(products.part, others)
            return
        while len(places):
            hits = products.hits(places)
            chosen, line, place = grouped(hits.queries)
            width = min(capacity, int(place.max()) + 1)
            is_now = place < width
            shape = len(chosen), width
            low, high = (torch.full(shape, torch.inf, dtype=torch.float64, device=rows.device) for _ in range(2))
            numbers = torch.full(shape, NO_ROW, dtype=torch.int64, device=rows.device)
            at = line[is_now], place[is_now]
            low[at], high[at], numbers[at] = hits.low[is_now], hits.high[is_now], rows[hits.columns[is_now]]
            self.candidates.offer(chosen, numbers, low, high)
            places = places[~(is_now.cpu().numpy() if isinstance(places, np.ndarray) else is_now)]

    # Step 2

    def _rank_again(self) -> None:
        """Compute the distance of all candidates that may be among the K nearest; it replaces both their bounds."""
        found = self.candidates
        needed = (found.low <= found.limit[:, None]) & (found.low < found.high)
        flat = needed.view(-1).nonzero()[:, 0].cpu().numpy()
        numbers = found.rows.view(-1).cpu().numpy()[flat]
        order = np.argsort(numbers)
        flat, numbers = flat[order], numbers[order]
        ends = [np.searchsorted(numbers, span) for span in self.spans]
        todo = [(span, slice(*end)) for span, end in zip(self.spans, ends, strict=True) if end[0] < end[1]]
        if not todo:
            return
        queries = ExactQueries.of(self.block.latents(np.arange(len(self.block.rows))), self.setting)
        for (_, part), (rows, latents) in zip(todo, self._shards([span for span, _ in todo]), strict=True):
            self._rank_shard(queries, flat[part], np.searchsorted(rows, numbers[part]), latents)
            self._keep()

    def _rank_shard(self, queries: ExactQueries, flat: np.ndarray, columns: np.ndarray, latents: Tensor) -> None:
        """Re-rank the candidates at the flat places `flat`, whose latents are the rows `columns` of `latents`."""
        import torch

        found = self.candidates
        places, index = (torch.from_numpy(each).to(found.low.device) for each in (flat, columns))
        line = places // found.capacity
        is_needed = found.low.view(-1)[places] <= found.limit[line]
        places, line, index = places[is_needed], line[is_needed], index[is_needed]
        distances, squared = queries.to(latents, line, index)
        self._audit(distances, found.low.view(-1)[places], found.high.view(-1)[places])
        found.refine(places, distances, squared)
        found.tighten(line.unique())

    def _audit(self, distances: Tensor, low: Tensor, high: Tensor) -> None:
        """Raise `RunError` if a distance lies outside of its interval, so that the bounds cannot be trusted."""
        if not bool(((low <= distances) & (distances <= high)).all()):
            raise RunError(
                f"The matrix product in {self.plan.precision} on {self.plan.device} is less exact than it may be, so "
                "that neighbours could be missed; search with precision float32, or on the cpu."
            )

    # Certificates

    def _settle(self) -> np.ndarray:
        """Put the K nearest of certified queries into `best`; return the places of the queries to search exactly."""
        found, top_k = self.candidates, self.setting.top_k
        is_exact = (found.low == found.high) & (found.rows != NO_ROW)
        distances = found.low.masked_fill(~is_exact, np.inf).cpu().numpy()
        rows, squared = (each.cpu().numpy() for each in (found.rows, found.squared))
        order = np.lexsort((rows, distances), axis=1)[:, :top_k]
        nearest = Nearest(*(np.take_along_axis(each, order, 1) for each in (rows, distances, squared)))
        last, lost = nearest.distances[:, -1], found.lost.cpu().numpy()
        is_certain = (last < lost) | np.isposinf(lost)
        if not self.exact_progress.any():
            for own, array in zip(self.best, nearest, strict=True):
                own[:] = np.where(np.isfinite(nearest.distances), array, own)
                own[~is_certain] = np.inf if own.dtype.kind == "f" else NO_ROW
        self._within = last
        return np.flatnonzero(~is_certain)

    # Step 3

    def _search_exactly(self, chosen: np.ndarray, start: int) -> None:
        """Find the K nearest of the uncertified queries at places `chosen`; `start` others are done already."""
        import torch

        if tuple(self.exact_progress[:2]) != (start, len(chosen)):
            self.exact_progress[:] = start, len(chosen), 0
            for own, empty in zip(self.best, Nearest.empty(len(chosen), self.setting.top_k), strict=True):
                own[chosen] = empty
        sweeper = self._sweeper(arithmetic("float32", self.setting.how.device))
        queries = self.block.points(sweeper, chosen)
        exact = ExactQueries.of(self.block.latents(chosen), self.setting)
        scratch = sweeper.scratch(self.setting.references.dim)
        for rows, latents in self._shards(self.spans[int(self.exact_progress[2]) :]):
            for products in sweeper.products(queries, rows, latents, scratch):
                mine = chosen[products.part]
                limit = np.minimum(self.best.distances[mine, -1], self._within[mine])
                self._compare(products, exact, torch.from_numpy(limit).to(exact.device), chosen, rows, latents)
            self.exact_progress[2] += 1
            self._keep()
        self.exact_progress[:] = start + len(chosen), 0, 0

    def _compare(
        self,
        products: Products,
        exact: ExactQueries,
        limit: Tensor,
        chosen: np.ndarray,
        rows: np.ndarray,
        latents: Tensor,
    ) -> None:
        """Compute the distances of all pairs that may lie within `limit` [q], and merge them into `best`."""
        places = products.near(limit)
        size = self.plan.score_rows * self.plan.capacity
        offset = int(np.searchsorted(rows, products.rows[0])) if len(rows) else 0
        for first in range(0, len(places), size):
            hits = products.hits(places[first : first + size])
            distances, squared = exact.to(latents, hits.queries, hits.columns + offset)
            self._audit(distances, hits.low, hits.high)
            line = chosen[hits.queries.cpu().numpy()]
            numbers = products.rows[hits.columns.cpu().numpy()]
            self._merge(line, numbers, distances.cpu().numpy(), squared.cpu().numpy())

    def _merge(self, line: np.ndarray, rows: np.ndarray, distances: np.ndarray, squared: np.ndarray) -> None:
        """Merge n pairs into `best`: references `rows` with the queries at places `line` [n], ascending."""
        best, top_k = self.best, self.setting.top_k
        unique = np.unique(line)
        line = np.concatenate([np.repeat(unique, top_k), line])
        columns = [
            np.concatenate([own[unique].reshape(-1), new])
            for own, new in zip(best, (rows, distances, squared), strict=True)
        ]
        order = np.lexsort((columns[0], columns[1], line))
        first = np.searchsorted(line[order], unique)
        kept = order[first[:, None] + np.arange(top_k)]
        for own, merged in zip(best, columns, strict=True):
            own[unique] = merged[kept]

    # Helpers of all steps

    def _check_counts(self) -> None:
        """Raise `InputError` if a query has fewer than K references, because images of the set did not decode."""
        counts = np.isfinite(self.best.distances).sum(1)
        short = np.flatnonzero(counts < self.setting.top_k)
        if len(short):
            row = int(self.block.rows[short].min())
            count = int(counts[np.flatnonzero(self.block.rows == row)[0]])
            raise self.setting.rules.too_few(row, count, self.setting.top_k)

    def _sweeper(self, how: Arithmetic) -> Sweeper:
        """A sweeper that forms its products by `how`. For l2 the common shift is the mean of the first shard."""
        setting, plan = self.setting, self.plan
        first = setting.references.read(*self.spans[0])[1]
        space = space_of(setting.metric, first, self.block.largest, how.device)
        return Sweeper(how, space, setting.rules, plan.tile_rows, plan.score_rows, plan.chunk_rows)

    def _shards(self, spans: list[Span]) -> Iterator[tuple[np.ndarray, Tensor]]:
        for shard in read_shards(self.setting.references, spans, self.plan.reads_ahead):
            self.setting.check()
            yield shard

    def _keep(self) -> None:
        """Save the state if enough work was done since the last save."""
        if self.state.is_due:
            self.state.save(self._arrays())

    def _arrays(self) -> dict[str, np.ndarray]:
        found = self.candidates
        tensors = {"rows": found.rows, "low": found.low, "high": found.high, "lost": found.lost}
        arrays = {name: tensor.cpu().numpy() for name, tensor in (tensors | {"squared": found.squared}).items()}
        best = {f"best_{name}": array for name, array in self.best._asdict().items()}
        return arrays | best | {"shards_done": np.array(self.shards_done), "exact_progress": self.exact_progress}

    def _restore(self) -> None:
        """Go on from the saved state, if there is one that fits."""
        import torch

        shapes = {name: (array.shape, array.dtype.type) for name, array in self._arrays().items()}
        saved = self.state.running(shapes)
        if saved is None:
            return
        found, last = self.candidates, self.setting.references.num_rows
        if any(
            saved[name].size and not -1 <= saved[name].min() <= saved[name].max() < last
            for name in ("rows", "best_rows")
        ):
            return
        for name in ("rows", "low", "high", "lost", "squared"):
            setattr(found, name, torch.from_numpy(saved[name]).to(found.low.device))
        found.tighten(torch.arange(len(found.low), device=found.low.device))
        self.best = Nearest(*(saved[f"best_{name}"] for name in Nearest._fields))
        self.shards_done = int(np.clip(saved["shards_done"], 0, len(self.spans)))
        self.exact_progress = saved["exact_progress"]
