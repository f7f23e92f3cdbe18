"""Checks that arrays are a mean and a covariance, and the rank and a factor of a covariance; NumPy only."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fdr.errors import InputError

MAX_ASYMMETRY = 1e-6
"""A covariance may differ from its transpose by this share of its largest entry, which float32 statistics do not reach.

Raising it accepts matrices that are no covariances.
"""
MAX_NEGATIVE = 1e-6
"""Negative eigenvalues up to this share of the largest count as rounding; it is that of float32 statistics at worst.

Raising it accepts matrices that are no covariances.
"""
BLOCK = 64
"""Columns that are worked on together. 32 to 128 take the same time; raising it further needs a larger cache."""
PIVOT_SHARE = 0.9
"""A pivot is at least this share of the largest variance left. Lowering it costs digits, and 1 makes short blocks."""
MAX_RESIDUAL = 10
"""The residual of a factor may be this many times `rounding_of`; white features of N = D / 2 come to 0.6.

Raising it accepts less accurate factors, where eigenvectors would be computed otherwise.
"""
MIN_GAP = 1e4
"""The smallest pivot must be this many times what is left, so that the rank is beyond doubt.

Raising it computes eigenvectors, which are slower, more often.
"""


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
    """A float64 copy of `value`; raises `InputError` for values that are not real or not finite."""
    array = as_numpy(value)
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name} has dtype {array.dtype}; expected real numbers.")
    array = np.array(array, dtype=np.float64, order="C")
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise InputError(f"{name} holds {bad} NaN or infinite values of {array.size}; compute the statistics again.")
    return array


def check_shapes(mu: np.ndarray, sigma: np.ndarray) -> None:
    """Raise `InputError` unless `mu` is [D] and `sigma` [D, D]."""
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)) or len(mu) == 0:
        raise InputError(
            f"mu has shape {list(mu.shape)} and sigma {list(sigma.shape)}; expected [D] and [D, D] of one width D."
        )


def asymmetry(sigma: np.ndarray) -> float:
    """How far `sigma` is from its transpose, as a share of its largest entry."""
    if _equals_its_transpose(sigma):
        return 0.0
    largest = float(np.abs(sigma).max())
    gap = np.subtract(sigma, sigma.T)
    return float(np.abs(gap, out=gap).max()) / largest


def _equals_its_transpose(sigma: np.ndarray) -> bool:
    """Compare block by block, in the processor's cache and each pair once: a third of the time of one comparison."""
    blocks = [slice(start, start + BLOCK) for start in range(0, len(sigma), BLOCK)]
    return all(np.array_equal(sigma[i, j], sigma[j, i].T) for k, i in enumerate(blocks) for j in blocks[k:])


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


def rank(sigma: np.ndarray) -> int:
    """The numerical rank of symmetric `sigma`; raises `InputError` unless it is positive semidefinite.

    It takes Cholesky factorisations; eigenvalues are computed only where these leave a doubt.
    """
    try:
        np.linalg.cholesky(sigma)
        return len(sigma)
    except np.linalg.LinAlgError:
        factor = pivoted_factor(sigma)
    if factor is not None:
        return factor.shape[1]
    values = np.linalg.eigvalsh(sigma)
    check_spectrum(float(values[0]), float(values[-1]), "covariance")
    return int((values > rounding_of(len(sigma), values[-1])).sum())


def rounding_of(dim: int, largest: float) -> float:
    """Eigenvalues of a [dim, dim] covariance up to this count as zero; `largest` is its largest eigenvalue."""
    return dim * float(np.finfo(float).eps) * float(largest)


def pivoted_factor(sigma: np.ndarray) -> np.ndarray | None:
    """F [D, r] with F F^T = S for symmetric S of rank r < D, in D r^2 flops instead of the 9 D^3 of eigenvectors.

    None where S is indefinite or its rank is in doubt. R = S - F F^T is zero except on the columns that were no
    pivots. Its norm must be rounding: then S has no eigenvalue below -|R|, and no more than r above |R|. The smallest
    pivot must lie far above it.
    """
    largest = float(sigma.diagonal().max())
    if not largest > 0:
        return None
    exponent = math.frexp(largest)[1] // 2  # a power of 4 scales S to about 1 and its factor without rounding
    scaled = np.ldexp(sigma, -2 * exponent)
    floor = rounding_of(len(sigma), _largest_eigenvalue(scaled))
    factor, left, smallest = _eliminated(scaled, floor)
    rest = scaled[np.ix_(left, left)] - factor[:, left].T @ factor[:, left]
    residual = float(np.linalg.norm(rest))
    sure = residual <= MAX_RESIDUAL * floor and smallest >= MIN_GAP * max(residual, floor / len(sigma))
    return np.ldexp(factor.T, exponent) if sure else None


def _eliminated(sigma: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray, float]:
    """The transposed factor [r, D], the columns that were no pivots, and the smallest pivot.

    This is a Cholesky factorisation with pivots, until no variance left is above `floor`. The largest variances left
    are the candidates of a block, whose columns are updated by one matrix product.
    """
    factor, variances, count, smallest = np.zeros_like(sigma), sigma.diagonal().copy(), 0, math.inf
    left = np.ones(len(sigma), dtype=bool)
    while variances.max() > floor and variances.min() >= -floor:
        start, candidates = count, np.argsort(-variances)[:BLOCK]
        columns = sigma[candidates] - factor[:start, candidates].T @ factor[:start]
        while variances.max() > floor:
            place = int(variances[candidates].argmax())
            pivot = float(variances[candidates[place]])
            if pivot < PIVOT_SHARE * variances.max():
                break
            column = columns[place] - factor[start:count, candidates[place]] @ factor[start:count]
            factor[count] = np.where(left, column, 0) / math.sqrt(pivot)
            variances -= np.square(factor[count])
            variances[candidates[place]], left[candidates[place]] = 0, False
            count, smallest = count + 1, min(smallest, pivot)
    return factor[:count], np.flatnonzero(left), smallest


def _largest_eigenvalue(sigma: np.ndarray) -> float:
    """An estimate from below, by power iteration from the column of the largest variance, which must be positive."""
    vector = sigma[sigma.diagonal().argmax()]
    for _ in range(8):
        vector = sigma @ (vector / np.linalg.norm(vector))
    return float(np.linalg.norm(vector))


def check_spectrum(smallest: float, largest: float, name: str) -> None:
    """Raise `InputError` unless these extreme eigenvalues are those of a covariance, up to rounding."""
    if smallest < -MAX_NEGATIVE * max(0.0, largest):
        raise InputError(
            f"The {name} is not positive semidefinite: its smallest eigenvalue is {smallest:.3g}, its largest "
            f"{largest:.3g}; these are not the statistics of any set of features, compute them again."
        )
