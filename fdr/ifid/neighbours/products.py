"""Matrix products of latents in low precision, with bounds of their errors.

Symbols: x is the point of a query and y that of a reference, both [D]. The points are the latents scaled to length 1
for `cosine`, and for `l2` the latents minus a common shift, divided by a power of two. x~ and y~ are the points rounded
to the dtype of the product. In exact arithmetic

    |x~.y~ - x.y| <= |x~ - x| |y~| + |x| |y~ - y|,

and the residuals |x~ - x| and |y~ - y| are measured. A sum of n products, added in any order with unit roundoff u, has
an error of at most n u / (1 - n u) times sum_k |x~_k y~_k| <= |x~| |y~| (Higham 2002, section 3.1). D is divided into
blocks so that n stays small.

Both distances are `scale * (constant_x - factor * v)` with v = x.y + bias_y. The computed v~ is within

    e = |x| E_y + |x~ - x| F_y + beta_y + kappa_x

of v, where E_y, F_y and beta_y depend on the reference only (`Bounds`), and kappa_x on the query (`query_offsets`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fdr.errors import InputError
from fdr.ifid.neighbours.exact_distances import unit_error
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
    def is_float32(self) -> bool:
        return self.dtype.itemsize == 4

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
    takes_bfloat16 = dim <= MAX_BFLOAT16_DIM and device.type == "cpu" and has_fast_bf16(device)
    return "bfloat16" if takes_bfloat16 else "float32"


def arithmetic(precision: str, device: torch.device) -> Arithmetic:
    """The arithmetic of products in `precision` on `device`.

    Tensor cores truncate, so on CUDA the unit roundoff of float16 and bfloat16 products is taken four times as large.
    """
    import torch

    dtype: torch.dtype = getattr(torch, precision)
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
    unscored: Tensor | None
    """Indices of points too long to be multiplied, whose values are set to 0; exact distances judge their pairs."""


def space_of(metric: str, first: Tensor, largest: float, device: torch.device) -> Space:
    """The space for references that begin with the shard `first` [n, D], and queries with norms up to `largest`."""
    import torch

    if metric == "cosine":
        return Space(metric, None, 1.0)
    shift = torch.zeros(first.shape[1], dtype=torch.float64)
    for row in first:
        shift += row
    shift = torch.nan_to_num((shift / max(1, len(first))).float(), 0.0, 0.0, 0.0)
    length = largest + float(torch.linalg.vector_norm(shift, dtype=torch.float64))
    exponent = math.ceil(math.log2(length)) if 0 < length < math.inf else 0
    return Space(metric, shift.to(device), 2.0 ** max(-100, min(100, exponent)))


def make_points(latents: Tensor, rows: np.ndarray, space: Space, how: Arithmetic, chunk: int, what: str) -> Points:
    """Convert latents [n, D] to points, `chunk` at a time.

    Raises `InputError` for latents that are not finite; it names the set `what` and the row.
    """
    import torch

    count, dim = latents.shape
    values = torch.empty(count, dim, dtype=how.dtype, device=how.device)
    exact = torch.device("cpu") if how.device.type == "mps" else how.device
    norm, residual, square = (torch.empty(count, dtype=torch.float64, device=exact) for _ in range(3))
    place = _on_sphere if space.metric == "cosine" else _shifted
    buffer = torch.empty(min(chunk, count), dim, dtype=torch.float32, device=how.device)
    for start in range(0, count, chunk):
        part = slice(start, start + chunk)
        x = latents[part].to(how.device)
        point = buffer[: len(x)]
        norm[part], square[part] = place(x, point, space, exact)
        values[part] = point
        error = torch.zeros((), dtype=torch.float64)
        if not how.is_float32:
            # exact in float32: a number and its rounding differ by a multiple of the number's last place
            error = torch.linalg.vector_norm(point.sub_(values[part]), dim=1).to(exact).double()
        residual[part] = error * (1 + 2 * dim * _F32) + norm[part] * (4 * _F32) + math.sqrt(dim) * 2.0**-62
    unscored = (~((norm < _MAX_LENGTH) & (residual < _MAX_LENGTH))).nonzero()[:, 0]
    if len(unscored):
        for index in unscored.tolist():
            if not bool(torch.isfinite(latents[index]).all()):
                raise InputError(
                    f"The latent of row {rows[index]} of the {what} holds NaN or infinity; its distances mean nothing: "
                    "look at that image and at the autoencoder's dtype."
                )
        values[unscored.to(values.device)] = 0
        for each in (norm, residual, square):
            each[unscored] = 0
    return Points(values, norm, residual, square, unscored if len(unscored) else None)


def _on_sphere(x: Tensor, point: Tensor, space: Space, exact: torch.device) -> tuple[Tensor, Tensor]:
    """Write latents `x` scaled to length 1 to `point`, each element with a relative error below 2^-22; 0 stays 0.

    Returns bounds of |y|, and |y|^2.
    """
    import torch

    norm = torch.linalg.vector_norm(x.to(exact) if exact != x.device else x, dim=1, dtype=torch.float64)
    is_live = norm > 0
    inverse = torch.where(is_live, 1 / norm, 0)
    if bool(((norm < 2.0**-100) & is_live).any()) or bool((norm > 2.0**100).any()):
        point.copy_(x.to(exact).double() * inverse[:, None])
    else:
        torch.mul(x, inverse.float().to(x.device)[:, None], out=point)
    length = is_live.double() * _UP
    length[~torch.isfinite(norm)] = torch.inf
    return length, torch.ones_like(length)


def _shifted(x: Tensor, point: Tensor, space: Space, exact: torch.device) -> tuple[Tensor, Tensor]:
    """Write (x - shift) / unit to `point`, each element with a relative error below 2^-24.

    Returns bounds of |y|, and |y|^2.
    """
    import torch

    assert space.shift is not None
    torch.sub(x, space.shift, out=point)
    point *= 1 / space.unit
    norm = torch.linalg.vector_norm(point.to(exact) if exact != x.device else point, dim=1, dtype=torch.float64)
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
    bias = (tile.square / -2).float().to(how.device)
    return Bounds(slope + tile.norm * 2.0**-22, reach, offset, bias, 0.0)


def query_offsets(queries: Points, space: Space) -> tuple[Tensor, Tensor]:
    """constant_x and kappa_x of n queries, float64 [n] each."""
    if space.metric == "cosine":
        return queries.square, queries.square * 0
    dim = queries.values.shape[1]
    return queries.square, queries.norm.square() * (2.0**-21 + unit_error(dim))


def scores(queries: Tensor, tile: Points, bounds: Bounds, how: Arithmetic, scratch: tuple[Tensor, Tensor]) -> Tensor:
    """v~ of q queries and the t references of a tile, float32 [q, t].

    The result lies in the first buffer of `scratch`; the second holds the product of a block if D has several.
    """
    out = scratch[0][: len(queries) * len(tile.values)].view(len(queries), len(tile.values))
    for start in range(0, queries.shape[1], how.block):
        columns = slice(start, start + how.block)
        part = _product(queries[:, columns], tile.values[:, columns].T, scratch[1] if start else None, out, how)
        if part is not out:
            out.copy_(part) if start == 0 else out.add_(part)
    if bounds.bias is not None:
        out += bounds.bias
    if tile.unscored is not None:
        out[:, tile.unscored.to(out.device)] = float("inf")
    return out


def _product(x: Tensor, y: Tensor, spare: Tensor | None, out: Tensor, how: Arithmetic) -> Tensor:
    """The matrix product x y in float32, or in the dtype of the operands if the device returns no other."""
    import torch

    if how.dtype == torch.float32:
        return torch.mm(x, y, out=out if spare is None else spare[: out.numel()].view(out.shape))
    if how.device.type == "cuda":
        return torch.mm(x, y, out_dtype=torch.float32)
    if how.dtype == torch.float16:  # no CPU multiplies float16 fast, and a float16 result could overflow
        return torch.mm(x.float(), y.float())
    return torch.mm(x, y)
