"""How a reference is spread out in feature space, which tells when FD against it misleads (arXiv 2605.29335)."""

from __future__ import annotations

import numpy as np

from fdr.frechet import Moments

LARGEST_DIM = 2048
"""`fdr show` computes eigenvalues up to this width without being asked. Raising it makes it slower on wide moments."""
DOUBTFUL = 10.0
"""Eigenvalues within this factor of the rounding error leave the rank in doubt, and so does a negative one beyond it.
Raising it leaves more covariances to the slower routes that find the rank otherwise."""


def spectrum(moments: Moments) -> np.ndarray:
    """The eigenvalues [r] of the covariance, ascending: r is D, or with features of N < D images N, as more are 0."""
    if moments.factor is not None and len(moments.factor) < moments.dim:
        return np.linalg.eigvalsh(moments.factor @ moments.factor.T / (len(moments.factor) - moments.ddof))
    values = np.linalg.eigvalsh(moments.sigma)
    rounding = moments.dim * np.finfo(float).eps * values[-1]
    is_large = values > DOUBTFUL * rounding
    if (is_large | (abs(values) < rounding / DOUBTFUL)).all():
        moments.derived["rank"] = int(is_large.sum())
    return values


def effective_rank(values: np.ndarray) -> float:
    """exp(H(p)) with the entropy H(p) = -sum p_i ln p_i of the eigenvalues as shares p_i = l_i / sum l of the variance.

    It is 1 if all variance lies in one direction, and D if every direction has as much (Roy & Vetterli 2007, eq. 3, for
    the singular values of the covariance).
    """
    values = values[values > 0]
    shares = values / values.sum()
    return float(np.exp(-(shares @ np.log(shares)))) if len(values) else 0.0


def participation_ratio(sigma: np.ndarray) -> float:
    """(tr S)^2 / tr S^2 of a covariance S [D, D]: the same idea as the effective rank with the sum of squared shares in
    place of the entropy, so it is never larger.
    """
    squares = float(np.vdot(sigma, sigma))
    return float(np.trace(sigma)) ** 2 / squares if squares else 0.0
