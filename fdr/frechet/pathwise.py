"""The gradient of the leverage-corrected Fréchet distance in the samples, in closed form, for N > D samples.

The symbols are those of `correction` and `leverages`: y_a = F^T (x_a - m_q) [r] of sample a, M = F^T S_q F =
V diag(l) V^T, c = N / n^2 with n = N - 1, so that h_a(x) = c y_a^T (M + x)^{-1} y_a. FD_lev depends on the samples
through their mean, tr S_q, and v + r/2, which is a function of the eigenvalues l_i and of the K numbers
gb_k = mean_a h_a / (1 - h_a) at the ridges x_k. With P_ai = y_a^T V_i [N, r] and

    G_ak = d(v + r/2)/dgb_k / (N (1 - h_ak)^2)                         [N, K]
    phi_ai = sum_k G_ak / (l_i + x_k)                                  [N, r]
    C_ij = (A_ij - A_ji) / (l_j - l_i),   A = (P o phi)^T P            [r, r]
    C_ii = sum_a P_ai^2 sum_k G_ak / (l_i + x_k)^2

    Q = P diag(2/n d(v + r/2)/dl) + 2c P o phi - (2c/n) P C,           d(v + r/2)/dz_a = (Q_a - mean Q) V^T F^T

C is sum_ak G_ak (M + x_k)^{-1} y_a y_a^T (M + x_k)^{-1} by divided differences, which saves K products. The ridges
themselves are held fixed: the sum over them does not depend on where they lie.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fdr.errors import InputError
from fdr.frechet.correction import Estimate, correct
from fdr.frechet.distance import device_of
from fdr.frechet.moments import Moments
from fdr.frechet.whitening import Side, shared_columns, whitened_chunks

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CLOSE = 1e-5
"""Eigenvalues that differ by less than this share take C_ij from a product of its own: divided differences lose digits.

Raising it takes that product, whose error is the square of the share, for more of them."""


@dataclass(frozen=True)
class DebiasedGradient:
    """FD_lev of a batch of samples, and its gradient."""

    value: float
    """FD_lev, which may be negative."""
    raw: float
    """FD of the unbiased covariance, with its bias; never negative but for rounding."""
    gradient: Tensor
    """dFD_lev/dx [N, D], float64."""


def exact_side(reference: Moments) -> Side:
    """A reference whose moments are taken as exact; its factor is kept from one batch to the next."""
    return Side(Moments(reference.mu, reference.sigma), None, kept={})


def debiased_gradient(
    samples: Any, reference: Moments | Side, *, device: str | torch.device | None = None, step: float | None = None
) -> DebiasedGradient:
    """The debiased FD of `samples` [N, D] and its gradient, towards a reference whose moments are taken as exact.

    For many batches give `exact_side(reference)`, whose factor is computed once. Memory is that of the features and the
    gradient in float64, two tables [N, K] with K near 60, and a few matrices [D, D]. `step` is that of the grid of
    ridges in log x. Raises `InputError` where N is not above D, the number of features that vary.
    """
    side = Side.of(samples, device)
    exact = reference if isinstance(reference, Side) else exact_side(reference)
    shared, varying = shared_columns(side, exact)
    if len(shared) == 0:
        raise InputError("No feature of the reference varies among the samples; look at the images: all may be equal.")
    if side.n < len(varying):
        raise InputError(
            f"{len(side.rows)} samples have no debiased gradient in {len(varying)} dimensions, which takes more "
            "samples than dimensions: use larger batches (with --chunks or FDLoss.accumulate), the population "
            "ema:0.9:debiased, or the solver local."
        )
    estimate = correct(side, exact, device_of(device, samples), step=step, keep=2)
    return DebiasedGradient(estimate.value, estimate.raw, _Pathwise.of(side, exact, estimate).gradient())


@dataclass(frozen=True)
class _Pathwise:
    """What the gradient is made of."""

    side: Side
    shift: np.ndarray
    """m_q - m_p [D]."""
    basis: Tensor
    """F V [D, r]."""
    values: Tensor
    """l [r]."""
    inverse: Tensor
    """1 / (l + x) [K, r]."""
    by_value: Tensor
    """d(v + r/2)/dl [r]."""
    factors: Tensor
    """d(v + r/2)/dgb / N [K]."""
    tables: tuple[Tensor, ...]
    """h_a and g_a, each [N, K]."""

    @classmethod
    def of(cls, side: Side, reference: Side, estimate: Estimate) -> _Pathwise:
        """The parts of an estimate that has kept its tables."""
        own = estimate.leverages[0]
        assert own is not None
        whitening, ridges = estimate.whitening, estimate.ridges
        basis = whitening.projections[0] * whitening.roots
        inverse = ridges.shrinkage / whitening.values
        by_value, by_g = _partials(estimate, side.n)
        factors = basis.new_tensor(by_g / len(side.rows))
        shift = side.moments.mu - reference.moments.mu
        return cls(side, shift, basis, whitening.values, inverse, by_value, factors, own.tables)

    def gradient(self) -> Tensor:
        """dFD_lev/dx = [2 (m_q - m_p) + 2 (x - m_q)] / N - 2 d(v + r/2)/dx, [N, D]."""
        curvature, shift = self._sums()
        n, count = self.side.n, len(self.side.rows)
        c = count / n**2
        outer = (curvature * (-2 * c / n)).diagonal_scatter(2 / n * self.by_value - 2 * c / n * curvature.diagonal())
        pull = self.basis.new_tensor(2 * self.shift / count)
        found = self.basis.new_empty(count, len(self.basis))
        for rows, centred, z in whitened_chunks(self.side, self.basis):
            moved = z @ outer + 2 * c * (z * (self._weights(rows) @ self.inverse) - shift)
            found[rows] = centred.mul_(2 / count).add_(pull).addmm_(moved, self.basis.T, alpha=-2)
        return found

    def _weights(self, rows: slice) -> Tensor:
        """G_ak of a block of rows, with 1 / (1 - h) = 1 + g."""
        return (1 + self.tables[1][rows]).square_().mul_(self.factors)

    def _sums(self) -> tuple[Tensor, Tensor]:
        """C [r, r] and the mean of P o phi over the samples [r]."""
        values = self.values
        gaps = values[None] - values[:, None]
        is_close = gaps.abs() < CLOSE * (values[None] + values[:, None])
        needs_product = int(is_close.sum()) > len(values)
        square = self.inverse.square()
        apart, close = values.new_zeros(2, len(values), len(values))
        own, shift = values.new_zeros(2, len(values))
        for rows, _, z in whitened_chunks(self.side, self.basis):
            weights = self._weights(rows)
            moved, second = z * (weights @ self.inverse), z * (weights @ square)
            apart += moved.T @ z
            own += (second * z).sum(0)
            shift += moved.sum(0)
            if needs_product:
                close += second.T @ z
        curvature = (apart - apart.T) / gaps.masked_fill_(is_close, 1)
        curvature = curvature.where(~is_close, (close + close.T) / 2)
        return curvature.diagonal_scatter(own), shift / len(self.side.rows)


def _partials(estimate: Estimate, n: float) -> tuple[Tensor, np.ndarray]:
    """d(v + r/2)/dl [r] at fixed gb, and d(v + r/2)/dgb [K], of the sums in `correction.spectral_sum`.

    With L' = dL/dl = L (1 - L) / l: dh = sum L', dg = sum (1 - 2 L) L', d(sum L^2) = sum 2 L L', and
    sqrt u = sqrt(x gb n / h).
    """
    ridges, own = estimate.ridges, estimate.leverages[0]
    assert own is not None
    values, roots = estimate.whitening.values, estimate.whitening.roots
    g, h, scale = ridges.slope, ridges.h, 2 / math.pi * ridges.step
    root_x, root_u = np.sqrt(ridges.x), np.sqrt(estimate.spectral.u)
    moves = np.isclose(estimate.spectral.u, ridges.x / own.theta, rtol=1e-9)  # else theta is held where it is rounding
    part = ridges.concentration
    to_finite = -2 / (2 * n) * scale * root_x  # r/2 = (1/2n) [sum s / 4 - 2 scale sum sqrt(x) (sum L^2 / h) g]
    constant = -scale * moves * root_u * g / (2 * h) + scale * (root_u - root_x) + to_finite * part * (1 - g / h)
    linear = -2 * scale * (root_u - root_x) + to_finite * (2 * g / h - 2 * part)
    slope = ridges.shrinkage * ridges.rest / values
    by_value = slope.new_tensor(constant) @ slope + slope.new_tensor(linear) @ (slope * ridges.shrinkage)
    return by_value + (1 / 2 + 1 / (16 * n)) / roots, moves * scale * g * root_u / (2 * own.mean_g)
