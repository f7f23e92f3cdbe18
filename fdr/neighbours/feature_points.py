"""Products of features in low precision, with bounds of the squared distance of every pair, block by block.

Symbols: x and y are features minus a common shift, divided by a power of two; x~ and y~ are these, rounded to the dtype
of the product; S~ is the computed product of x~ and y~; r_x bounds |x~ - x|. By products.py, with its relative error
gamma of a product,

    |S~ - x.y| <= r_x |y~| + |x| r_y + gamma |x~| |y~|.

Since 2 a b <= a^2 / t + t b^2 for every t > 0, this bound is a sum of a term of x and a term of y, and

    |x|^2 - e_x + |y|^2 - e_y  <=  |x - y|^2 + 2 S~  <=  |x|^2 + e_x + |y|^2 + e_y,
    e_x = r_x^2 / t + (t + gamma + slack) (|x| + r_x)^2,

where `slack` covers the rounding of these few terms. t is about the relative rounding error of one value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdr.errors import InputError
from fdr.neighbours.exact_distances import PAIR_BYTES, pair_distances
from fdr.neighbours.plan import MIB
from fdr.neighbours.products import Arithmetic, arithmetic, multiply, resolve_precision

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_BLOCK_ROWS = {"cpu": 2048, "cuda": 16384}
"""Rows of a block, at most. More take more memory and make more efficient products."""
_LEAST_ROWS = 32
_PAIRS = {"cpu": 64, "cuda": 1024}
"""Pairs whose exact distances are computed at once."""
_PENDING_BYTES = 64
"""Memory of one pair that waits for its exact distance, with the arrays that sort it."""
_MANY = 2**18
"""With more pairs at once it pays to look for copies first."""
_SHARE = 16
"""A block is multiplied in a finer dtype when more than one of so many of its pairs needs its exact distance."""


@dataclass(frozen=True)
class Frame:
    """The shift [D] and the power of two by which features become points."""

    shift: Tensor
    unit: float

    @classmethod
    def of(cls, *sets: np.ndarray) -> Frame:
        """The mean of the first set, and a power of two of the size of the largest distance to it."""
        import torch

        shift = torch.from_numpy(sets[0]).mean(0)
        lengths = [
            float((part - shift).square().sum(1, dtype=torch.float64).max()) ** 0.5
            for features in sets
            for part in torch.from_numpy(features).split(128)
        ]
        largest = max(lengths)
        if not all(map(math.isfinite, lengths)):
            raise InputError("Features hold NaN or infinity, or are too large; their distances mean nothing.")
        return cls(shift, 2.0 ** math.ceil(math.log2(largest)) if largest > 0 else 1.0)


class Tier(NamedTuple):
    """One precision of products."""

    how: Arithmetic
    spread: float
    """t"""
    slack: float

    @property
    def output(self) -> torch.dtype:
        """The dtype of products and bounds."""
        import torch

        return torch.float64 if self.how.dtype == torch.float64 else torch.float32


def tiers(device: torch.device, dim: int) -> list[Tier]:
    """The precisions to try in turn, from the fastest to float64."""
    first = resolve_precision("auto", device, dim)
    spreads = {"bfloat16": 2.0**-9, "float16": 2.0**-12, "float32": 2.0**-23}
    names = dict.fromkeys((first, "float32"))
    return [
        *(Tier(arithmetic(name, device), spreads[name], 2.0**-20) for name in names),
        Tier(arithmetic("float64", device), 2.0**-52, 2.0**-45),
    ]


class Points(NamedTuple):
    """Some features as points: x~ [n, D], the lower terms |x|^2 - e_x [n], 2 e_x [n], and the part of e_x [n] that
    bounds the rounding of the returned product.
    """

    values: Tensor
    low: Tensor
    width: Tensor
    output: Tensor


class PointSet:
    """A set of features [N, D] float32 within a frame, converted a block at a time.

    All blocks are kept if they fit, else the last two.
    """

    def __init__(self, features: np.ndarray, frame: Frame, device: torch.device, keep_bytes: int) -> None:
        self.features, self.frame, self.device = features, frame, device
        self._keeps = features.size * 2 <= keep_bytes
        self._kept: dict[tuple[int, torch.dtype], Points] = {}

    def __len__(self) -> int:
        return len(self.features)

    def points(self, rows: slice, tier: Tier) -> Points:
        """The points of `rows`."""
        key = rows.start, tier.how.dtype
        found = self._kept.pop(key, None) or self._converted(rows, tier)
        if not (self._keeps and found.values.element_size() == 2):
            while len(self._kept) > 1:  # the block of rows that a sweep is at, and one of columns
                self._kept.pop(next(iter(self._kept)))
        self._kept[key] = found
        return found

    def _converted(self, rows: slice, tier: Tier) -> Points:
        import torch

        how = tier.how
        x = torch.from_numpy(self.features[rows]).to(how.device)
        point = x.to(tier.output, copy=True).sub_(self.frame.shift.to(x.device)).mul_(1 / self.frame.unit)
        norm = torch.linalg.vector_norm(point, dim=1, dtype=torch.float64)
        values = point.to(how.dtype)
        residual = norm * tier.spread + math.sqrt(x.shape[1]) * 2.0**-100
        if not how.is_full:
            error = torch.linalg.vector_norm(point.sub_(values), dim=1).double()
            residual = residual + error * (1 + x.shape[1] * 2.0**-22) + norm * 2.0**-23
        length, output = (norm + residual).square(), 1.01 * how.output_unit
        error = residual.square() / tier.spread
        error += (tier.spread + how.sum_error(x.shape[1]) + output + tier.slack) * length
        return Points(values, (norm.square() - error).to(tier.output), 2 * error, output * length)


class Block(NamedTuple):
    """Bounds of the squared distances between `rows` and `columns`, in the unit of the frame."""

    rows: slice
    columns: slice
    low: Tensor
    """[n, m]"""
    x: Points
    y: Points
    output_unit: float

    def bounds(self, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds, float64, of the pairs at the places i, j of the block.

        The returned product is rounded relative to itself, which is less than what `low` takes off for all pairs.
        """
        low = self.low[i, j].double()
        product = (self.x.low[i].double() + self.y.low[j].double() - low) / 2
        spare = self.x.output[i] + self.y.output[j] - 2.02 * self.output_unit * product.abs()
        spare = spare.clamp_(min=0).masked_fill_(low.isinf(), 0)
        return low + spare, low + self.x.width[i] + self.y.width[j] - spare


class Sweep:
    """Blocks of bounds between two sets of points, in memory of a stated size, and exact distances of single pairs."""

    def __init__(self, rows: np.ndarray, columns: np.ndarray, device: torch.device, memory: int) -> None:
        self.device = device
        self.frame = Frame.of(rows) if columns is rows else Frame.of(rows, columns)
        self.tiers = tiers(device, rows.shape[1])
        self.block_rows = _rows_within(memory, rows.shape[1], device)
        self.pending = max(1, memory // 4 // _PENDING_BYTES)
        """Pairs that may wait for their exact distance."""
        self.rows = PointSet(rows, self.frame, device, memory // 8)
        self.columns = self.rows if columns is rows else PointSet(columns, self.frame, device, memory // 8)
        self._copies: tuple[dict[bytes, int], Tensor, Tensor] | None = None

    def slices(self, num_rows: int) -> list[slice]:
        """Blocks of `num_rows`."""
        step = self.block_rows
        return [slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]

    def block(self, rows: slice, columns: slice) -> Block:
        """The bounds of one block, at the present precision."""
        import torch

        tier = self.tiers[0]
        x, y = self.rows.points(rows, tier), self.columns.points(columns, tier)
        low = torch.empty(len(x.values), len(y.values), dtype=tier.output, device=self.device)
        multiply(x.values, y.values, tier.how, low)
        torch.sub(y.low, low, alpha=2, out=low)
        low += x.low[:, None]
        return Block(rows, columns, low, x, y, tier.how.output_unit)

    def is_much(self, count: int, block: Block) -> bool:
        """True if so many pairs of a block are better multiplied again in a finer dtype than computed one by one."""
        return count > max(block.low.numel() // _SHARE, 64 * sum(block.low.shape))

    def refine(self, doubtful: int, block: Block) -> bool:
        """Go to a finer precision if `doubtful` pairs are too many; True if the block must be computed again."""
        if not self.is_much(doubtful, block) or len(self.tiers) == 1:
            return False
        self.tiers = self.tiers[1:]
        return True

    def scaled(self, squared: Tensor) -> Tensor:
        """Squared distances in the unit of the frame."""
        return squared / self.frame.unit**2

    def exact(self, i: Tensor, j: Tensor) -> Tensor:
        """The squared distances, float64 [n], of the rows i and the columns j. Copies are at distance 0."""
        import torch

        if len(i) > _MANY:
            codes = self._codes()
            is_pair = codes[0][i] != codes[1][j]
            squared = torch.zeros(len(i), dtype=torch.float64, device=self.device)
            squared[is_pair] = self._differences(i[is_pair], j[is_pair])
            return squared
        return self._differences(i, j)

    def _differences(self, i: Tensor, j: Tensor) -> Tensor:
        import torch

        x, y = torch.from_numpy(self.rows.features), torch.from_numpy(self.columns.features)
        if self.device.type == "cpu":
            return pair_distances("l2", x, None, i, y, j, _PAIRS["cpu"])[1]
        found = torch.empty(len(i), dtype=torch.float64, device=self.device)
        for start in range(0, len(i), 2 * _PAIRS["cuda"]):
            part = slice(start, start + 2 * _PAIRS["cuda"])
            u, v = x[i[part].cpu()].to(self.device), y[j[part].cpu()].to(self.device)
            at = torch.arange(len(u), device=self.device)
            found[part] = pair_distances("l2", u, None, at, v, at, _PAIRS["cuda"])[1]
        return found

    def _codes(self) -> tuple[Tensor, Tensor]:
        """A number for every row and column; equal numbers are equal features."""
        if self._copies is None:
            seen: dict[bytes, int] = {}
            rows = _codes(self.rows.features, seen).to(self.device)
            is_same = self.columns is self.rows
            self._copies = seen, rows, rows if is_same else _codes(self.columns.features, seen).to(self.device)
        return self._copies[1:]


def _codes(features: np.ndarray, seen: dict[bytes, int]) -> Tensor:
    import hashlib

    import torch

    digests = (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in features)
    return torch.tensor([seen.setdefault(digest, len(seen)) for digest in digests])


def strips(mask: Tensor, most: int = 2**18) -> Iterator[tuple[Tensor, Tensor]]:
    """The places (i, j) where `mask` [n, m] is true; of a full mask only a few rows at a time."""
    count = int(mask.count_nonzero())
    step = len(mask) if count <= most else max(1, most // mask.shape[1])
    for start in range(0, len(mask) if count else 0, step):
        i, j = mask[start : start + step].nonzero(as_tuple=True)
        yield i + start, j


def raised(limit: Tensor, dtype: torch.dtype) -> Tensor:
    """`limit` in a coarser dtype, rounded up."""
    import torch

    return limit if dtype == torch.float64 else (limit * (1 + 2.0**-22)).clamp(max=torch.finfo(dtype).max).to(dtype)


def _rows_within(memory: int, dim: int, device: torch.device) -> int:
    """The largest number of rows of a block, a power of two, with which a sweep stays within `memory`."""
    kind = device.type if device.type in _BLOCK_ROWS else "cpu"
    rows, pairs = _BLOCK_ROWS[kind], _PAIRS[kind] * PAIR_BYTES
    while rows > _LEAST_ROWS and _bytes_of(rows, dim) + pairs > memory // 2:
        rows //= 2
    needed = 2 * (_bytes_of(rows, dim) + pairs)
    if needed > memory:
        raise InputError(
            f"Distances of features of width {dim} do not fit a memory of {memory // MIB} MiB; allow at least "
            f"{-(-needed // MIB)} MiB (--memory)."
        )
    return rows


def _bytes_of(rows: int, dim: int) -> int:
    """Bytes of two blocks of points while they are converted, and of one block of bounds."""
    return 2 * rows * dim * 16 + rows * rows * 14
