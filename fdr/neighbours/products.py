"""Matrix products of latents in low precision, with bounds of their errors.

Symbols: x is the point of a query and y that of a reference, both [D]. The points are the latents scaled to length 1
for `cosine`, and for `l2` the latents minus a common shift, divided by a power of two. x~ and y~ are the points rounded
to the dtype of the product. In exact arithmetic

    |x~.y~ - x.y| <= |x~ - x| |y~| + |x| |y~ - y|,

and the residuals |x~ - x| and |y~ - y| are measured. A sum of n products, added in any order with unit roundoff u, has
an error of at most n u / (1 - n u) times sum_k |x~_k y~_k| <= |x~| |y~| (Higham 2002, section 3.1). D is divided into
blocks so that n stays small.

Both distances are `scale * (|x|^2 - factor * v)` with v = x.y + bias_y. The computed v~ is within

    e = |x| E_y + |x~ - x| F_y + beta_y + kappa_x

of v, where E_y, F_y and beta_y depend on the reference only (`Bounds`), and kappa_x on the query (`query_offset`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fdr.errors import InputError
from fdr.neighbours.exact_distances import unit_error
from fdr.neighbours.latent_rows import LatentRows
from fdr.runtime import has_fast_bf16

if TYPE_CHECKING:
    import torch
    from torch import Tensor

METRICS = ("cosine", "l2")
PRECISIONS = ("auto", "float32", "float16", "bfloat16")
MAX_BFLOAT16_DIM = 32_768
"""Wider latents are not multiplied in bfloat16 by default; see `resolve_precision`."""
_F32 = 2.0**-24
"""Unit roundoff of float32."""
_MAX_LENGTH = 2.0**40
"""Longer points are not multiplied, since their squares could overflow float32; exact distances judge them."""
_UNDERFLOW = 2.0**-100
"""Bounds the loss of up to 2^24 products that underflow float32."""
_UP = 1 + 2.0**-20
"""Factor that rounds bounds up; it far exceeds the rounding of the few float64 operations they come from."""


@dataclass(frozen=True)
class Arithmetic:
    """How a device multiplies matrices in one dtype, and how exactly."""

    device: torch.device
    dtype: torch.dtype
    unit: float
    """u: bound of the relative error of one addition while products are accumulated."""
    block: int
    """Columns of D per product; the products of the blocks are added in float32. Larger blocks widen the bounds."""
    output_unit: float
    """Unit roundoff of the dtype in which a product is returned; 0 if that is float32."""

    @property
    def is_full(self) -> bool:
        """True for float32 and float64: points are not rounded, and products are returned in this dtype."""
        return self.dtype.itemsize >= 4

    def num_blocks(self, dim: int) -> int:
        """The number of blocks that D = `dim` is divided into."""
        return -(-dim // self.block)

    def sum_error(self, dim: int) -> float:
        """Bound of the error of x~.y~ for points [dim], relative to |x~| |y~|."""
        n = min(dim, self.block) + self.num_blocks(dim) + 4
        return n * self.unit / (1 - n * self.unit)


def resolve_precision(precision: str, device: torch.device, dim: int) -> str:
    """The dtype of the products: `precision`, or for "auto" the fastest on this device (the finer of two equally fast).

    If that is bfloat16, latents of more than `MAX_BFLOAT16_DIM` values get float32, because distances concentrate like
    1 / sqrt(D) and bfloat16 can no longer tell them apart.
    """
    if precision not in PRECISIONS:
        raise InputError(f"Unknown precision {precision!r} of the search; expected {', '.join(PRECISIONS)}.")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "float16"
    takes_bfloat16 = dim <= MAX_BFLOAT16_DIM and has_fast_bf16(device)
    return "bfloat16" if takes_bfloat16 else "float32"


def arithmetic(precision: str, device: torch.device) -> Arithmetic:
    """The arithmetic of products in `precision` on `device`; beside `PRECISIONS` this takes "float64".

    Tensor cores truncate, so on CUDA the unit roundoff of float16 and bfloat16 products is taken four times as large.
    """
    import torch

    dtype: torch.dtype = getattr(torch, precision)
    if precision == "float64":
        return Arithmetic(device, dtype, 2.0**-53, 4096, 0.0)
    if precision == "float32":
        return Arithmetic(device, dtype, _F32, 4096, 0.0)
    if device.type == "cuda":
        return Arithmetic(device, dtype, 4 * _F32, 2048, 0.0)
    if precision == "float16":
        return Arithmetic(device, dtype, _F32, 2048, 0.0)
    return Arithmetic(device, dtype, 2 * _F32, 8192, 2.0**-8)


@dataclass(frozen=True)
class Space:
    """How latents become points, and how a product of two points becomes their distance."""

    metric: str
    shift: Tensor | None
    """float32 [D]: subtracted from all latents (l2), so that points are short and bounds tight."""
    unit: float
    """Points are divided by this power of two (l2)."""

    @property
    def factor(self) -> float:
        return 1.0 if self.metric == "cosine" else 2.0

    @property
    def scale(self) -> float:
        return 1.0 if self.metric == "cosine" else self.unit * self.unit


@dataclass(frozen=True)
class Points:
    """n latents as points: the rounded values y~ [n, D] that are multiplied, and float64 bounds [n]."""

    values: Tensor
    norm: Tensor
    """At least |y|."""
    residual: Tensor
    """At least |y~ - y|."""
    square: Tensor
    """|y|^2, to a relative error of 2^-22; exactly 1 with cosine."""
    out_of_range: Tensor
    """Indices of points too long to be multiplied, whose values are set to 0; exact distances judge their pairs."""


def space_of(metric: str, references: LatentRows, device: torch.device) -> Space:
    """The space of a search among `references`.

    For l2 the first shard decides shift and unit: its mean, and a power of two near the largest distance to it. Any
    shift and unit give valid bounds.
    """
    import torch

    if metric == "cosine":
        return Space(metric, None, 1.0)
    first = references.read(*references.shards()[0])[1]
    shift = torch.nan_to_num(first.float().mean(0), 0.0, 0.0, 0.0)
    centred = first.to(torch.float32, copy=True).sub_(shift)
    length = float(torch.linalg.vector_norm(centred, dim=1, dtype=torch.float64).max()) if len(first) else 0.0
    exponent = math.ceil(math.log2(length)) if 0 < length < math.inf else 0
    return Space(metric, shift.to(device), 2.0 ** max(-100, min(100, exponent)))


Piece = tuple["slice | Tensor", np.ndarray, "Tensor"]
"""A few of the latents that become points: their places among the points, their row numbers, and their values."""


def make_points(pieces: Iterable[Piece], shape: tuple[int, int], space: Space, how: Arithmetic, what: str) -> Points:
    """Convert the latents of `pieces`, which are `shape` = [n, D] together, to points.

    Raises `InputError` for latents that are not finite; it names the set `what` and the row.
    """
    import torch

    values = torch.empty(shape, dtype=how.dtype, device=how.device)
    norm, residual, square = (torch.empty(shape[0], dtype=torch.float64, device=how.device) for _ in range(3))
    place = _on_sphere if space.metric == "cosine" else _shifted
    buffer = torch.empty(0, dtype=torch.float32, device=how.device)
    for at, rows, latents in pieces:
        x = latents.to(how.device)
        buffer = buffer if len(buffer) >= len(x) else torch.empty(x.shape, dtype=torch.float32, device=how.device)
        point = buffer[: len(x)]
        length, squared = place(x, point, space)
        rounded = point.to(how.dtype)
        error = torch.zeros((), dtype=torch.float64)
        if not how.is_full:
            # exact in float32: a number and its rounding differ by a multiple of the number's last place
            error = torch.linalg.vector_norm(point.sub_(rounded), dim=1).double()
        error = error * (1 + 2 * shape[1] * _F32) + length * (4 * _F32) + math.sqrt(shape[1]) * 2.0**-62
        is_out = ~((length < _MAX_LENGTH) & (error < _MAX_LENGTH))
        if bool(is_out.any()):
            _check_finite(latents[is_out.cpu()], rows[is_out.cpu().numpy()], what)
            rounded = rounded.masked_fill(is_out[:, None], 0)
            length, squared = length.masked_fill(is_out, torch.inf), squared.masked_fill(is_out, 0)
        values[at], norm[at], residual[at], square[at] = rounded, length, error, squared
    out_of_range = norm.isinf().nonzero()[:, 0]
    norm[out_of_range] = residual[out_of_range] = 0
    return Points(values, norm, residual, square, out_of_range)


def _check_finite(latents: Tensor, rows: np.ndarray, what: str) -> None:
    import torch

    is_bad = ~torch.isfinite(latents).all(1).numpy()
    if is_bad.any():
        raise InputError(
            f"The latent of row {rows[is_bad][0]} of the {what} holds NaN or infinity; its distances mean nothing: "
            "look at that image and at the autoencoder's dtype."
        )


def _on_sphere(x: Tensor, point: Tensor, space: Space) -> tuple[Tensor, Tensor]:
    """Write latents `x` scaled to length 1 to `point`, each element with a relative error below 2^-22; 0 stays 0.

    Returns bounds of |y|, and |y|^2.
    """
    import torch

    norm = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)
    is_live = norm > 0
    inverse = torch.where(is_live, 1 / norm, 0)
    if bool(((norm < 2.0**-100) & is_live).any()) or bool((norm > 2.0**100).any()):
        point.copy_(x.double() * inverse[:, None])
    else:
        torch.mul(x, inverse.float()[:, None], out=point)
    length = is_live.double() * _UP
    length[~torch.isfinite(norm)] = torch.inf
    return length, torch.ones_like(length)


def _shifted(x: Tensor, point: Tensor, space: Space) -> tuple[Tensor, Tensor]:
    """Write (x - shift) / unit to `point`, each element with a relative error below 2^-24.

    Returns bounds of |y|, and |y|^2.
    """
    import torch

    assert space.shift is not None
    torch.sub(x, space.shift, out=point)
    point *= 1 / space.unit
    norm = torch.linalg.vector_norm(point, dim=1, dtype=torch.float64)
    return norm * _UP, norm.square()


@dataclass(frozen=True)
class Bounds:
    """The terms of the error bound e that belong to the t references of a tile; float64 [t]."""

    slope: Tensor
    """E_y"""
    reach: Tensor
    """F_y"""
    offset: Tensor
    """beta_y"""
    bias: Tensor | None
    """bias_y, float32 [t]; None where it is 0."""
    output_unit: float
    """Rounding of the returned product that `slope` does not contain, relative to the product."""


def bounds_of(tile: Points, space: Space, how: Arithmetic) -> Bounds:
    """The error bounds of products with the points of `tile`."""
    dim = tile.values.shape[1]
    rounded = (tile.norm + tile.residual) * _UP
    is_relative = space.metric == "cosine" and how.num_blocks(dim) == 1
    sum_error = how.sum_error(dim) + (0 if is_relative else 1.1 * how.output_unit)
    slope = (tile.residual + sum_error * rounded) * _UP
    reach = rounded * ((1 + sum_error) * _UP)
    if space.metric == "cosine":
        offset = slope.new_full(slope.shape, unit_error(dim) + _UNDERFLOW)
        return Bounds(slope, reach, offset, None, how.output_unit if is_relative else 0.0)
    offset = tile.norm.square() * (2.0**-21 + unit_error(dim)) + _UNDERFLOW
    bias = (tile.square / -2).float()
    return Bounds(slope + tile.norm * 2.0**-22, reach, offset, bias, 0.0)


def query_offset(queries: Points, space: Space) -> Tensor:
    """kappa_x of n queries, float64 [n]."""
    factor = 0.0 if space.metric == "cosine" else 2.0**-21 + unit_error(queries.values.shape[1])
    return queries.norm.square() * factor


def scores(queries: Tensor, tile: Points, bounds: Bounds, how: Arithmetic, scratch: Tensor) -> Tensor:
    """v~ of q queries and the t references of a tile, float32 [q, t], written to the buffer `scratch`."""
    out = scratch[: len(queries) * len(tile.values)].view(len(queries), len(tile.values))
    multiply(queries, tile.values, how, out)
    if bounds.bias is not None:
        out += bounds.bias
    out[:, tile.out_of_range] = float("inf")
    return out


def multiply(x: Tensor, y: Tensor, how: Arithmetic, out: Tensor) -> None:
    """Write the products of all x [q, D] and y [t, D] to `out` [q, t], in float32, or float64 for that arithmetic."""
    import torch

    for start in range(0, x.shape[1], how.block):
        columns = slice(start, start + how.block)
        left, right = x[:, columns], y[:, columns].T
        if start:
            out.add_(_product(left, right, how))
        elif how.is_full:
            torch.mm(left, right, out=out)
        else:
            out.copy_(_product(left, right, how))


def _product(x: Tensor, y: Tensor, how: Arithmetic) -> Tensor:
    """The matrix product x y in float32, or in the dtype of the operands if the device returns no other."""
    import torch

    if how.is_full:
        return torch.mm(x, y)
    if how.device.type == "cuda":
        return torch.mm(x, y, out_dtype=torch.float32)
    if how.dtype == torch.float16:  # no CPU multiplies float16 fast, and a float16 result could overflow
        return torch.mm(x.float(), y.float())
    return torch.mm(x, y)
