"""Exact nearest neighbours among latents: low-precision products find candidates, float64 distances decide.

The result equals that of a brute-force search with the distances of `exact_distances.py`, ordered by distance and then
row. It does not depend on precision, memory, shards, threads or ranks. docs/neighbour-search.md explains the method.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fdr.errors import InputError
from fdr.neighbours.block import BlockSearch, Neighbours, SearchSetting
from fdr.neighbours.latent_rows import LatentRows
from fdr.neighbours.pair_rules import Pair, PairRules
from fdr.neighbours.plan import SearchPlan, SetSizes, plan_blocks
from fdr.neighbours.products import METRICS, arithmetic, resolve_precision
from fdr.runtime import DAMAGE, SOLO, Group, Progress, SilentProgress, atomic_path, faithful_products, resolve_device

if TYPE_CHECKING:
    import torch

FORMAT = "fdr-search/1"


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

    @property
    def torch_device(self) -> torch.device:
        """The device of the search: the CPU in place of Metal, which has no float64."""
        device = resolve_device(self.device)
        return resolve_device("cpu") if device.type == "mps" else device


def plan_search(queries: SetSizes, references: SetSizes, options: SearchOptions, num_ranks: int = 1) -> SearchPlan:
    """The plan of a search, made without reading a latent.

    Raises `InputError` if not even one query fits into the memory.
    """
    device = options.torch_device
    precision = resolve_precision(options.precision, device, references.dim)
    share = SetSizes(-(-queries.num_rows // num_ranks), queries.dim, queries.shard_rows, queries.item_size)
    return plan_blocks(share, references, options.top_k, options.memory, precision, str(device))


def sizes_of(rows: LatentRows) -> SetSizes:
    """The sizes of a set of latents that a plan depends on."""
    largest = max((stop - start for start, stop in rows.shards()), default=0)
    return SetSizes(rows.num_rows, rows.dim, largest, rows.item_size)


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
    does not count; with labels, only references of the query's class count. The folder `state` keeps the blocks that
    are finished under `state_key`, which must identify the content of both sets, and the same call goes on from there.
    The ranks of `group` divide the queries, and each returns the whole result; call it within `propagate_failures`.

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
    rules.check_counts(_between(queries.rows, first, last), references.rows, options.top_k)
    plan = plan_search(sizes_of(queries), sizes_of(references), options, group.size)
    how = arithmetic(plan.precision, options.torch_device)
    settings = {
        "key": state_key,
        "top_k": options.top_k,
        "metric": options.metric,
        "rows": [queries.num_rows, references.num_rows, queries.dim],
        "shards": [list(map(int, span)) for span in references.shards()],
    }
    digest = _digest(settings, rules)
    spans = [(start, min(start + plan.query_rows, last)) for start in range(first, last, plan.query_rows)]
    setting = SearchSetting(queries, references, options.metric, options.top_k, plan, how, rules, group.check_peers)
    total = references.num_rows * len(spans)
    parts = [Neighbours.none_yet(np.empty(0, np.int64), options.top_k)]
    with faithful_products(), (progress or SilentProgress()).task("Nearest neighbours", total, "latents") as task:
        for span in spans:
            rows = _between(queries.rows, *span)
            path = None if state is None else state / f"found-{span[0]:09}-{span[1]:09}.npz"
            found = _load(path, digest, rows, options.top_k)
            if found is not None or not len(rows):
                task.resume(references.num_rows)
            else:
                found = BlockSearch(setting, span, rows).run(task)
                _save(path, digest, found)
            parts += [] if found is None else [found]
    columns = zip(*((*part.columns, part.query_rows) for rank in group.gather(parts) for part in rank), strict=True)
    return Neighbours(*map(np.concatenate, columns))


def _between(rows: np.ndarray, start: int, stop: int) -> np.ndarray:
    return rows[slice(*np.searchsorted(rows, (start, stop)))]


def _digest(settings: Mapping[str, Any], rules: PairRules) -> str:
    """sha256 over everything that changes the result of a search."""
    digest = hashlib.sha256(json.dumps([FORMAT, settings], sort_keys=True).encode())
    for array in rules.arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()


def _save(path: Path | None, digest: str, found: Neighbours) -> None:
    """Keep the result of a block."""
    if path is not None:
        rows, distances, squared = found.columns
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, digest=np.array(digest), rows=rows, distances=distances, squared=squared)


def _load(path: Path | None, digest: str, query_rows: np.ndarray, top_k: int) -> Neighbours | None:
    """The result that `_save` kept. A file that is damaged or belongs to another search counts as absent."""
    if path is None:
        return None
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as saved:
            if str(saved["digest"]) != digest:
                return None
            found = Neighbours(saved["rows"], saved["distances"], saved["squared"], query_rows)
    except DAMAGE:
        return None
    expected = Neighbours.none_yet(query_rows, top_k)
    pairs = zip(found.columns, expected.columns, strict=True)
    return found if all(mine.shape == wanted.shape and mine.dtype == wanted.dtype for mine, wanted in pairs) else None
