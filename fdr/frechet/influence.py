"""The standard error of a Fréchet distance, from how much each sample moves it.

To first order FD moves by IF_a / N when sample a is added, with x the centred and z the whitened features (`whitening`)
and D = m_q - m_p:

    IF_a = |x_a|^2 +- 2 x_a^T D - sum_i s_i z_ai^2 - mean          (+ for samples, - for the reference)
    V1 = var(IF_q) / N_q + var(IF_p) / N_p

Where the two distributions are equal, IF vanishes and the spread is that of a degenerate U-statistic, for which
w_ij = s_i s_j / (s_i + s_j) and pairs of samples a, b give

    V2 = 2 (1/N_q + 1/N_p)^2 E[k(a, b)^2]
    k  = x_a^T x_b + (1/2) sum_ij w_ij (z_ai z_aj - delta_ij) (z_bi z_bj - delta_ij)

V1 with measured s counts V2 twice in addition, so that the standard error is sqrt(max(V1 - V2, V2)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fdr.errors import InputError
from fdr.frechet.distance import device_of
from fdr.frechet.moments import Moments
from fdr.frechet.whitening import Side, Whitening, whitened_chunks, whitening_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PAIRS = 2000
"""Pairs of samples for V2. More make it more accurate: its relative error is about 1.5 / sqrt(PAIRS)."""


@dataclass(frozen=True)
class Influence:
    """How each sample moves an FD, and the standard error that follows."""

    samples: np.ndarray
    """IF_a of each sample, [N] (or of a random part of them), with mean 0. FD moves by about IF_a / N."""
    reference: np.ndarray | None
    """The same of the reference, [M]; None where its features are not known, so that its noise is in no number here."""
    second_order: float
    """V2, the variance that remains where both distributions are equal."""
    first_order: float
    """V1."""

    @property
    def stderr(self) -> float:
        """The standard error of FD."""
        return stderr_from(self.first_order, self.second_order)


def stderr_from(first_order: float, second_order: float) -> float:
    """The standard error sqrt(max(V1 - V2, V2)): of a distance, or of a difference of distances with its V1 and V2."""
    return math.sqrt(max(first_order - second_order, second_order))


def fd_influence(
    samples: Moments, reference: Moments, *, device: str | torch.device | None = None, max_rows: int | None = None
) -> Influence:
    """How much each sample moves FD(samples, reference); both have their biases, as the number of the metric `fd` has.

    `samples` must have `rows`; the reference's noise is included where it has them, too. `max_rows` takes a seeded
    random part of the rows of each side, which is enough for a standard error. Influences of two sample sets on one
    reference may be subtracted row by row of the reference, to compare the two.

    Raises `InputError` where `samples` have no rows.
    """
    where = device_of(device)
    sides = Side.of(samples), Side.of(reference)
    if not sides[0].has_all_rows:
        raise InputError(
            "The standard error of FD needs the features of the samples, and their moments came without: "
            "dataclasses.replace(moments, rows=features) adds them."
        )
    whitening = whitening_of(samples, reference, where)
    parts = [
        side if max_rows is None or not side.has_all_rows or max_rows >= len(side.rows) else side.random_part(max_rows)
        for side in sides
    ]
    kept: list[tuple[Tensor, Tensor]] = []
    keep = kept if parts[0] is not sides[0] else None  # rows in random order serve as pairs as well
    own = influence_of(parts[0], whitening, 0, _offset(sides, 0), keep)
    other = influence_of(parts[1], whitening, 1, _offset(sides, 1)) if sides[1].has_all_rows else None
    return combined(sides, whitening, own, other, kept)


def combined(
    sides: tuple[Side, Side],
    whitening: Whitening,
    own: np.ndarray,
    other: np.ndarray | None,
    pairs: Sequence[tuple[Tensor, Tensor]] = (),
) -> Influence:
    """The influences [N] and [M] with their variances; `pairs` are centred and whitened samples in random order."""
    first = sum(
        float(np.var(values)) / (side.n + 1)
        for side, values in zip(sides, (own, other), strict=True)
        if values is not None
    )
    share = sum(1 / (side.n + 1) for side, values in zip(sides, (own, other), strict=True) if values is not None)
    if not pairs:
        part = sides[0].random_part(PAIRS)
        pairs = [(x, z) for _, x, z in whitened_chunks(part, whitening.projections[0])]
    second = 2 * share**2 * _mean_square_kernel(pairs, whitening)
    return Influence(own, other, second, first)


def _offset(sides: tuple[Side, Side], index: int) -> np.ndarray:
    """2 (m_q - m_p) for the samples, and its negative for the reference, [D]."""
    return 2 * (sides[index].moments.mu - sides[1 - index].moments.mu)


def influence_of(
    part: Side,
    whitening: Whitening,
    index: int,
    offset: np.ndarray,
    keep: list[tuple[Tensor, Tensor]] | None = None,
) -> np.ndarray:
    """IF_a of the rows of one side (`index` 0 for samples), or of a part of them, with mean 0. `offset` [D] is the
    factor of x_a in it; x and z of the first `PAIRS` rows are added to `keep`.
    """
    projection, found = whitening.projections[index], np.empty(len(part.rows))
    linear = projection.new_tensor(offset)
    for rows, x, z in whitened_chunks(part, projection):
        found[rows] = (x.square().sum(1) + x @ linear - z.square() @ whitening.roots).cpu().numpy()
        if keep is not None and rows.start < PAIRS:
            keep.append((x[: PAIRS - rows.start], z[: PAIRS - rows.start]))
    return found - found.mean()


def _mean_square_kernel(pairs: Sequence[tuple[Tensor, Tensor]], whitening: Whitening) -> float:
    """E[k(a, b)^2] over pairs of samples in random order; each sample is in two of them."""
    x, z = (_stacked([chunk[index] for chunk in pairs]) for index in (0, 1))
    s = whitening.roots
    weights = s[:, None] * s / (s[:, None] + s)
    diagonal = weights.diagonal()
    other_x, other_z = x.roll(1, 0), z.roll(1, 0)
    both = z * other_z
    bracket = ((both @ weights) * both).sum(1) - (z.square() + other_z.square()) @ diagonal + diagonal.sum()
    kernel = (x * other_x).sum(1) + bracket / 2
    return float(kernel.square().mean())


def _stacked(parts: list[Tensor]) -> Tensor:
    import torch

    return torch.cat(parts)
