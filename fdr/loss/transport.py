"""The optimal transport map from a population to a reference, and the closed-form gradient of FD that it gives.

Symbols, for features of width d:

    m_p [d], S_p [d, d]   mean and covariance of the reference
    m_q [d], S_q [d, d]   mean and covariance of the population of generated features
    F [d, r]              a factor of the reference of full column rank, F F^T = S_p
    M [r, r]              F^T S_q F, which has the nonzero eigenvalues of S_p S_q
    T [d, d]              F M^{-1/2} F^T, the map that takes N(0, S_q) to N(0, S_p): T S_q T = S_p

    FD = |m_q - m_p|^2 + tr S_q + tr S_p - 2 tr (S_p S_q)^{1/2},   tr (S_p S_q)^{1/2} = tr M^{1/2},   dFD/dS_q = I - T

(Dowson and Landau 1982; FD as a loss: arXiv 2604.28190). So a sample z [d] that enters the population with weight w
has dFD/dz = 2 w (z - [m_p + T (z - m_q)]): it is pulled towards the point to which optimal transport would take it. No
gradient passes through an eigendecomposition. Where M is singular, M^{-1/2} is its pseudo-inverse. Directions in which
T is not determined get T = 0, and samples shrink in them.

Every solver here takes the full S_q and is exact in float64; `frozen_basis.py` has the fast one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fdr import frechet
from fdr.frechet import Moments

if TYPE_CHECKING:
    from torch import Tensor

NEWTON_STEPS = 60
"""Most steps of the Newton-Schulz iteration. It needs about log(cond M) / (2 log 1.5) of them.

60 reach a condition number of 1e19, more than float64 can resolve, so raising it changes nothing.
"""
FLOOR = 0.01
"""Least variance of a population that need not be positive definite, in a direction, as a share of the reference's.

Raising it bounds the transport map more tightly, and moves populations that are narrow in truth.
"""
NEWTON_RESIDUAL = 1e-10
"""|I - Z Y|_F / sqrt(r) at which Newton-Schulz counts as converged. Raising it saves steps and loses accuracy."""


@dataclass(frozen=True)
class Target:
    """The reference in the form that the solvers need, restricted to the `columns` in which it varies."""

    mean: Tensor
    """m_p [d]."""
    trace: float
    """tr S_p."""
    columns: Tensor
    """Indices [c] of the features with a variance above 0, by descending variance.

    The order matters: a Cholesky factor graded in this way keeps the digits of small eigenvalues.
    """
    factor: Tensor
    """F [c, r] over `columns`; r < c where the reference has few samples."""
    is_lower: bool
    """True where F is a Cholesky factor."""

    @property
    def dim(self) -> int:
        """Width d of the features."""
        return self.mean.shape[0]

    @classmethod
    def of(cls, reference: Moments, device: torch.device) -> Target:
        """The target made of `reference`, on `device`."""
        variances = reference.sigma.diagonal()
        columns = np.flatnonzero(variances > 0)
        columns = columns[np.argsort(-variances[columns], kind="stable")]
        factor, is_lower = _full_rank_factor(reference, columns, device)
        mean = frechet.as_float64(np.array(reference.mu), device)
        return cls(mean, float(reference.sigma.trace()), torch.from_numpy(columns).to(device), factor, is_lower)

    def congruence(self, sigma: Tensor) -> Tensor:
        """M [r, r], given S_q [d, d]; only its lower triangle is defined."""
        covariance = sigma[self.columns][:, self.columns]
        if self.is_lower:
            return frechet.congruence_(self.factor, covariance)
        return self.factor.T @ covariance @ self.factor

    def spread(self, values: Tensor) -> Tensor:
        """Put `values` [n, c] at `columns` of a tensor [n, d] that is 0 elsewhere."""
        return values.new_zeros(len(values), self.dim).index_copy_(1, self.columns, values)


def _full_rank_factor(reference: Moments, columns: np.ndarray, device: torch.device) -> tuple[Tensor, bool]:
    """F [c, r] of full column rank, and whether it is a lower Cholesky factor."""
    if reference.factor is not None:
        assert reference.count is not None
        thin = frechet.as_float64(np.array(reference.factor[:, columns].T), device)
        left, roots, _ = frechet.svd(thin)
        kept = _above_rounding(roots, reference.dim)
        return left[:, kept] * (roots[kept] / (reference.count - reference.ddof) ** 0.5), False
    covariance = frechet.as_float64(reference.sigma[np.ix_(columns, columns)], device)
    lower = frechet.cholesky_factor(covariance) if len(columns) else covariance
    if lower is not None:
        return lower, True
    return frechet.eigen_factor(covariance, "reference covariance"), False


@dataclass(frozen=True)
class Diagnostics:
    """How a value was found."""

    route: str
    """"cholesky", "eigen", "factors", "floored", "thin", "newton-schulz", or "constant" for a reference that does not
    vary; the fast solver has "frozen", "frozen-2" (with higher orders), "refresh" and "plain"; the solver local has
    "local", and the debiased batch "leverages"."""
    error_estimate: float | None = None
    """Estimated relative error of the gradient where this step estimated it, or the residual of an iteration."""
    refreshed: bool = False
    """True where this step made a full eigendecomposition."""


@dataclass(frozen=True)
class Transport:
    """What a solver returns about a population and about the rows of the batch."""

    root_trace: Tensor
    """tr M^{1/2}, a float64 scalar."""
    moved: Tensor
    """The centred rows after the map, (z - m_q) T [B, d], in the precision of the solver."""
    diagnostics: Diagnostics
    roots: Tensor | None = None
    """s [k], the square roots of the eigenvalues of M where the solver has them, in any order."""
    raised: Tensor | float = 0.0
    """By how much the solver raised tr S_q, see `solve_floored`."""


Solver = Callable[[Target, "Tensor", "Tensor"], Transport]
"""(target, S_q [d, d], centred rows [B, d]) -> Transport; the rows must be of the population."""


def solve_exact(target: Target, sigma: Tensor, rows: Tensor) -> Transport:
    """By one symmetric eigendecomposition M = V s^2 V^T, so that T = (F V) s^{-1} (F V)^T.

    `solve_by_factors` is used where M is singular or badly conditioned.
    """
    if len(target.columns) == 0:
        return _decomposed(rows.new_zeros(0), torch.zeros_like(rows), "constant")
    congruent = target.congruence(sigma)
    if frechet.is_singular(congruent):
        return solve_by_factors(target, sigma, rows)
    values, vectors = frechet.eigh(congruent)
    if not values[0] > frechet.MIN_RATIO * values[-1]:
        return solve_by_factors(target, sigma, rows)
    roots = values.sqrt()
    moved = _moved(rows[:, target.columns], target.factor @ vectors, roots)
    return _decomposed(roots, target.spread(moved), "cholesky" if target.is_lower else "eigen")


def solve_by_factors(target: Target, sigma: Tensor, rows: Tensor) -> Transport:
    """By the singular values s of F_q^T F, with F_q F_q^T = S_q: they are the square roots of the eigenvalues of M.

    This keeps the digits of small eigenvalues that the product M = F^T S_q F loses.
    """
    covariance = sigma[target.columns][:, target.columns]
    own = frechet.cholesky_factor(covariance)
    if own is None:
        own = frechet.eigen_factor(covariance, "population's covariance", scale=target.trace)
    _, roots, right = frechet.svd(own.T @ target.factor)
    kept = _above_rounding(roots, max(own.shape[0], 1))
    moved = _moved(rows[:, target.columns], target.factor @ right[kept].T, roots[kept])
    return _decomposed(roots, target.spread(moved), "factors")


def solve_floored(target: Target, sigma: Tensor, rows: Tensor) -> Transport:
    """As `solve_exact`, for S_q that may have negative eigenvalues, as a history carried along has (`lag.py`).

    S_q is raised in the directions u_i = F (F^T F)^-1 v_i to at least `FLOOR` times the variance of the reference:
    eigenvalue l_i of M, with eigenvector v_i, to at least FLOOR v_i^T F^T S_p F v_i. FD is that of the raised S_q.
    """
    if len(target.columns) == 0:
        return solve_exact(target, sigma, rows)
    values, vectors = _eigen_of(target, sigma)
    basis = target.factor @ vectors
    raised = torch.maximum(values, FLOOR * (target.factor.T @ basis).square().sum(0))
    low = raised > values
    route = "floored" if bool(low.any()) else "cholesky" if target.is_lower else "eigen"
    roots, added = raised.sqrt(), (raised - values)[low] @ _inverse_lengths(target, vectors[:, low])
    found = _decomposed(roots, target.spread(_moved(rows[:, target.columns], basis, roots)), route)
    return replace(found, raised=added, roots=None)  # they are not those of independent samples


def _eigen_of(target: Target, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [r] and eigenvectors [r, r] of M, by singular values where M is badly conditioned and S_q is not."""
    values, vectors = frechet.eigh(target.congruence(sigma))
    if values[0] > frechet.MIN_RATIO * values[-1]:
        return values, vectors
    own = frechet.cholesky_factor(sigma[target.columns][:, target.columns])
    if own is None:
        return values, vectors
    _, roots, right = frechet.svd(own.T @ target.factor)
    return roots.square(), right.T


def _inverse_lengths(target: Target, vectors: Tensor) -> Tensor:
    """|F (F^T F)^-1 v|^2 [k] for the columns v of `vectors` [r, k]; F has orthogonal columns, or is triangular."""
    if target.is_lower:
        return torch.linalg.solve_triangular(target.factor.T, vectors, upper=True).square().sum(0)
    return (vectors.square() / target.factor.square().sum(0)[:, None]).sum(0)


def solve_thin(target: Target, rows: Tensor) -> Transport:
    """For a population of n <= d centred `rows` [n, d]: S_q = rows^T rows / n, so the rows are a factor of S_q.

    With the singular value decomposition rows F / sqrt(n) = U s V^T, tr M^{1/2} is the sum of s, and
    rows T = sqrt(n) U V^T F^T.
    """
    scale = len(rows) ** 0.5
    left, roots, right = frechet.svd(rows[:, target.columns] @ target.factor / scale)
    kept = _above_rounding(roots, target.dim)
    moved = scale * (left[:, kept] @ right[kept]) @ target.factor.T
    return _decomposed(roots, target.spread(moved), "thin")


def solve_newton_schulz(target: Target, sigma: Tensor, rows: Tensor) -> Transport:
    """By the coupled Newton-Schulz iteration for M^{1/2} and M^{-1/2}, for devices that are slow at `eigh`.

    It uses matrix products only. Where M is singular to rounding or the residual stops falling, `solve_exact` is used.
    """
    congruent = target.congruence(sigma).tril()
    congruent = congruent + congruent.tril(-1).T
    found = None if frechet.is_singular(congruent) else frechet.newton_schulz(congruent, NEWTON_STEPS, NEWTON_RESIDUAL)
    if found is None:
        return solve_exact(target, sigma, rows)
    root, inverse_root, residual = found
    moved = rows[:, target.columns] @ target.factor @ inverse_root @ target.factor.T
    return Transport(root.trace(), target.spread(moved), Diagnostics("newton-schulz", residual))


def _decomposed(roots: Tensor, moved: Tensor, route: str) -> Transport:
    return Transport(roots.sum(), moved, Diagnostics(route, refreshed=True), roots)


def _moved(rows: Tensor, basis: Tensor, roots: Tensor) -> Tensor:
    """`rows` T [B, c] for T = W s^{-1} W^T, with W = `basis` [c, k], s = `roots` [k], in the cheaper order."""
    if len(rows) > len(basis):
        return rows @ ((basis / roots) @ basis.T)
    return (rows @ basis / roots) @ basis.T


def _above_rounding(roots: Tensor, size: int) -> Tensor:
    """A mask of the singular values (given in descending order) that exceed the rounding error of the largest."""
    largest = roots[0] if len(roots) else roots.sum()
    return roots > max(size, len(roots)) * frechet.EPS * largest


def frechet_loss(features: Tensor, fd: Tensor, gradient: Tensor) -> Tensor:
    """`fd` as a differentiable function of `features` [B, d], whose backward pass gives the known `gradient` [B, d].

    It cannot be differentiated twice.
    """
    assert gradient.shape == features.shape
    return _KnownGradient.apply(features, fd, gradient)


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, fd: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return fd.detach().clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, arriving: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return arriving.to(gradient.dtype) * gradient, None, None
