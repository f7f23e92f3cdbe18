"""Symmetric factors and the trace of the square root of a product of covariances, in float64, on CPU or GPU.

A *factor* of a covariance S is any F [d, r] with F F^T = S: scaled centred features, a Cholesky factor with or without
pivots, or scaled eigenvectors. With factors of both sides, tr (S_a S_b)^{1/2} is the nuclear norm of F_a^T F_b, which
never forms a product of covariances and so keeps all digits when they are singular.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from fdr.errors import FdrWarning, RunError
from fdr.frechet import covariance as _covariance

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

EPS = 2.0**-52
"""Machine epsilon of float64."""
MIN_PIVOT = 1e-12
"""A covariance counts as singular when a Cholesky pivot is below this share of its own variance.

Raising it leaves fewer covariances to the fast Cholesky route.
"""
MIN_CONGRUENCE_PIVOT = 1e-10
"""The same for L^T S L, whose rounding is larger; above it the eigenvalue route is accurate to 1e-11."""
MIN_GRAM_PIVOT = 1e-8
"""The same for a Gram matrix, to which singular values are the slower and more accurate alternative.

Raising it uses singular values more often. In tests the error was below 1e-13 at pivots above it.
"""
NEGATIVE_ROUNDING = 1e-12
"""Negative eigenvalues up to this share of the largest count as rounding of float64 sums over some thousand samples.

Raising it warns of low precision less often.
"""
MIN_RATIO = 1e-11
"""l_min / l_max below which `eigh` leaves too few digits of l_min for its inverse root. Raising it uses slower,
more accurate routes more often."""
BLOCK = 256
"""Columns of a block in `congruence_`. Raising it gives larger products and skips fewer zeros."""


def as_float64(array: np.ndarray, device: torch.device) -> Tensor:
    """A float64 tensor on `device`; on the CPU it shares the memory of a float64 array, which must be writable."""
    import torch

    return torch.from_numpy(array).to(device, torch.float64)


def cholesky_factor(covariance: Tensor) -> Tensor | None:
    """The lower L [d, d] with L L^T = S, or None where S is singular to rounding. No jitter is ever added.

    Rows in descending order of variance give a graded L, which makes `sqrt_trace_by_congruence` accurate.
    """
    lower, smallest = _cholesky(covariance)
    return lower if smallest >= MIN_PIVOT else None


def pivoted_factor(covariance: Tensor) -> Tensor | None:
    """F [d, r] of a covariance of rank r < d by a Cholesky factorisation with pivots, or None where r is in doubt.

    It always runs on the CPU, as most of its work is choosing one pivot after another.
    """
    factor = _covariance.pivoted_factor(covariance.cpu().numpy())
    return None if factor is None else as_float64(factor, covariance.device)


def eigen_factor(covariance: Tensor, name: str = "covariance", scale: float = 0.0) -> Tensor:
    """F = V sqrt(l) [d, r] over the eigenvalues above rounding, d * eps * l_max; r is the numerical rank.

    `scale` is a variance for comparison: a covariance that is rounding of it throughout, as that of equal samples is,
    has rank 0. Raises `InputError` when an eigenvalue is negative beyond any rounding, and warns when it is
    negative beyond the rounding of float64 sums: both mean that S is no float64 covariance.
    """
    import torch

    values, vectors = torch.linalg.eigh(covariance)
    largest, smallest = max(float(values[-1]), EPS * scale), float(values[0])
    floor = _covariance.rounding_of(covariance.shape[0], largest)
    _covariance.check_spectrum(smallest, largest, name)
    if smallest < -max(10 * floor, NEGATIVE_ROUNDING * largest):
        warnings.warn(
            f"The {name} has negative eigenvalues (down to {smallest / largest:.1e} of the largest), as statistics "
            "computed in float32 have; they count as zero and FD is uncertain by about the square root of that share.",
            FdrWarning,
            stacklevel=2,
        )
    kept = values > floor
    return vectors[:, kept] * values[kept].sqrt()


def singular_factor(covariance: Tensor) -> Tensor:
    """The F of `eigen_factor` by a singular value decomposition, a slower algorithm that audits the other."""
    import torch

    left, values, _ = torch.linalg.svd(covariance)
    kept = values > _covariance.rounding_of(covariance.shape[0], float(values[0]))
    return left[:, kept] * values[kept].sqrt()


def nuclear_norm(matrix: Tensor) -> float:
    """The sum of singular values of any matrix [r, s]."""
    import torch

    return float(torch.linalg.svdvals(matrix).sum()) if matrix.numel() else 0.0


def sqrt_trace_by_congruence(lower: Tensor, covariance: Tensor) -> tuple[float, float] | None:
    """tr (L L^T S)^{1/2} = tr M^{1/2} for M = L^T S L, and an estimate of its relative error; see `_sqrt_trace`.

    Overwrites `covariance`.
    """
    return _sqrt_trace(congruence_(lower, covariance), MIN_CONGRUENCE_PIVOT)


def nuclear_norm_by_gram(matrix: Tensor) -> tuple[float, float] | None:
    """The nuclear norm of C = `matrix` as tr M^{1/2} for the smaller Gram matrix M of C; see `_sqrt_trace`.

    It takes a third of the time of singular values.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    return _sqrt_trace(tall.T @ tall, MIN_GRAM_PIVOT) if matrix.numel() else None


def _sqrt_trace(matrix: Tensor, least_pivot: float) -> tuple[float, float] | None:
    """tr M^{1/2} from the eigenvalues of M (its lower triangle), and an estimate of its relative error.

    None where a Cholesky pivot of M is below `least_pivot` of its own variance: M is then singular to rounding, and a
    zero eigenvalue that is computed as eps would add sqrt(eps) to the sum. The smallest pivot shows the accuracy: the
    eigenvalues of a graded M = D K D have a relative error of about eps times the condition number of K.
    """
    import torch

    smallest = _cholesky(matrix)[1]
    if smallest < least_pivot:
        return None
    values = torch.linalg.eigvalsh(matrix, UPLO="L").clamp(min=0)
    return float(values.sqrt().sum()), 1e-15 / smallest**0.5


def congruence_(lower: Tensor, covariance: Tensor) -> Tensor:
    """Turn S into the lower triangle (by blocks) of L^T S L for lower-triangular L [d, d].

    d^3 flops instead of the 4 d^3 of two products: zero blocks are skipped, and all above the diagonal blocks, which
    is left undefined. Blocks are overwritten once nothing later reads them.
    """
    dim = lower.shape[0]
    blocks = [slice(start, min(start + BLOCK, dim)) for start in range(0, dim, BLOCK)]
    for columns in blocks:
        below = slice(columns.start, dim)
        covariance[below, columns] = covariance[below, below] @ lower[below, columns]
    for rows in blocks:
        below, left = slice(rows.start, dim), slice(0, rows.stop)
        covariance[rows, left] = lower[below, rows].T @ covariance[below, left]
    return covariance


def _cholesky(matrix: Tensor) -> tuple[Tensor, float]:
    """The factor, and the smallest pivot L_ii^2 relative to its own variance S_ii (-1 where it breaks down)."""
    import torch

    lower, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        return lower, -1.0
    smallest = float((lower.diagonal() ** 2 / matrix.diagonal()).min())
    return lower, smallest if smallest == smallest else -1.0


def is_singular(matrix: Tensor) -> bool:
    """True where positive semidefinite M (its lower triangle) is singular to rounding, or empty."""
    return matrix.numel() == 0 or _cholesky(matrix)[1] < MIN_CONGRUENCE_PIVOT


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [r], ascending, and eigenvectors [r, r] of a symmetric float64 matrix, from its lower triangle.

    Raises `RunError` where LAPACK gives up, as it does on NaN.
    """
    import torch

    assert matrix.dtype == torch.float64
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError as error:
        raise _no_convergence(matrix, error) from error
    return values, vectors


def faster_eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """`eigh` by NumPy's library on the CPU, which takes half the time of torch's there; its last digits differ."""
    import numpy
    import torch

    if matrix.is_cuda:
        return eigh(matrix)
    try:
        values, vectors = numpy.linalg.eigh(matrix.numpy())
    except numpy.linalg.LinAlgError as error:
        raise _no_convergence(matrix, error) from error
    return torch.from_numpy(values), torch.from_numpy(vectors)


def graded_eigh(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """`eigh` of a positive definite M = D K D, D diagonal, with small eigenvalues to the digits that K has.

    It takes the singular values of a Cholesky factor, and several times as long. None where M is singular to rounding.
    """
    lower, smallest = _cholesky(matrix)
    if smallest < MIN_CONGRUENCE_PIVOT:
        return None
    _, roots, right = svd(lower.T)
    return roots.square().flip(0), right.T.flip(1)


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The thin U [m, k], s [k] descending and V^T [k, n] of any float64 matrix; `RunError` as `eigh`."""
    import torch

    assert matrix.dtype == torch.float64
    try:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError as error:
        raise _no_convergence(matrix, error) from error
    return left, values, right


def newton_schulz(matrix: Tensor, max_steps: int, tolerance: float) -> tuple[Tensor, Tensor, float] | None:
    """M^{1/2}, M^{-1/2} and |I - Z Y|_F / sqrt(r) of a positive definite M [r, r] by products alone.

    Y_0 = M / c, Z_0 = I; W = (3 I - Z Y) / 2; Y <- Y W, Z <- W Z (Denman & Beavers 1976; Higham 2008, eq. 6.35), with
    c >= |M|_2, so that it converges. None where the residual does not fall to `tolerance` within `max_steps`.
    """
    import torch

    scale = torch.minimum(torch.linalg.matrix_norm(matrix), matrix.abs().sum(0).max())
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    root, inverse, last = matrix / scale, identity, float("inf")
    for _ in range(max_steps):
        product = inverse @ root
        residual = float(torch.linalg.matrix_norm(identity - product)) / len(matrix) ** 0.5
        if residual <= tolerance:
            return root * scale.sqrt(), inverse / scale.sqrt(), residual
        if not residual < last:  # NaN, or rounding has taken over: in exact arithmetic it falls at every step
            return None
        step = 1.5 * identity - 0.5 * product
        root, inverse, last = root @ step, step @ inverse, residual
    return None


def _no_convergence(matrix: Tensor, error: Exception) -> RunError:
    return RunError(f"The decomposition of a {list(matrix.shape)} matrix failed ({error}); are the features finite?")
