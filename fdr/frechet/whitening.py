"""The common basis of two covariances, in which errors of the Fréchet distance are sums over coordinates.

With any factor F of S_p and F^T S_q F = V diag(s^2) V^T, features x [D] of either side are whitened by

    z_q = diag(1/s) V^T F^T (x - m_q),      z_p = V^T F^+ (x - m_p)

(F^+ is the inverse of F, or its pseudo-inverse). Both have the identity as covariance, tr (S_q S_p)^{1/2} = sum s_i,
and for the optimal map T from either Gaussian to the other x^T T x = sum s_i z_i^2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fdr.errors import InputError
from fdr.frechet import linalg
from fdr.frechet.covariance import as_numpy, is_tensor
from fdr.frechet.moments import Moments

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SEED = 0
"""Of random parts of the rows."""
CHUNK_VALUES = 2**22
"""Numbers in a block of whitened features (32 MiB). Raising it takes more memory and gives larger products."""
MIN_EIGENVALUE = 1e-15
"""Eigenvalues below this share of the largest are rounding and are left out. Raising it leaves out directions."""
MAX_MISFIT = 1e-3
"""Rows whose second moments differ by more than this share from the covariance are of another set.

Raising it lets more sets through that were mixed up. A random part of the rows may differ by half.
"""


@dataclass(frozen=True)
class Side:
    """One of two sets of features."""

    moments: Moments
    rows: Any
    """The features [N, D], an array or a tensor; None where only their moments are known."""
    kept: dict[tuple[bytes, str], Tensor | None] | None = field(default=None, compare=False)
    """The Cholesky factor of the last call, by its features and device, for a side that meets many others; None keeps
    none."""

    @classmethod
    def of(cls, features: Any, device: Any = None) -> Side:
        """The side of `Moments`, of features [N, D], or of an iterable of batches of features, which are kept."""
        if isinstance(features, Moments):
            return cls(features, rows_of(features))
        if not hasattr(features, "shape"):
            features = np.concatenate([as_numpy(batch) for batch in features])
        return cls(Moments.from_features(features, device=device), features)

    @property
    def n(self) -> float:
        """Degrees of freedom of the covariance, N - 1; infinite where the moments are exact (no count)."""
        return math.inf if self.moments.count is None else self.moments.count - 1

    @property
    def has_all_rows(self) -> bool:
        """True if `rows` are all the features behind the moments."""
        return self.rows is not None and len(self.rows) == self.moments.count

    def random_part(self, most: int) -> Side:
        """This side with its rows in seeded random order, and with the first `most` of them only."""
        chosen = np.random.default_rng(SEED).permutation(len(self.rows))[:most]
        return Side(self.moments, self.rows[chosen])

    @property
    def sigma(self) -> np.ndarray:
        """The unbiased covariance [D, D], or the one that is taken as exact."""
        moments = self.moments
        if moments.count is None or moments.ddof == 1:
            return moments.sigma
        return moments.sigma * ((moments.count - moments.ddof) / (moments.count - 1))


def rows_of(moments: Moments) -> np.ndarray | None:
    """The features behind moments: their `rows`, or for N <= D the centred features that they keep; else None."""
    if moments.rows is not None or moments.factor is None:
        return moments.rows
    return moments.factor + moments.mu


def has_rows(moments: Moments) -> bool:
    """True where the features behind moments are known, so that standard errors and the debiased FD can be computed."""
    return moments.rows is not None or moments.factor is not None


@dataclass(frozen=True)
class Whitening:
    """The common basis of two sides; see the top of the module."""

    roots: Tensor
    """s [r], descending and above 0: at most as many as there are degrees of freedom on either side."""
    projections: tuple[Tensor, Tensor]
    """[D, r] for the samples and for the reference: z = (x - m) P. Rows of unshared features are 0. It is [D, 0] for a
    side whose features are not known."""
    dim: int
    """Number of features that vary on at least one side."""

    @property
    def values(self) -> Tensor:
        """The eigenvalues s^2 [r]."""
        return self.roots.square()


def whitening_of(samples: Moments, reference: Moments, device: torch.device) -> Whitening:
    """`whiten` of two moments. The last one is kept with the samples, so that its decomposition is made once."""
    other, where, found = samples.derived.get("whitening", (None, None, None))
    if other is not reference or where != str(device):
        found = whiten(Side.of(samples), Side.of(reference), device)
        samples.derived["whitening"] = (reference, str(device), found)
    assert found is not None
    return found


def whiten(samples: Side, reference: Side, device: torch.device) -> Whitening:
    """The common basis; both covariances may be singular.

    Where no feature varies on both sides, it has no directions (r = 0). Raises `InputError` where the widths differ.
    """
    import torch

    columns, varying = shared_columns(samples, reference)
    dim = len(varying)
    if len(columns) == 0:
        empty = torch.empty(samples.moments.dim, 0, dtype=torch.float64, device=device)
        return Whitening(empty[0], (empty, empty), dim)
    lower = _cholesky(reference, columns, device)
    if lower is not None:
        return _from_factor(samples, reference, columns, dim, lower, True)
    lower = _cholesky(samples, columns, device)
    if lower is not None:
        found = _from_factor(reference, samples, columns, dim, lower, True)
        return Whitening(found.roots, (found.projections[1], found.projections[0]), dim)
    return _from_factor(samples, reference, columns, dim, _singular_factor(reference, columns, device), False)


def _cholesky(side: Side, columns: np.ndarray, device: torch.device) -> Tensor | None:
    """The Cholesky factor [c, c] of the covariance over `columns`; None where it has none."""
    if side.kept is None:
        return linalg.cholesky_factor(_covariance(side, columns, device))
    key = columns.tobytes(), str(device)
    if key not in side.kept:
        side.kept.clear()
        side.kept[key] = linalg.cholesky_factor(_covariance(side, columns, device))
    return side.kept[key]


def _singular_factor(side: Side, columns: np.ndarray, device: torch.device) -> Tensor:
    """A factor [c, k] with orthogonal columns of a singular covariance: from its features, where they are fewer."""
    if not side.has_all_rows or side.n >= len(columns):
        return linalg.eigen_factor(_covariance(side, columns, device), "reference covariance")
    _, roots, right = linalg.svd(_centred(side, columns, device) / math.sqrt(side.n))
    kept = roots.square() > linalg.EPS * len(columns) * roots[0].square()
    return right[kept].T * roots[kept]


def _centred(side: Side, columns: np.ndarray, device: torch.device) -> Tensor:
    """The centred features of all rows over `columns`, [N, c]."""
    import torch

    return torch.cat([chunk[:, columns] for _, chunk in centred_chunks(side, device)])


def shared_columns(samples: Side, reference: Side) -> tuple[np.ndarray, np.ndarray]:
    """The features that vary on both sides, by descending variance of the reference, and those that vary on either."""
    if samples.moments.dim != reference.moments.dim:
        raise InputError(
            f"Features of width {samples.moments.dim} cannot be compared with features of width "
            f"{reference.moments.dim}; both sides need the same encoder and output."
        )
    own, other = samples.moments.sigma.diagonal(), reference.moments.sigma.diagonal()
    shared = np.flatnonzero((own > 0) & (other > 0))
    return shared[np.argsort(-other[shared], kind="stable")], np.flatnonzero((own > 0) | (other > 0))


def _covariance(side: Side, columns: np.ndarray, device: torch.device) -> Tensor:
    return linalg.as_float64(side.sigma[np.ix_(columns, columns)], device)


def _from_factor(a: Side, b: Side, columns: np.ndarray, dim: int, factor: Tensor, is_triangular: bool) -> Whitening:
    """The basis from a factor [c, k] of the covariance of `b`, a Cholesky factor or orthogonal columns."""
    import torch

    width = factor.shape[1]
    if a.has_all_rows and a.n < width:
        _, roots, right = linalg.svd(_centred(a, columns, factor.device) @ factor / math.sqrt(a.n))
        vectors = right.T
    else:
        covariance = _covariance(a, columns, factor.device)
        matrix = linalg.congruence_(factor, covariance) if is_triangular else factor.T @ covariance @ factor
        values, vectors = linalg.faster_eigh(matrix)
        roots, vectors = values.flip(0).clamp(min=0).sqrt(), vectors.flip(1)
    above_rounding = int((roots.square() >= MIN_EIGENVALUE * roots[0].square()).sum())
    r = int(min(width, a.n, b.n, above_rounding))
    roots, vectors = roots[:r], vectors[:, :r]
    own = other = factor.new_zeros(a.moments.dim, 0)
    if a.rows is not None:
        own = factor.new_zeros(a.moments.dim, r)
        own[columns] = _times(factor, vectors, is_triangular) / roots
    if b.rows is not None:
        other = factor.new_zeros(a.moments.dim, r)
        if is_triangular:
            other[columns] = torch.linalg.solve_triangular(factor.T, vectors, upper=True)
        else:
            other[columns] = (factor / factor.square().sum(0)) @ vectors
    return Whitening(roots, (own, other), dim)


def _times(factor: Tensor, vectors: Tensor, is_triangular: bool) -> Tensor:
    """F V; the zeros above the diagonal of a lower triangle are left out, which halves the work."""
    if not is_triangular:
        return factor @ vectors
    found = factor.new_empty(len(factor), vectors.shape[1])
    for start in range(0, len(factor), linalg.BLOCK):
        stop = start + linalg.BLOCK
        found[start:stop] = factor[start:stop, :stop] @ vectors[:stop]
    return found


def centred_chunks(side: Side, device: torch.device, width: int = 0) -> Iterator[tuple[slice, Tensor]]:
    """The centred features in float64, block by block, with their rows; `width` is that of what is made of them."""
    import torch

    mu = torch.as_tensor(side.moments.mu.copy(), device=device)
    size = max(64, CHUNK_VALUES // max(side.moments.dim, width))
    for start in range(0, len(side.rows), size):
        rows = slice(start, min(start + size, len(side.rows)))
        block = side.rows[rows].clone() if is_tensor(side.rows) else torch.from_numpy(np.array(side.rows[rows]))
        yield rows, block.to(device, torch.float64).sub_(mu)


def whitened_chunks(side: Side, projection: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Rows, centred features [n, D] and whitened features z [n, r], block by block."""
    for rows, centred in centred_chunks(side, projection.device, projection.shape[1]):
        yield rows, centred, centred @ projection


def check_fit(side: Side, roots: Tensor, second_moments: Tensor) -> None:
    """Raise `InputError` unless the mean of z^2 [r] over the rows is that of their covariance, which is n / N."""
    share = float((roots * second_moments).sum() / roots.sum()) * (side.n + 1) / side.n
    allowed = MAX_MISFIT if side.has_all_rows else 0.5
    if len(roots) and not abs(share - 1) <= allowed:
        raise InputError(
            f"The rows of these moments have {share:.4g} times the variance that the covariance says; they are of "
            "another set, so compute the moments from the rows (Moments.from_features)."
        )
