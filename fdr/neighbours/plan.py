"""The plan of a search: block sizes that keep its memory below the limit."""

from __future__ import annotations

from dataclasses import dataclass

from fdr.errors import InputError
from fdr.neighbours.exact_distances import PAIR_BYTES

MIB = 2**20
DEFAULT_MEMORY = 4 * 2**30
"""Bytes that a search may hold unless a caller says otherwise."""
_HALVINGS = 7
"""How often the working buffers may be halved. More halvings allow smaller limits of memory."""
_LIBRARIES = 2 * MIB
"""Memory that matrix libraries allocate for themselves, whatever the sizes."""
_TILE_ROWS, _LEAST_TILE_ROWS = 4096, 32
"""References per product, at most and at least. More take more memory and make more efficient products."""
_SCORE_ROWS = {"cpu": 2048, "cuda": 16384}
"""Queries per product. More take more memory and make more efficient products."""
_PAIRS = {"cpu": 32, "cuda": 1024}
"""Pairs whose exact distances are computed at once. More take more memory and keep the device busier."""
_LEAST = 16
"""Fewer queries per product, or pairs at once, cost more time than they save memory."""
_CHUNK = {"cpu": 2**18, "cuda": 2**23}
"""Latent values that are converted to points at once. On a CPU more than this leave its second-level cache."""
_SHARD_COPIES = 4
"""A shard is in memory four times: the bytes of its file and the array made of them, of this shard and of the next."""
_CANDIDATE_BYTES = 56
"""Memory of one candidate: its row, both bounds and its squared distance, and the arrays that sort them."""
_NEIGHBOUR_BYTES = 48
"""Memory of one neighbour: its row and both distances, and the arrays that sort them."""
_QUERY_BYTES = 64
"""Memory of the few numbers that every query has."""


@dataclass(frozen=True)
class SetSizes:
    """The sizes of a set of latents that a plan depends on."""

    num_rows: int
    dim: int
    shard_rows: int
    """Rows of the largest shard."""
    item_size: int
    """Bytes of one stored value."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all latents together."""
        return self.num_rows * self.dim * self.item_size


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
    """Queries of the exact pass that are searched at once."""
    device_bytes: int
    host_bytes: int
    """On a CPU `device_bytes` and `host_bytes` both give the total."""


def candidate_capacity(top_k: int, precision: str) -> int:
    """Candidates to keep for each query: more than usually certify the K nearest; low precision needs more."""
    return top_k + 22 if precision == "float32" else 4 * top_k + 24


def plan_blocks(
    queries: SetSizes, references: SetSizes, top_k: int, memory: int, precision: str, device: str
) -> SearchPlan:
    """The plan of a search that fits into `memory` bytes.

    It takes the largest buffers that leave three quarters of the memory to the queries, or room for all of them. Raises
    `InputError` if not even one query fits; the error says how much memory would do.
    """
    layouts = [_Layout(queries, references, top_k, precision, device, halvings) for halvings in range(_HALVINGS)]
    roomy = (each for each in layouts if each.total(0) <= memory // 4 or each.rows_within(memory) >= queries.num_rows)
    best = next(roomy, layouts[-1])
    rows = min(best.rows_within(memory), max(1, queries.num_rows))
    if rows >= 1:
        return best.plan(rows)
    raise InputError(
        f"Latents of {references.dim:,} values in shards of {references.shard_rows:,} do not fit a search memory of "
        f"{_mebibytes(memory)}; allow at least {_mebibytes(layouts[-1].total(1))}, for one query at a time "
        f"({_mebibytes(layouts[0].total(queries.num_rows))} for all at once), or choose smaller shards."
    )


class _Layout:
    """The memory of a search whose working buffers were halved `halvings` times from their largest sizes."""

    def __init__(
        self, queries: SetSizes, references: SetSizes, top_k: int, precision: str, device: str, halvings: int
    ) -> None:
        kind = "cuda" if device.startswith("cuda") else "cpu"
        self.queries, self.references, self.top_k = queries, references, top_k
        self.precision, self.device, self.has_own_memory = precision, device, kind == "cuda"
        self.item_size = 4 if precision == "float32" else 2
        self.capacity = candidate_capacity(top_k, precision)
        shard_rows = max(1, references.shard_rows)
        self.tile_rows = max(min(shard_rows, _TILE_ROWS) >> halvings, min(shard_rows, _LEAST_TILE_ROWS))
        self.score_rows = max(_LEAST, _SCORE_ROWS[kind] >> halvings)
        self.chunk_rows = max(1, (_CHUNK[kind] >> halvings) // max(1, references.dim))
        self.pairs = max(_LEAST, _PAIRS[kind] >> halvings)

    def rows_within(self, memory: int) -> int:
        """The number of queries per block that fits into `memory` bytes, 0 or less if none does."""
        on_device = (memory - self._fixed(0)) // self._query_bytes(0)
        return min(on_device, (memory - self._fixed(1)) // self._query_bytes(1)) if self.has_own_memory else on_device

    def total(self, rows: int) -> int:
        """Bytes for blocks of `rows` queries. With a GPU: those of the device or the host, whichever needs more."""
        return max(self._fixed(side) + rows * self._query_bytes(side) for side in (0, 1))

    def plan(self, rows: int) -> SearchPlan:
        """The plan with blocks of at most `rows` queries, all of about the same size."""
        blocks = max(1, -(-self.queries.num_rows // rows))
        rows = max(1, -(-self.queries.num_rows // blocks))
        device, host = (self._fixed(side) + rows * self._query_bytes(side) for side in (0, 1))
        exact_bytes = self.queries.dim * (4 + self.queries.item_size)
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
            exact_rows=max(1, self._latent_bytes * rows // max(1, exact_bytes)),
            device_bytes=device,
            host_bytes=host if self.has_own_memory else device,
        )

    @property
    def _latent_bytes(self) -> int:
        """The latent of a query is held as a point during the sweep, and as it is stored afterwards."""
        return self.queries.dim * max(self.item_size, self.queries.item_size)

    def _query_bytes(self, side: int) -> int:
        """Memory of a query on the device (side 0) or on the host beside a device with its own memory (1)."""
        both = self.capacity * _CANDIDATE_BYTES + self.top_k * _NEIGHBOUR_BYTES + _QUERY_BYTES
        return both if side else both + self._latent_bytes

    def _fixed(self, side: int) -> int:
        """Memory besides the queries. The host reads shards; the device has tiles, scores and exact distances."""
        references, dim = self.references, self.references.dim
        reading = dim * max(
            references.shard_rows * references.item_size * _SHARD_COPIES,
            self.queries.shard_rows * self.queries.item_size * 2,
        )
        if side:
            return reading
        score_rows = min(self.score_rows, max(1, self.queries.num_rows))
        points = self.tile_rows * dim * 4 + self.chunk_rows * dim * 16
        packed = (self.tile_rows + score_rows) * max(dim * self.item_size, min(dim, 2048) * 4)  # by the product
        scores = score_rows * (self.tile_rows * 12 + self.capacity * 128)
        shard = references.shard_rows * dim * references.item_size if self.has_own_memory else reading
        return _LIBRARIES + points + packed + scores + shard + self.pairs * PAIR_BYTES + dim * 8


def _mebibytes(size: int) -> str:
    return f"{-(-size // MIB):,} MiB"
