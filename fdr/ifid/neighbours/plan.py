"""The plan of a search: block sizes that keep its memory below the limit at the least work."""

from __future__ import annotations

from dataclasses import dataclass

from fdr.errors import InputError
from fdr.ifid.neighbours.candidates import CANDIDATE_BYTES
from fdr.ifid.neighbours.exact_distances import PAIR_BYTES

MIB = 2**20
_SETTINGS = 7
"""Levels of memory saving that are tried; each halves the working buffers. More allow smaller limits."""
_LIBRARIES = 2 * MIB
"""Memory that matrix libraries allocate for themselves, whatever the sizes."""
_PAIRS = {"cpu": 32, "cuda": 1024}
"""Pairs whose exact distances are computed at once. More take more memory and keep the device busier."""
_SCORE_ROWS = {"cpu": 2048, "cuda": 16384}
"""Queries per product. More take more memory and make larger, more efficient products."""
_CHUNK = {"cpu": 2**18, "cuda": 2**23}
"""Latent values that are converted to points at once. On a CPU more than this leave its second-level cache."""


@dataclass(frozen=True)
class SearchTask:
    """The sizes that a plan depends on."""

    num_queries: int
    dim: int
    query_shard: int
    """Rows of the largest shard of queries."""
    reference_shard: int
    """Rows of the largest shard of references."""
    query_itemsize: int
    """Bytes of one stored value."""
    reference_itemsize: int
    top_k: int


@dataclass(frozen=True)
class SearchPlan:
    """The block sizes of a search, and the memory they take."""

    precision: str
    device: str
    query_rows: int
    """Queries per block. All references are read once for each block, and those with candidates once more."""
    num_blocks: int
    tile_rows: int
    """References per product."""
    score_rows: int
    """Queries per product."""
    chunk_rows: int
    """Latents that are converted to points at once."""
    pairs_at_once: int
    """Pairs whose exact distances are computed at once."""
    capacity: int
    """Candidates kept for each query."""
    exact_rows: int
    """Queries that are searched exactly at once, of those whose candidates do not certify the result."""
    reads_ahead: bool
    """Whether the next shard is read while the current one is searched."""
    device_bytes: int
    host_bytes: int
    """On a CPU `device_bytes` and `host_bytes` both give the total."""


def candidate_capacity(top_k: int, precision: str) -> int:
    """Candidates to keep for each query: more than usually certify the K nearest; low precision needs more."""
    return top_k + 22 if precision == "float32" else 4 * top_k + 24


def plan_blocks(task: SearchTask, memory: int, precision: str, device: str) -> SearchPlan:
    """The plan with the least work that fits into `memory` bytes.

    It weighs the number of passes over the references against the cost of small products. Raises `InputError` if not
    even one query fits; the error says how much memory would do.
    """
    layouts = [_Layout(task, precision, device, level, ahead) for level in range(_SETTINGS) for ahead in (True, False)]
    fitting = [layout for layout in layouts if layout.rows_within(memory) >= 1]
    if fitting:
        best = min(fitting, key=lambda layout: layout.work(layout.rows_within(memory)))
        return best.plan(max(1, min(best.rows_within(memory), task.num_queries)))
    raise InputError(
        f"Latents of {task.dim:,} values in shards of {task.reference_shard:,} do not fit a search memory of "
        f"{_mebibytes(memory)}; allow at least {_mebibytes(min(layout.total(1) for layout in layouts))}, for one query "
        f"at a time ({_mebibytes(layouts[0].total(task.num_queries))} for all at once), or choose smaller shards."
    )


class _Layout:
    """Buffer sizes at one level of memory saving: level 0 takes the largest buffers, each further level halves them."""

    def __init__(self, task: SearchTask, precision: str, device: str, level: int, reads_ahead: bool) -> None:
        kind = "cuda" if device.startswith("cuda") else "cpu"
        self.task, self.precision, self.device, self.reads_ahead = task, precision, device, reads_ahead
        self.level = level
        self.is_split = kind == "cuda"
        self.itemsize = 4 if precision == "float32" else 2
        self.capacity = candidate_capacity(task.top_k, precision)
        self.tile_rows = max(1, min(task.reference_shard, 4096), min(task.reference_shard, 64)) >> level
        self.tile_rows = max(self.tile_rows, min(task.reference_shard, 32), 1)
        self.score_rows = max(16, _SCORE_ROWS[kind] >> level)
        self.chunk_rows = max(1, (_CHUNK[kind] >> level) // max(1, task.dim))
        self.pairs = max(16, _PAIRS[kind] >> level)  # fewer cost more time than they save memory

    def rows_within(self, memory: int) -> int:
        """The number of queries per block that fits into `memory` bytes."""
        free = memory - self._fixed_device() - (0 if self.is_split else self._fixed_host())
        rows = free // self._query_device() if free > 0 else 0
        if self.is_split:
            free = memory - self._fixed_host()
            rows = min(rows, free // self._query_host() if free > 0 else 0)
        return rows

    def work(self, rows: int) -> float:
        """The rough cost of a search in blocks of `rows` queries; the unit is one query against all references.

        Each pass over the references costs their reading and conversion. A GPU waits for the reader, and for the host
        at every small product; a CPU is only a little slower with small products.
        """
        queries = self.task.num_queries
        blocks = max(1, -(-queries // rows))
        if self.is_split:
            cost = queries + 500_000 * blocks + 0.3 * queries * 4**self.level
        else:
            cost = (queries + 500 * blocks) * (1 + 0.1 * self.level)
        return cost * (1 if self.reads_ahead else 1.1)

    def total(self, rows: int) -> int:
        """Bytes for blocks of `rows` queries. With a GPU: those of the device or the host, whichever needs more."""
        device = self._fixed_device() + rows * self._query_device()
        host = self._fixed_host() + rows * self._query_host()
        return max(device, host) if self.is_split else device + self._fixed_host()

    def plan(self, rows: int) -> SearchPlan:
        blocks = max(1, -(-self.task.num_queries // rows))
        rows = max(1, -(-self.task.num_queries // blocks))
        device = self._fixed_device() + rows * self._query_device()
        host = self._fixed_host() + (rows * self._query_host() if self.is_split else device)
        return SearchPlan(
            precision=self.precision,
            device=self.device,
            query_rows=rows,
            num_blocks=blocks,
            tile_rows=self.tile_rows,
            score_rows=min(self.score_rows, rows),
            chunk_rows=self.chunk_rows,
            pairs_at_once=self.pairs,
            capacity=self.capacity,
            exact_rows=max(1, self._latent_bytes() * rows // (self.task.dim * (4 + self.task.query_itemsize) or 1)),
            reads_ahead=self.reads_ahead,
            device_bytes=device if self.is_split else host,
            host_bytes=host,
        )

    def _latent_bytes(self) -> int:
        """Of one query, as a point first, as it is later."""
        return self.task.dim * max(self.itemsize, self.task.query_itemsize)

    def _query_device(self) -> int:
        return self._latent_bytes() + self.capacity * (CANDIDATE_BYTES + 8 + 24) + self.task.top_k * 48 + 64

    def _query_host(self) -> int:
        return self.capacity * (CANDIDATE_BYTES + 8 + 24) + self.task.top_k * 48 + 64

    def _fixed_host(self) -> int:
        """Host memory of the shards that are being read: the bytes of the file, and the array made of them."""
        task = self.task
        references = task.reference_shard * task.reference_itemsize * (4 if self.reads_ahead else 2)
        return task.dim * max(references, task.query_shard * task.query_itemsize * 2)

    def _fixed_device(self) -> int:
        """Device memory besides the queries: a tile, copies that a product may make, scores, exact distances."""
        task = self.task
        score_rows = min(self.score_rows, max(1, task.num_queries))
        tile = self.tile_rows * task.dim * 4 + self.chunk_rows * task.dim * 16
        packed = (self.tile_rows + score_rows) * max(task.dim * self.itemsize, min(task.dim, 2048) * 4)
        scores = score_rows * (self.tile_rows * 12 + self.capacity * 128)
        raw = task.reference_shard * task.dim * task.reference_itemsize if self.is_split else 0
        return _LIBRARIES + tile + packed + scores + raw + self.pairs * PAIR_BYTES + task.dim * 8


def _mebibytes(size: int) -> str:
    return f"{-(-size // MIB):,} MiB"
