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
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fdr.errors import InputError
from fdr.frechet.distance import device_of
from fdr.frechet.moments import Moments
from fdr.frechet.whitening import Side, Whitening, whiten, whitened_chunks

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
        """The standard error sqrt(max(V1 - V2, V2))."""
        return math.sqrt(max(self.first_order - self.second_order, self.second_order))


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
    whitening = whiten(*sides, where)
    found = [
        _influence_of(side, whitening, index, _offset(sides, index), max_rows) if side.has_all_rows else None
        for index, side in enumerate(sides)
    ]
    assert found[0] is not None
    return combined(sides, whitening, found[0], found[1])


def combined(sides: tuple[Side, Side], whitening: Whitening, own: np.ndarray, other: np.ndarray | None) -> Influence:
    """The influences [N] and [M] with their variances."""
    first = sum(
        float(np.var(values)) / (side.n + 1)
        for side, values in zip(sides, (own, other), strict=True)
        if values is not None
    )
    share = sum(1 / (side.n + 1) for side, values in zip(sides, (own, other), strict=True) if values is not None)
    second = 2 * share**2 * _mean_square_kernel(sides[0], whitening)
    return Influence(own, other, second, first)


def _offset(sides: tuple[Side, Side], index: int) -> np.ndarray:
    """2 (m_q - m_p) for the samples, and its negative for the reference, [D]."""
    return 2 * (sides[index].moments.mu - sides[1 - index].moments.mu)


def _influence_of(side: Side, whitening: Whitening, index: int, offset: np.ndarray, max_rows: int | None) -> np.ndarray:
    """IF_a of the rows of one side."""
    part = side if max_rows is None or max_rows >= len(side.rows) else side.random_part(max_rows)
    projection, found = whitening.projections[index], np.empty(len(part.rows))
    linear = projection.new_tensor(offset)
    for rows, x, z in whitened_chunks(part, projection):
        found[rows] = (x.square().sum(1) + x @ linear - z.square_() @ whitening.roots).cpu().numpy()
    return found - found.mean()


def _mean_square_kernel(side: Side, whitening: Whitening) -> float:
    """E[k(a, b)^2] over random pairs of samples; each sample is in two pairs at most."""
    part, projection = side.random_part(PAIRS), whitening.projections[0]
    chunks = [(x, z) for _, x, z in whitened_chunks(part, projection)]
    x, z = (_stacked([chunk[index] for chunk in chunks]) for index in (0, 1))
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
