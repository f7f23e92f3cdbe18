"""The distance of two latents, in float64, as a function of the two alone.

Which other pairs are computed with it, on how many threads and on which device moves no bit: all is done element by
element, and sums over D are folded in an order that depends on D alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FOLD = 4096
"""Elements of D that are folded at once; the sums of such parts are added in order. Part of the definition."""
PAIR_BYTES = 4 * 8 * FOLD
"""Memory of a pair while it is computed."""


def unit_error(dim: int) -> float:
    """Bound of the rounding of a sum over D, relative to the sum of absolute values, generously."""
    return 4 * (math.log2(FOLD) + dim / FOLD + 8) * 2.0**-53


def squared_norms(x: Tensor, rows: Tensor, at_once: int) -> Tensor:
    """float64 [n] of the rows [n] of latents x, `at_once` at a time."""
    return _sums(x, rows, x, rows, at_once, _product)


def pair_distances(
    metric: str, x: Tensor, norms: Tensor | None, i: Tensor, y: Tensor, j: Tensor, at_once: int
) -> tuple[Tensor, Tensor]:
    """Distance and squared Euclidean distance, float64 [n], of the n pairs x[i], y[j].

    `norms` are the squared norms of x, with cosine. There the distance is 1 - cos, and 1 where one latent is zero;
    equal latents have 0 exactly, for the root of a square is exact in IEEE arithmetic.
    """
    import torch

    if metric == "l2":
        squared = _sums(x, i, y, j, at_once, _squared_difference)
        return squared, squared
    assert norms is not None
    dots = _sums(x, i, y, j, at_once, _product)
    used, place = j.unique(return_inverse=True)
    norm_x, norm_y = norms[i], squared_norms(y, used, at_once)[place]
    scale = (norm_x * norm_y).sqrt_()
    is_zero = scale == 0
    distances = (1 - dots / scale.masked_fill_(is_zero, 1)).masked_fill_(is_zero, 1).clamp_(min=0)
    return distances, torch.clamp(norm_x + norm_y - 2 * dots, min=0)


def _product(u: Tensor, v: Tensor) -> Tensor:
    return u.mul_(v)


def _squared_difference(u: Tensor, v: Tensor) -> Tensor:
    return u.sub_(v).square_()


def _sums(x: Tensor, i: Tensor, y: Tensor, j: Tensor, at_once: int, term: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    import torch

    sums = torch.zeros(len(i), dtype=torch.float64, device=x.device)
    for start in range(0, len(i), at_once):
        part = slice(start, start + at_once)
        for column in range(0, x.shape[1], FOLD):
            u = x[:, column : column + FOLD].index_select(0, i[part]).double()
            v = y[:, column : column + FOLD].index_select(0, j[part]).double()
            sums[part] += _fold(term(u, v))
    return sums


def _fold(terms: Tensor) -> Tensor:
    """Sums [n] of [n, w], which is overwritten: the upper half is added to the lower one until one column is left."""
    width = terms.shape[1]
    while width > 1:
        half = width // 2
        terms[:, :half] += terms[:, width - half : width]
        width -= half
    return terms[:, 0]
