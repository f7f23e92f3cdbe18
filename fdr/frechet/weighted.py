"""FD of weighted samples, its gradient by the weights in closed form, and the weights that make it smallest.

With log-weights w [N], p = softmax(w), and features z_i [D] (Kynkäänniemi et al. 2023, arXiv 2203.06026):

    m = sum_i p_i z_i,      S = N / (N - 1) sum_i p_i (z_i - m) (z_i - m)^T,      F = FD(m, S; m_r, S_r)
    dF/dw_i = p_i { 2 (m - m_r)^T (z_i - m) + N / (N - 1) (z_i - m)^T G (z_i - m) - tr(G S) },      G = I - T

where T is the optimal map from N(m, S) to N(m_r, S_r). The paper leaves the sum of the weights free and divides by that
sum - 1; here it is N, so that equal weights give the FD of the samples and adding a number to all w changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fdr.errors import InputError
from fdr.frechet import linalg
from fdr.frechet.covariance import rounding_of
from fdr.frechet.distance import device_of
from fdr.frechet.moments import Moments
from fdr.runtime import Progress, SilentProgress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CHUNK_VALUES = 2**22
"""Numbers in a block of features (32 MiB). Raising it takes more memory and gives larger products."""
TOLERANCE = 1e-7
"""The optimisation ends where an iteration lowers FD by less than this share. Raising it ends earlier."""


def weighted_moments(features: np.ndarray, weights: np.ndarray, *, device: str | torch.device | None = None) -> Moments:
    """The mean and covariance of features [N, D] with weights [N] >= 0 of any sum; equal ones give the usual moments.

    They have no count: weighted samples are no independent draws. Raises `InputError` for weights that are no weights.
    """
    shares = _shares(weights, len(features))
    rows = _Rows(features, np.asarray(features[:1], np.float64)[0], device)
    mean, sigma = rows.moments(linalg.as_float64(shares, rows.device))
    return Moments(mean.cpu().numpy() + rows.offset.cpu().numpy(), sigma.cpu().numpy())


def effective_count(weights: np.ndarray) -> float:
    """(sum u)^2 / sum u^2: how many equally weighted samples have as much noise (Kish 1965). N for equal weights."""
    return float(weights.sum() ** 2 / np.square(weights).sum())


class WeightedFD:
    """FD of features [N, D] to a reference as a function of log-weights [N]; see the top of the module."""

    def __init__(self, features: np.ndarray, reference: Moments, *, device: str | torch.device | None = None) -> None:
        if features.ndim != 2 or features.shape[1] != reference.dim:
            raise InputError(
                f"Features of shape {list(features.shape)} cannot be compared with a reference of width "
                f"{reference.dim}; both sides need the same encoder and output."
            )
        self._rows = _Rows(features, reference.mu, device)
        sigma = linalg.as_float64(reference.sigma.copy(), self._rows.device)
        self._factor = linalg.eigen_factor(sigma, "reference covariance")
        self._trace = float(sigma.trace())

    def __call__(self, log_weights: np.ndarray) -> tuple[float, np.ndarray]:
        """FD and its gradient [N] by the log-weights, from one eigendecomposition and two passes over the features."""
        rows = self._rows
        p = linalg.as_float64(softmax(log_weights), rows.device)
        mean, sigma = rows.moments(p)
        roots, half_map = self._map(sigma)
        value = float(mean.square().sum() + sigma.trace()) + self._trace - 2 * float(roots.sum())
        slope = p.new_empty(len(p))
        for place, block in rows.blocks():
            x = block - mean
            spread = x.square().sum(1) - (x @ half_map).square().sum(1)
            slope[place] = 2 * (x @ mean) + rows.correction * spread
        return value, (p * (slope - p @ slope)).cpu().numpy()

    def _map(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """s [r], the square roots of the eigenvalues of F^T S F above rounding, and W [D, r] with T = W W^T."""
        factor = self._factor
        values, vectors = linalg.faster_eigh(factor.T @ sigma @ factor)
        kept = values > rounding_of(len(values), float(values[-1])) if len(values) else values > 0
        roots = values[kept].sqrt()
        return roots, (factor @ vectors[:, kept]) / roots.sqrt()


def lowest_fd_weights(
    features: np.ndarray,
    reference: Moments,
    *,
    steps: int = 100,
    floor: float = 0.0,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    label: str = "weights",
) -> tuple[np.ndarray, int]:
    """The weights [N], with mean 1, that L-BFGS finds from equal ones in at most `steps` iterations, and their number.

    It ends where FD is `floor` or less. Without a floor the weights fit the noise of the two sets as well.
    """
    from scipy.optimize import minimize

    distance, scale = WeightedFD(features, reference, device=device), len(features) ** 0.5
    start = np.zeros(len(features))
    if distance(start)[0] <= floor:
        return start + 1, 0

    def scaled(v: np.ndarray) -> tuple[float, np.ndarray]:
        """In v = w / sqrt(N) the first step, of length 1, changes a weight by a factor e."""
        value, gradient = distance(scale * v)
        return value, scale * gradient

    with (progress or SilentProgress()).task(label, steps, "iterations") as task:

        def taken(intermediate_result: Any) -> None:
            task.advance(1)
            if intermediate_result.fun <= floor:
                raise StopIteration

        options = {"maxiter": steps, "ftol": TOLERANCE, "gtol": 0.0}
        found = minimize(scaled, start, jac=True, method="L-BFGS-B", callback=taken, options=options)
    return len(features) * softmax(scale * found.x), int(found.nit)


def softmax(log_weights: np.ndarray) -> np.ndarray:
    """exp(w_i) / sum_j exp(w_j), [N]."""
    powers = np.exp(log_weights - log_weights.max())
    shares: np.ndarray = powers / powers.sum()
    return shares


class _Rows:
    """Features [N, D] that are read block by block, in float64 and less an offset near their mean."""

    def __init__(self, features: np.ndarray, offset: np.ndarray, device: str | torch.device | None) -> None:
        if len(features) < 2:
            raise InputError(f"Got {len(features)} sample(s); a covariance needs at least 2.")
        self._features = features
        self.device = device_of(device)
        self.offset = linalg.as_float64(offset.copy(), self.device)
        self.correction = len(features) / (len(features) - 1)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        import torch

        size = max(64, CHUNK_VALUES // self._features.shape[1])
        for start in range(0, len(self._features), size):
            place = slice(start, start + size)
            block = torch.from_numpy(np.array(self._features[place], np.float64)).to(self.device)
            yield place, block - self.offset

    def moments(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """The mean [D], less the offset, and the covariance [D, D] with shares [N] that sum to 1."""
        width = len(self.offset)
        mean, second = self.offset.new_zeros(width), self.offset.new_zeros(width, width)
        for place, block in self.blocks():
            weighted = shares[place, None] * block
            mean += weighted.sum(0)
            second.addmm_(weighted.T, block)
        sigma = self.correction * (second - mean[:, None] * mean)
        return mean, (sigma + sigma.T) / 2


def _shares(weights: np.ndarray, count: int) -> np.ndarray:
    found = np.asarray(weights, np.float64)
    if found.shape != (count,) or not np.isfinite(found).all() or (found < 0).any() or not found.sum() > 0:
        raise InputError(f"Weights must be {count} numbers of 0 or more with a sum above 0, one for each sample.")
    shares: np.ndarray = found / found.sum()
    return shares
