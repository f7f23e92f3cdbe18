"""The quadratic loss: FD to second order around the reference, with a gradient that no number of samples biases.

Symbols, for features of width d, in the eigenbasis U of the reference covariance and about the reference mean:

    sigma [d]             eigenvalues of the reference covariance S_p = U diag(sigma) U^T
    m [d], S [d, d]       mean and unbiased covariance of the population
    W [d, d]              W_ij = 1 / (sigma_i + sigma_j + 2 rho)
    x [d]                 a row z of the batch less m;  w its weight in the population;  N = 1 / sum of squared weights
    q = x o ((x o x) W)   its third-order term [d], where o is the product by elements

The loss is

    |m|^2 + 1/2 sum_ij W_ij (S - S_p)_ij^2,

which for rho = 0 is FD to second order in S - S_p (the Hessian of the Bures distance). It has the same only minimum as
FD for every rho >= 0. As it is linear in S where FD has S^{-1/2}, its gradient for one row needs the covariance of the
*other* rows only, and that is known without bias from any three of them. FD's own gradient has a bias of about d / N.

rho bounds the weight of directions in which the reference hardly varies. There the loss of a population that does vary
is (S_ii - sigma_i)^2 / (4 (sigma_i + rho)), where FD grows like S_ii only.

No step makes a decomposition: the features are turned into the eigenbasis, where S is kept, and the gradient is turned
back. W is a Cauchy matrix, whose rank to rounding is some tens whatever d is, so a product with it costs next to
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fdr import frechet
from fdr.errors import InputError
from fdr.frechet import Moments

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 3.0
"""The population must be worth more samples than this for its loss to be known without bias. It is no choice: the
denominators hold N - 2 and N - 3."""
THIN = 1e-14
"""Eigenvalues of the scaled W below this share of the largest are left out. Raising it saves time and loses digits."""


@dataclass(frozen=True)
class Quadratic:
    """The reference as the quadratic loss needs it."""

    basis: Tensor
    """U [d, d]; a column is an eigenvector."""
    values: Tensor
    """sigma [d], never negative."""
    weights: Tensor
    """W [d, d]."""
    thin: Tensor
    """A factor [d, r] of W: W = `thin` `thin`^T to rounding."""

    @classmethod
    def of(cls, reference: Moments, rho: float, device: torch.device) -> Quadratic:
        """By one eigendecomposition of the reference covariance; `rho` is in units of its mean eigenvalue.

        Raises `InputError` where `rho` is 0 and the reference does not vary in some direction.
        """
        values, basis = frechet.eigh(frechet.as_float64(reference.sigma + 0.0, device))
        floor = len(values) * frechet.EPS * float(values[-1])
        dead = int((values <= floor).sum())
        if dead and (rho == 0 or dead == len(values)):
            raise InputError(
                f"The reference does not vary in {dead} of {len(values)} directions, where the quadratic loss has no "
                "weight at rho = 0; give a rho above 0, such as 0.01, or another solver."
            )
        return cls.around(basis, torch.where(values > floor, values, 0), rho)

    @classmethod
    def around(cls, basis: Tensor, values: Tensor, rho: float) -> Quadratic:
        """For a known eigenbasis."""
        raised = values + rho * values.mean()
        roots = raised.sqrt()
        scaled = torch.outer(roots, roots) / (raised[:, None] + raised)  # its diagonal is 1/2, whatever the spectrum is
        sizes, vectors = frechet.eigh(scaled)
        kept = sizes > THIN * sizes[-1]
        thin = vectors[:, kept] * sizes[kept].sqrt() / roots[:, None]
        return cls(basis, values, 1 / (raised[:, None] + raised), thin)

    @property
    def own_weights(self) -> Tensor:
        """W_ii [d]."""
        return self.weights.diagonal()

    def turned(self, rows: Tensor, mean: Tensor) -> Tensor:
        """Rows [n, d] about `mean`, that of the reference, in the eigenbasis, in their own precision."""
        return (rows - mean).to(rows.dtype) @ self.basis.to(rows.dtype)

    def weighted(self, rows: Tensor) -> Tensor:
        """`rows` W [n, d]."""
        thin = self.thin.to(rows.dtype)
        return (rows @ thin) @ thin.T

    def cubes(self, rows: Tensor) -> Tensor:
        """q of each row x [B, d]."""
        return self.weighted(rows.square()).mul_(rows)


@dataclass(frozen=True)
class Sample:
    """A batch and the population that holds it, in the eigenbasis and about the reference mean."""

    rows: Tensor
    """x [B, d], about m."""
    cubes: Tensor
    """q of each row [B, d]."""
    mean: Tensor
    """m [d]."""
    sigma: Tensor
    """S [d, d], unbiased."""
    pulled: Tensor
    """W o (S - S_p) [d, d]."""
    count: float
    """N, the number of equally weighted samples that the population is worth."""

    @classmethod
    def of(cls, quadratic: Quadratic, rows: Tensor, mean: Tensor, biased: Tensor, squares: float) -> Sample:
        """From the biased covariance [d, d] and the sum of squared weights. Raises `InputError` below four samples."""
        if not 1 / squares > LEAST:
            raise InputError(
                f"The solver local needs four samples or more in the population; here they are worth {1 / squares:.3g}."
            )
        sigma = biased / (1 - squares)
        pulled = quadratic.weights * sigma
        pulled.diagonal().sub_(quadratic.own_weights * quadratic.values)
        return cls(rows, quadratic.cubes(rows), mean, sigma, pulled, 1 / squares)


def unbiased_loss(quadratic: Quadratic, sample: Sample) -> tuple[Tensor, Tensor]:
    """The loss without the bias that N samples give it, which may be negative, and the loss with that bias.

    Both are float64 scalars. tr (W o S S) is estimated as Himeno and Yamada (2014) do it without W, whose estimator is
    exact for any distribution where the samples have equal weights and the batch is all of them; else it is exact to
    first order in 1 / N. The fourth moments are those of the batch.
    """
    variances, n = sample.sigma.diagonal(), sample.count
    pull = quadratic.own_weights * quadratic.values
    square = (sample.pulled * sample.sigma).sum() + pull @ variances
    crossed = variances @ quadratic.weighted(variances[None])[0]
    fourth = (sample.rows * sample.cubes).sum(dtype=torch.float64) / len(sample.rows)
    alpha, beta, gamma = _coefficients(n)
    unbiased = alpha * square + beta * crossed - gamma * n * fourth
    linear = pull @ (quadratic.values / 2 - variances)
    shift = sample.mean.square().sum()
    return shift - variances.sum() / n + unbiased / 2 + linear, (shift + square / 2 + linear).clamp(min=0)


def leave_one_out(quadratic: Quadratic, sample: Sample, weight: float) -> Tensor:
    """The gradient for each row at unit weight [B, d], from the moments of all the other samples.

    These moments are m' = m - w x / (1 - w) and, with W2 = 1/N the sum of the squared weights,

        S' = f [(1 - W2) S - w / (1 - w) x x^T],      f = (1 - w) / ((1 - w)^2 - W2 + w^2),

    which is unbiased for any weights. The gradient 2 m' + 2 (z - m') (W o (S' - S_p)) follows from x (W o S) and q, so
    its mean over all other samples is that of the populations, but for the covariance of m' and S': third moments of
    the features over N.
    """
    rest, squares = 1 - weight, 1 / sample.count
    scale = rest / (rest**2 - squares + weight**2)
    whole = scale * (1 - squares)
    gradient = (sample.rows @ sample.pulled.to(sample.rows.dtype)).mul_(whole)
    gradient.sub_(sample.cubes, alpha=scale * weight / rest)
    own = quadratic.own_weights * quadratic.values * (whole - 1) - weight
    gradient.addcmul_(sample.rows, own.to(gradient.dtype))
    return _scaled(gradient, 2 / rest, sample.mean)


def batch_gradient(quadratic: Quadratic, sample: Sample) -> Tensor:
    """N times the gradient of the first of `unbiased_loss` [N, d], where the batch is the population.

    As the gradient of an exactly unbiased loss it is exactly unbiased for any distribution and any N > 3.
    """
    n, rows = sample.count, sample.rows
    alpha, beta, gamma = _coefficients(n)
    variances = sample.sigma.diagonal()
    own = beta * quadratic.weighted(variances[None])[0] - 1 / n
    own = (own + (alpha - 1) * quadratic.own_weights * quadratic.values) / (n - 1)
    gradient = (rows @ sample.pulled.to(rows.dtype)).mul_(alpha / (n - 1)).addcmul_(rows, own.to(rows.dtype))
    gradient.sub_(sample.cubes - sample.cubes.mean(0), alpha=gamma)
    return _scaled(gradient, 2 * n, sample.mean)


def _scaled(gradient: Tensor, scale: float, mean: Tensor) -> Tensor:
    """scale `gradient` + 2 m, in the memory of `gradient`."""
    return gradient.mul_(scale).add_(mean.to(gradient.dtype), alpha=2)


def _coefficients(n: float) -> tuple[float, float, float]:
    """alpha, beta, gamma in alpha sum W_ij S_ij^2 + beta sum W_ij S_ii S_jj - gamma sum_a x_a^T q_a."""
    scale = (n - 1) / (n * (n - 2) * (n - 3))
    return scale * (n - 1) * (n - 2), scale, scale * n / (n - 1)
