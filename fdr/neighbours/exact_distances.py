"""The distance of two latents in float64, which depends on these two latents alone, to the last bit.

It does not depend on the other pairs in the batch, the number of threads or the device, because all arithmetic is
element by element, and sums over D are folded in an order that depends on D alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FOLD = 4096
"""Columns of D that are folded at once; the sums of such parts are added in order. Changing it changes distances."""
_END, _SHARED = 64, 32
"""A fold stops at `_END` columns; the rest of `_SHARED` batches of pairs is then folded together, for speed."""
PAIR_BYTES = 8 * (2 * FOLD + _END * _SHARED)
"""Memory that one pair takes while its distance is computed."""


def unit_error(dim: int) -> float:
    """A generous bound of the rounding error of a sum over `dim` values, relative to the sum of their magnitudes."""
    return 4 * (math.log2(FOLD) + dim / FOLD + 8) * 2.0**-53


def squared_norms(x: Tensor, rows: Tensor, at_once: int) -> Tensor:
    """|x|^2 of the latents at `rows` [n] of x, float64 [n], computed `at_once` at a time."""
    return _sums(x, rows, x, rows, at_once, _product)


class ExactQueries:
    """Latents [Q, D] of queries, ready for distances in float64, `at_once` pairs at a time."""

    def __init__(self, metric: str, latents: Tensor, at_once: int) -> None:
        import torch

        self.metric, self.latents, self.at_once = metric, latents, at_once
        self.norms = None
        if metric == "cosine":
            self.norms = squared_norms(latents, torch.arange(len(latents), device=latents.device), at_once)

    def distances(self, references: Tensor, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        """Distances and squared distances, float64 [n], of queries i [n] and references j [n]."""
        references = references.to(self.latents.device)
        return pair_distances(self.metric, self.latents, self.norms, i, references, j, self.at_once)


def pair_distances(
    metric: str, x: Tensor, norms: Tensor | None, i: Tensor, y: Tensor, j: Tensor, at_once: int
) -> tuple[Tensor, Tensor]:
    """The distance and the squared Euclidean distance, float64 [n] each, of the n pairs x[i], y[j].

    For `cosine`, `norms` are the squared norms of x and the distance is 1 - cos, or 1 if one latent is zero. Equal
    latents have a distance of exactly 0, because the square root of a square is exact in IEEE arithmetic.
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
    """For each of n pairs, the sum over D of `term(x[i], y[j])`, float64 [n].

    `term` gets x in float64, which it may overwrite, and y as stored. The last columns of several folds are folded
    together.
    """
    import torch

    sums = torch.zeros(len(i), dtype=torch.float64, device=x.device)
    for column in range(0, x.shape[1], FOLD):
        u, v = x[:, column : column + FOLD], y[:, column : column + FOLD]
        terms = torch.empty(min(at_once, len(i)), u.shape[1], dtype=torch.float64, device=x.device)
        ends = torch.empty(min(_SHARED * at_once, len(i)), _END, dtype=torch.float64, device=x.device)
        for outer in range(0, len(i), _SHARED * at_once):
            stop = min(outer + _SHARED * at_once, len(i))
            width = 0
            for start in range(outer, stop, at_once):
                part = slice(start, min(start + at_once, stop))
                here = terms[: part.stop - start].copy_(u.index_select(0, i[part]))
                folded = _fold(term(here, v.index_select(0, j[part])), _END)
                width = folded.shape[1]
                ends[start - outer : part.stop - outer, :width] = folded
            sums[outer:stop] += _fold(ends[: stop - outer, :width], 1)[:, 0]
    return sums


def _fold(terms: Tensor, until: int) -> Tensor:
    """Add the upper half of the columns of `terms` [n, w] to the lower half until `until` are left; overwrites it."""
    width = terms.shape[1]
    while width > until:
        half = width // 2
        terms[:, :half] += terms[:, width - half : width]
        width -= half
    return terms[:, :width]
