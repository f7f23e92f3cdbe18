"""Exact nearest neighbours among latents: low-precision products find candidates, float64 distances decide.

The result equals that of a brute-force search with the distances of `exact_distances.py`, ordered by distance and then
row. It does not depend on precision, memory, shards, threads or ranks. docs/neighbour-search.md explains the method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fdr.errors import InputError
from fdr.ifid.neighbours.block import Nearest, search_block
from fdr.ifid.neighbours.latent_rows import LatentRows, largest_shard
from fdr.ifid.neighbours.pair_rules import Pair, PairRules
from fdr.ifid.neighbours.plan import SearchPlan, SearchTask, plan_blocks
from fdr.ifid.neighbours.products import METRICS, arithmetic, resolve_precision
from fdr.ifid.neighbours.query_block import SearchSetting
from fdr.ifid.neighbours.state import SearchState, state_digest
from fdr.runtime import SOLO, Group, Progress, SilentProgress, faithful_products, resolve_device


@dataclass(frozen=True)
class SearchOptions:
    """Options of a search. Only `top_k` and `metric` change its result."""

    top_k: int = 10
    metric: str = "cosine"
    """`cosine`: 1 - cos; `l2`: squared distance."""
    memory: int = 4 * 2**30
    """Bytes that the search may hold at once, on the device and on the host, besides what imported libraries take."""
    device: str | None = None
    precision: str = "auto"
    """Dtype of the products: "float32", "float16", "bfloat16", or "auto" for the fastest of the device."""

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise InputError(f"The number of neighbours, top-k, is {self.top_k}; expected 1 or more.")
        if self.metric not in METRICS:
            raise InputError(f"Unknown metric {self.metric!r} of the search; expected {' or '.join(METRICS)}.")


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


def plan_search(
    queries: LatentRows,
    references: LatentRows,
    options: SearchOptions,
    itemsizes: tuple[int, int] = (4, 4),
    num_ranks: int = 1,
) -> SearchPlan:
    """The plan of a search, made without reading a latent.

    `itemsizes` are the bytes of one stored value of queries and references. Raises `InputError` if not even one query
    fits into the memory.
    """
    device = resolve_device(options.device)
    task = SearchTask(
        num_queries=-(-queries.num_rows // num_ranks),
        dim=references.dim,
        query_shard=largest_shard(queries),
        reference_shard=largest_shard(references),
        query_itemsize=itemsizes[0],
        reference_itemsize=itemsizes[1],
        top_k=options.top_k,
    )
    return plan_blocks(task, options.memory, resolve_precision(options.precision, device, references.dim), str(device))


def nearest(
    queries: LatentRows,
    references: LatentRows,
    options: SearchOptions,
    *,
    identities: Pair | None = None,
    labels: Pair | None = None,
    state: Path | None = None,
    state_key: str = "",
    progress: Progress | None = None,
    group: Group = SOLO,
) -> Neighbours:
    """Find the `top_k` nearest of `references` for each of `queries`.

    `identities` and `labels` give an integer for every query row and every reference row. A pair with equal identities
    does not count; with labels, only references of the query's class count. The folder `state` keeps the progress under
    `state_key`, which must identify the content of both sets, and the same call resumes it. The ranks of `group` divide
    the queries, and each returns the whole result; call it within `propagate_failures`.

    Raises `InputError` if a latent is not finite, a query has fewer than K references, or not even one query fits into
    the memory; `RunError` if the products of the device are less exact than their bound.
    """
    if queries.dim != references.dim:
        raise InputError(
            f"The query latents have {queries.dim:,} values and the reference latents {references.dim:,}; encode both "
            "with one autoencoder at one image size."
        )
    rules = PairRules(identities, labels, (queries.num_rows, references.num_rows))
    first, last = (queries.num_rows * (group.rank + step) // group.size for step in (0, 1))
    rules.check_counts(np.arange(first, last), references.num_rows, options.top_k)
    itemsizes = _itemsize(queries), _itemsize(references)
    plan = plan_search(queries, references, options, itemsizes, group.size)
    device = resolve_device(options.device)
    how = arithmetic(plan.precision, device)
    facts = {
        "key": state_key,
        "top_k": options.top_k,
        "metric": options.metric,
        "rows": [queries.num_rows, references.num_rows, queries.dim],
        "shards": [list(map(int, span)) for span in references.shards()],
    }
    digest = state_digest(facts, rules.facts)
    spans = [(start, min(start + plan.query_rows, last)) for start in range(first, last, plan.query_rows)]
    setting = SearchSetting(queries, references, options.metric, options.top_k, plan, how, rules, group.check_peers)
    total = references.num_rows * len(spans)
    with faithful_products(), (progress or SilentProgress()).task("Nearest neighbours", total, "latents") as task:
        parts = [search_block(setting, span, SearchState(state, digest, span), task) for span in spans]
    return _joined([part for rank in group.gather(parts) for part in rank], options.top_k)


def _itemsize(rows: LatentRows) -> int:
    spans = rows.shards()
    return rows.read(*spans[0])[1].dtype.itemsize if spans else 4


def _joined(parts: Sequence[tuple[Nearest, np.ndarray]], top_k: int) -> Neighbours:
    blocks = [Nearest.empty(0, top_k), *(found for found, _ in parts)]
    rows, distances, squared = (np.concatenate(arrays) for arrays in zip(*blocks, strict=True))
    numbers = np.concatenate([np.empty(0, np.int64), *(numbers for _, numbers in parts)])
    return Neighbours(rows, distances, squared, numbers)
