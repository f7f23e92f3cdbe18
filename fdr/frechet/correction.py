"""The leverage-corrected Fréchet distance: FD without the bias that comes from the number of samples, in closed form.

With the h_a and theta of `leverages`, on a grid of ridges x over the eigenvalues l_i = s_i^2 of F^T S_q F:

    u(x) = x / (theta_q(x) theta_p(x))            the ridge of the population that a ridge x of the samples stands for
    v = sum s_i + (2/pi) int (sqrt u - sqrt x) g dlog x                         estimates tr (S_q S_p)^{1/2}
    r = (1/n_q + 1/n_p) [sum s_i / 4 - (4/pi) int sqrt x (sum L_i^2) / (sum L_i) g dlog x]
    FD_lev = |m_q - m_p|^2 - tr S_q / N_q - tr S_p / N_p + tr S_q + tr S_p - 2 v - r

v is the Stieltjes form of a trace, (1/pi) int H(u) u^{-1/2} du, with the H of the population read off the samples at
u(x): the effective dimension H(u(x)) = h(x). For Gaussian features of many dimensions it is the estimator of Tiomoko
and Couillet (2019); theta makes it hold for heavy tails as well. r is the part of order 1 by which fluctuations of h_a
at a finite dimension are taken for a spread of scales. An exact side has theta = 1 and 1/N = 0.

With fewer samples than dimensions H is known only above u_min = min u(x). There it lies between h(x) at that ridge and
D, which bounds v; in between it is extrapolated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fdr.errors import InputError, RunError
from fdr.frechet.leverages import Leverages, Ridges, measure_leverages
from fdr.frechet.whitening import Side, Whitening, whiten

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SLOPE_WIDTH = 1.5
"""The slope of H at u_min is taken over this width in log u. A longer one is steadier and less local."""
EXTRAPOLATION_POINTS = 4096
"""Points of the sum over the extrapolated part of H. More change its last digits."""
MIN_KNOWN = 0.9
"""This share of the effective dimension must lie at ridges free of rounding. Raising it refuses more features."""
MIN_THETA = 0.2
"""A theta that is estimated without features is at least this; below it a reference is too small to be corrected."""


@dataclass(frozen=True)
class SpectralSum:
    """An estimate of tr (S_q S_p)^{1/2} of the populations."""

    value: float
    low: float
    high: float
    """Bounds of `value`, apart in the extrapolated case only."""
    finite: float
    """r / (1/n_q + 1/n_p)."""
    u: np.ndarray
    """[K]"""


def spectral_sum(values: Tensor, ridges: Ridges, theta: np.ndarray, n: float, dim: int) -> SpectralSum:
    """v and r for eigenvalues [r] and theta = theta_q theta_p [K]; n = min(n_q, n_p), and dim is D.

    Raises `RunError` where u does not grow with x although n >= D, and not at the smallest ridges alone.
    """
    roots = values.sqrt().cpu().numpy()
    x, g, h = ridges.x, ridges.slope, ridges.h
    u = x / theta if n < dim else _population_ridges(ridges, theta)
    finite = roots.sum() / 4 - 4 / math.pi * float((np.sqrt(x) * ridges.concentration * g).sum()) * ridges.step
    if n >= dim:
        value = _root_trace(values, ridges, u)
        return SpectralSum(value, value, value, finite, u)
    start = int(u.argmin())
    least, known = float(u[start]), float(h[start])
    weights = np.full(len(x) - start, ridges.step)
    weights[0] = ridges.step / 2
    above = (
        float((roots * (math.pi / 2 - np.arctan(math.sqrt(x[start]) / roots))).sum())
        + math.sqrt(x[start]) * known
        + float(((np.sqrt(u) - np.sqrt(x)) * g)[start:] @ weights)
        - math.sqrt(least) * known
    )
    low, high = (2 / math.pi * (above + math.sqrt(least) * count) for count in (known, max(dim, known)))
    value = 2 / math.pi * (above + _extrapolated(u[start:], h[start:], max(dim, known)))
    return SpectralSum(value, low, high, finite, u)


def population_root_trace(values: Tensor, theta: Callable[[np.ndarray], np.ndarray]) -> float:
    """v of eigenvalues [r] above 0 in descending order, where theta [K] is a known function of h [K]."""
    ridges = Ridges.over(values)
    return _root_trace(values, ridges, ridges.x / theta(ridges.h))


def _root_trace(values: Tensor, ridges: Ridges, u: np.ndarray) -> float:
    """v, given u [K]."""
    beyond = float(((np.sqrt(u) - np.sqrt(ridges.x)) * ridges.slope).sum()) * ridges.step
    return float(values.sqrt().sum()) + 2 / math.pi * beyond


def _population_ridges(ridges: Ridges, theta: np.ndarray) -> np.ndarray:
    """u = x / theta [K], which grows with x.

    A feature that is other than constant in one or two samples alone gives these a leverage of 1 up to rounding at the
    smallest ridges, where theta is then rounding, too. It is kept there as it is at the least ridge above them.
    """
    u = ridges.x / theta
    falls = np.flatnonzero(np.diff(u) <= -1e-9 * u[1:])
    if len(falls) == 0:
        return u
    first = int(falls[-1]) + 1
    if ridges.h[first] < MIN_KNOWN * ridges.h[0]:
        raise RunError(
            "The leverages of these features are not those of independent samples: the ridge of the population does "
            "not grow with that of the samples; look for repeated or constant features."
        )
    return ridges.x / np.where(np.arange(len(theta)) < first, theta[first], theta)


def _extrapolated(u: np.ndarray, h: np.ndarray, dim: float) -> float:
    """int of H over sqrt u from 0 to sqrt(u_min), with H = D / (1 + (D/H_min - 1) (u/u_min)^beta).

    beta gives H the slope that it has just above u_min, where u [K] starts.
    """
    least, known = float(u[0]), float(h[0])
    if known >= dim * (1 - 1e-12):
        return math.sqrt(least) * known
    end = np.interp(math.log(least) + SLOPE_WIDTH, np.log(u), np.log(h))
    beta = (math.log(known) - float(end)) / SLOPE_WIDTH / (1 - known / dim)
    t = (np.arange(EXTRAPOLATION_POINTS) + 0.5) / EXTRAPOLATION_POINTS
    return math.sqrt(least) * float((dim / (1 + (dim / known - 1) * t ** (2 * beta))).mean())


@dataclass(frozen=True)
class Estimate:
    """The leverage-corrected FD with its parts, before it is decided whether it may be believed."""

    value: float
    """FD_lev."""
    low: float
    high: float
    """Bounds that hold without extrapolation; equal to `value` where there is none."""
    raw: float
    """FD of the unbiased covariances, with its bias."""
    whitening: Whitening
    ridges: Ridges
    spectral: SpectralSum
    leverages: tuple[Leverages | None, Leverages | None]
    """Those of the samples and of the reference, where its features are known."""


def correct(
    samples: Side, reference: Side, device: torch.device, *, step: float | None = None, keep: int = 0
) -> Estimate:
    """FD_lev of two sides; `step` is that of the grid in log x, `keep` the number of tables of leverages to keep."""
    whitening = whiten(samples, reference, device)
    ridges = Ridges.over(whitening.values, step)
    sides = samples, reference
    found = [
        measure_leverages(side, whitening.roots, projection, ridges, keep) if side.has_all_rows else None
        for side, projection in zip(sides, whitening.projections, strict=True)
    ]
    theta = np.ones(len(ridges.x))
    for side, leverages in zip(sides, found, strict=True):
        theta *= theta_of_moments(side, ridges.h) if leverages is None else leverages.theta
    n = min(side.n for side in sides)
    spectral = spectral_sum(whitening.values, ridges, theta, n, whitening.dim)
    mean_term = float(np.square(samples.moments.mu - reference.moments.mu).sum())
    traces = [float(side.sigma.trace()) for side in sides]
    fixed = mean_term + sum(traces) - sum(trace / (side.n + 1) for trace, side in zip(traces, sides, strict=True))
    fixed -= spectral.finite * sum(1 / side.n for side in sides)
    raw = mean_term + sum(traces) - 2 * float(whitening.roots.sum())
    value, low, high = (float(fixed - 2 * root) for root in (spectral.value, spectral.high, spectral.low))
    return Estimate(value, low, high, raw, whitening, ridges, spectral, (found[0], found[1]))


def theta_of_moments(side: Side, h: np.ndarray) -> np.ndarray:
    """theta [K] of a side whose features are not known: 1 - kappa h / n, with kappa = 1 where there is no curve.

    1 for exact moments. Raises `InputError` for a side that is too small for this.
    """
    if math.isinf(side.n):
        return np.ones_like(h)
    curve = side.moments.curve
    theta = 1 - (1.0 if curve is None else curve.at(h)) * h / side.n
    if theta.min() < MIN_THETA:
        raise InputError(
            f"The moments of {side.moments.count} images in {side.moments.dim} dimensions are too few for their bias "
            "to be known without their features; give the images themselves, or moments of more images."
        )
    return theta
