"""Leverages of features in a family of ridges, and what they say of the resolution of a sample covariance.

For whitened features z_a [r] of N samples (n = N - 1) and eigenvalues l_i, at the ridge x:

    h_a(x) = (1/n) sum_i z_ai^2 N/(N-1) l_i / (l_i + x)        the leverage of sample a; its mean is h(x) / n
    g_a(x) = h_a / (1 - h_a)                                   the same against the covariance without a
    theta(x) = mean h_a / mean g_a                             1 - h/n for Gaussian features of many dimensions

g_a is exact (Sherman-Morrison, centring included), so theta measures how much a sample covariance flatters its own
samples, for any distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fdr.errors import InputError
from fdr.frechet.curve import LeverageCurve
from fdr.frechet.distance import device_of
from fdr.frechet.linalg import EPS, as_float64, faster_eigh
from fdr.frechet.moments import Moments
from fdr.frechet.whitening import MIN_EIGENVALUE, Side, check_fit, rows_of, whitened_chunks

if TYPE_CHECKING:
    import torch
    from torch import Tensor

STEP = 1.0
"""Step of the grid of ridges in log x. The sums over it are accurate to 6e-9 at 1.0 and to 1e-12 at 0.5."""
BEYOND = 1e8
"""The grid reaches from the smallest eigenvalue / this to the largest times this."""
MIN_REST = 1e-12
"""1 - h_a is at least this. Lowering it lets rounding through."""
CURVE_POINTS = 30
"""Points of a leverage curve."""


@dataclass(frozen=True)
class Ridges:
    """A grid of ridges over a spectrum, with the shrinkage L_i = l_i / (l_i + x) of each direction at each ridge."""

    x: np.ndarray
    """[K] ascending."""
    step: float
    shrinkage: Tensor
    """L [K, r]."""
    rest: Tensor
    """1 - L [K, r], computed without cancellation."""

    @classmethod
    def over(cls, values: Tensor, step: float | None = None) -> Ridges:
        """The grid for eigenvalues [r] in descending order."""
        step = STEP if step is None else step
        low, high = math.log(float(values[-1]) / BEYOND), math.log(float(values[0]) * BEYOND)
        x = np.exp(low + step * np.arange(math.ceil((high - low) / step) + 1))
        column = values.new_tensor(x)[:, None]
        return cls(x, step, values / (values + column), column / (values + column))

    @property
    def h(self) -> np.ndarray:
        """The effective dimension sum_i L_i [K]."""
        return self.shrinkage.sum(1).cpu().numpy()

    @property
    def middle(self) -> int:
        """The index of the ridge whose effective dimension is nearest to half of the largest, r / 2."""
        return int(np.abs(self.h - self.shrinkage.shape[1] / 2).argmin())

    @property
    def slope(self) -> np.ndarray:
        """g = -dh/dlog x = sum_i L_i (1 - L_i) [K]."""
        return (self.shrinkage * self.rest).sum(1).cpu().numpy()

    @property
    def concentration(self) -> np.ndarray:
        """(sum_i L_i^2) / (sum_i L_i) [K]."""
        return (self.shrinkage.square().sum(1) / self.shrinkage.sum(1)).cpu().numpy()


@dataclass(frozen=True)
class Leverages:
    """The leverages of the samples of one side, summed over the samples."""

    mean_h: np.ndarray
    """mean h_a [K], which is h / n."""
    mean_g: np.ndarray
    """mean g_a [K]"""
    kappa: np.ndarray
    """mean h_a^2 / (mean h_a)^2 [K]."""
    largest: np.ndarray
    """The leverage h_a of each sample at the smallest ridge, [N]."""
    shares: np.ndarray
    """The part of each sample in the sum of g_a where h is half of its maximum, [N]."""
    tables: tuple[Tensor, ...] = ()
    """As many as were asked for of h_a, g_a and eta_a = -dh_a/dlog x, each [N, K]."""

    @property
    def theta(self) -> np.ndarray:
        """[K]"""
        return self.mean_h / self.mean_g


def measure_leverages(side: Side, roots: Tensor, projection: Tensor, ridges: Ridges, keep: int = 0) -> Leverages:
    """One pass over the rows of a side; `keep` is the number of `tables` to keep, from 0 to 3."""
    import torch

    n, count, (k, r) = float(side.n), len(side.rows), ridges.shrinkage.shape
    is_full = r == n
    tables = tuple(projection.new_empty(count, k) for _ in range(keep))
    sums, second = projection.new_zeros(3, k), projection.new_zeros(r)
    largest, shares = projection.new_empty(count), projection.new_empty(count)
    middle = ridges.middle
    for rows, _, z in whitened_chunks(side, projection):
        squares = z.square_()
        second += squares.sum(0)
        squares *= (n + 1) / n
        h = squares @ ridges.shrinkage.T / n
        rest = squares @ ridges.rest.T / n if is_full else 1 - h
        g = h / rest.clamp(min=MIN_REST)
        sums += torch.stack([h.sum(0), g.sum(0), h.square().sum(0)])
        largest[rows], shares[rows] = h[:, 0], g[:, middle]
        for number, table in enumerate(tables):
            table[rows] = (h, g)[number] if number < 2 else squares @ (ridges.shrinkage * ridges.rest).T / n
    check_fit(side, roots, second / count)
    mean_h, mean_g, mean_square = (sums / count).cpu().numpy()
    own = (shares / shares.sum()).cpu().numpy()
    return Leverages(mean_h, mean_g, mean_square / np.square(mean_h), largest.cpu().numpy(), own, tables)


def leverage_curve(
    moments: Moments, rows: np.ndarray | None = None, *, device: str | torch.device | None = None
) -> LeverageCurve:
    """kappa(h) of a reference against its own ridges S^2 + x, from its features.

    The features are `moments.rows`; or `rows` [m, D], a random part of the features behind `moments`, where all of them
    are too large to keep. Raises `InputError` where there are none, or where they are of another set.
    """
    rows = rows_of(moments) if rows is None else rows
    if rows is None or moments.count is None:
        raise InputError(
            "A leverage curve needs the features behind the moments, and their count: give features [N, D] as rows."
        )
    side = Side(moments, rows)
    roots, projection = _own_whitening(side, device_of(device))
    ridges = Ridges.over(roots.square())
    kappa, h = measure_leverages(side, roots, projection, ridges).kappa[::-1], ridges.h[::-1]
    points = np.geomspace(min(1.0, h[-1] / 2), h[-1], CURVE_POINTS)
    return LeverageCurve(points, np.maximum(1.0, np.interp(np.log(points), np.log(h), kappa)))


def _own_whitening(side: Side, device: torch.device) -> tuple[Tensor, Tensor]:
    """The eigenvalues [r] of the covariance S, descending, and the projection [D, r] on its whitened eigenvectors.

    They are the s of `Whitening` for two sides that are equal.
    """
    values, vectors = faster_eigh(as_float64(side.sigma + 0.0, device))
    values, vectors = values.flip(0), vectors.flip(1)
    r = int(min(side.n, (values > max(MIN_EIGENVALUE**0.5, len(values) * EPS) * values[0]).sum()))
    return values[:r], vectors[:, :r] / values[:r].sqrt()
