"""What makes an array a mean or a covariance, and the sentence for what does not; NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from fdr.errors import InputError

MAX_ASYMMETRY = 1e-6
"""Of the largest entry; float32 statistics stay below it."""
MAX_NEGATIVE = 1e-6
"""Negative eigenvalues up to this share of the largest are rounding (of float32 statistics at worst)."""


def is_tensor(x: Any) -> bool:
    """True for a torch tensor, without importing torch."""
    return hasattr(x, "is_cuda") and hasattr(x, "detach")


def as_numpy(x: Any) -> np.ndarray:
    """A NumPy array of a tensor on any device, or of anything array-like; bfloat16 and float16 tensors as float32."""
    if not is_tensor(x):
        return np.asarray(x)
    x = x.detach().cpu()
    return (x.float() if x.is_floating_point() and x.element_size() < 4 else x).numpy()


def real_array(value: Any, name: str) -> np.ndarray:
    """A float64 array of its own memory; raises `InputError` for other kinds and for values that are not finite."""
    array = as_numpy(value)
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name} has dtype {array.dtype}; expected real numbers.")
    array = np.array(array, dtype=np.float64, order="C")
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise InputError(f"{name} holds {bad} NaN or infinite values of {array.size}; compute the statistics again.")
    return array


def check_shapes(mu: np.ndarray, sigma: np.ndarray) -> None:
    """Raise `InputError` unless they are [D] and [D, D]."""
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)) or len(mu) == 0:
        raise InputError(
            f"mu has shape {list(mu.shape)} and sigma {list(sigma.shape)}; expected [D] and [D, D] of one width D."
        )


def asymmetry(sigma: np.ndarray) -> float:
    """How far `sigma` is from its transpose, as a share of its largest entry."""
    if np.array_equal(sigma, sigma.T):
        return 0.0
    largest = float(np.abs(sigma).max())
    gap = np.subtract(sigma, sigma.T)
    return float(np.abs(gap, out=gap).max()) / largest


def symmetric(sigma: np.ndarray) -> np.ndarray:
    """`sigma`, made exactly symmetric; raises `InputError` when it is far from it or has a negative variance."""
    gap = asymmetry(sigma)
    if gap > MAX_ASYMMETRY:
        raise InputError(
            f"sigma is not symmetric: it differs from its transpose by up to {gap:.1e} of its largest entry; "
            "it is no covariance."
        )
    if gap > 0:
        sigma = (sigma + sigma.T) / 2
    variances = sigma.diagonal()
    limit = MAX_NEGATIVE * max(0.0, variances.max())
    negative = np.count_nonzero(variances < -limit)
    if negative:
        raise InputError(f"sigma has a negative variance in {negative} of {len(sigma)} columns; it is no covariance.")
    if (np.abs(sigma[variances <= 0]) > limit).any():
        raise InputError("sigma has covariances in a column of variance 0; it is no covariance.")
    return sigma


def check_semidefinite(sigma: np.ndarray) -> None:
    """Raise `InputError` unless symmetric `sigma` is positive semidefinite; eigenvalues only where Cholesky fails."""
    try:
        np.linalg.cholesky(sigma)
    except np.linalg.LinAlgError:
        values = np.linalg.eigvalsh(sigma)
        check_spectrum(float(values[0]), float(values[-1]), "covariance")


def check_spectrum(smallest: float, largest: float, name: str) -> None:
    """Raise `InputError` unless these extreme eigenvalues are those of a covariance, up to rounding."""
    if smallest < -MAX_NEGATIVE * max(0.0, largest):
        raise InputError(
            f"The {name} is not positive semidefinite: its smallest eigenvalue is {smallest:.3g}, its largest "
            f"{largest:.3g}; these are not the statistics of any set of features, compute them again."
        )
