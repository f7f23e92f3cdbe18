"""FD of weighted samples, its gradient by the weights in closed form, and the weights that make it smallest.

With log-weights w [N], p = softmax(w), and features z_i [D] (Kynkäänniemi et al. 2023, arXiv 2203.06026):

    m = sum_i p_i z_i,      S = N / (N - 1) sum_i p_i (z_i - m) (z_i - m)^T,      F = FD(m, S; m_r, S_r)
    dF/dw_i = p_i { 2 (m - m_r)^T (z_i - m) + N / (N - 1) (z_i - m)^T G (z_i - m) - tr(G S) },      G = I - T

where T is the optimal map from N(m, S) to N(m_r, S_r). The paper leaves the sum of the weights free and divides by that
sum - 1; here it is N, so that equal weights give the FD of the samples and adding a number to all w changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fdr.errors import InputError
from fdr.frechet import linalg
from fdr.frechet.covariance import rounding_of
from fdr.frechet.distance import device_of
from fdr.frechet.moments import Moments
from fdr.frechet.weighted_rows import Rows, rows_of
from fdr.runtime import Progress, SilentProgress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FLOAT32_TOLERANCE = 1e-6
"""Passes over float32 features are in float32 where FD of equal weights changes by less than this share of itself.

Raising it lets features of a worse condition use the faster passes.
"""
TOLERANCE = 1e-7
"""The optimisation ends where an iteration lowers FD by less than this share. Raising it ends earlier."""
LAST_ITERATIONS = 3
LAST_SHARE = 1e-3
"""It also ends where the last `LAST_ITERATIONS` together have won less than this share of all that was won. Lowering it
takes many iterations, which win little."""


def weighted_moments(features: np.ndarray, weights: np.ndarray, *, device: str | torch.device | None = None) -> Moments:
    """The mean and covariance of features [N, D] with weights [N] >= 0 of any sum; equal ones give the usual moments.

    They have no count: weighted samples are no independent draws. Raises `InputError` for weights that are no weights.
    """
    shares = _shares(weights, len(features))
    rows = rows_of(features, device_of(device))
    mean, sigma = rows.moments(shares)
    return Moments(mean.cpu().numpy() + rows.offset, sigma.cpu().numpy())


def effective_count(weights: np.ndarray) -> float:
    """(sum u)^2 / sum u^2: how many equally weighted samples have as much noise (Kish 1965). N for equal weights."""
    return float(weights.sum() ** 2 / np.square(weights).sum())


class WeightedFD:
    """FD of features [N, D] to a reference as a function of log-weights [N]; see the top of the module.

    Up to N = D it works on matrices [N, N] and reads the features once. Beyond, a value takes two passes over them, in
    float32 where they are float32 and `FLOAT32_TOLERANCE` allows it, else in float64.
    """

    def __init__(self, features: np.ndarray, reference: Moments, *, device: str | torch.device | None = None) -> None:
        if features.ndim != 2 or features.shape[1] != reference.dim:
            raise InputError(
                f"Features of shape {list(features.shape)} cannot be compared with a reference of width "
                f"{reference.dim}; both sides need the same encoder and output."
            )
        sigma = linalg.as_float64(reference.sigma.copy(), device_of(device))
        lower = linalg.cholesky_factor(sigma)
        factor = linalg.eigen_factor(sigma, "reference covariance") if lower is None else lower
        self._trace = float(sigma.trace())
        self._route: _Gram | _Passes
        if len(features) <= reference.dim:
            self._route = _Gram(features, reference.mu, factor)
        else:
            self._route = self._passes(features, reference.mu, factor, lower is not None)

    def __call__(self, log_weights: np.ndarray) -> tuple[float, np.ndarray]:
        """FD and its gradient [N] by the log-weights, from one eigendecomposition."""
        p = softmax(log_weights)
        value, slopes = self._route(p)
        return value + self._trace, slopes - p * slopes.sum()

    def _passes(self, features: np.ndarray, mean: np.ndarray, factor: Tensor, is_lower: bool) -> _Passes:
        exact = _Passes(rows_of(features, factor.device), mean, factor, is_lower)
        if features.dtype != np.float32 or factor.is_cuda:
            return exact
        quick = _Passes(rows_of(features, factor.device, exact=False), mean, factor, is_lower)
        found, value = (each.moved(np.full(len(features), 1 / len(features)))[0] for each in (quick, exact))
        return quick if abs(found - value) <= FLOAT32_TOLERANCE * abs(value + self._trace) else exact


class _Gram:
    """FD without the trace of S_r, and p_i dF/dp_i [N], from Y Y^T and (Y F)(Y F)^T for y = z - m_r, F F^T = S_r.

    For K = N / (N - 1) diag(sqrt p) C Y S_r Y^T C^T diag(sqrt p), where C subtracts the weighted mean, the roots of the
    eigenvalues of K are those of F^T S F, and N / (N - 1) p_i x_i^T T x_i is the i-th diagonal element of K^{1/2}.
    """

    def __init__(self, features: np.ndarray, mean: np.ndarray, factor: Tensor) -> None:
        if len(features) < 2:
            raise InputError(f"Got {len(features)} sample(s); a covariance needs at least 2.")
        y = linalg.as_float64(np.asarray(features, np.float64) - mean, factor.device)
        mapped = y @ factor
        self._plain, self._mapped = y @ y.T, mapped @ mapped.T
        self._correction = len(features) / (len(features) - 1)

    def __call__(self, shares: np.ndarray) -> tuple[float, np.ndarray]:
        p = linalg.as_float64(shares.copy(), self._plain.device)
        along, means, squares = self._plain @ p, self._mapped @ p, self._plain.diagonal()
        length, weights = float(p @ along), p.sqrt()
        centred = self._mapped - means[:, None] - means + p @ means
        values, vectors = linalg.faster_eigh(self._correction * weights[:, None] * centred * weights)
        roots = values.clamp(min=0).sqrt() * _is_kept(values)
        slopes = 2 * (along - length) + self._correction * (squares - 2 * along + length)
        value = length + self._correction * (float(p @ squares) - length) - 2 * float(roots.sum())
        return value, (p * slopes - vectors.square() @ roots).cpu().numpy()


class _Passes:
    """The same from the weighted moments, and from the map T = W W^T for the slope of every row."""

    def __init__(self, rows: Rows, mean: np.ndarray, factor: Tensor, is_lower: bool) -> None:
        self._rows, self._factor, self._is_lower = rows, factor, is_lower
        self._offset = linalg.as_float64(rows.offset - mean, factor.device)

    def __call__(self, shares: np.ndarray) -> tuple[float, np.ndarray]:
        value, mean, half_map = self.moved(shares)
        return value, shares * self._rows.slopes(mean, mean + self._offset, half_map)

    def moved(self, shares: np.ndarray) -> tuple[float, Tensor, Tensor]:
        """FD without the trace of S_r, the mean [D] less the offset of the rows, and W [D, r]."""
        mean, sigma = self._rows.moments(shares)
        traces = float((mean + self._offset).square().sum() + sigma.trace())
        factor = self._factor
        congruent = linalg.congruence_(factor, sigma) if self._is_lower else factor.T @ sigma @ factor
        values, vectors = linalg.faster_eigh(congruent)
        kept = _is_kept(values)
        roots = values[kept].sqrt()
        return traces - 2 * float(roots.sum()), mean, (factor @ vectors[:, kept]) / roots.sqrt()


def _is_kept(values: Tensor) -> Tensor:
    """True for ascending eigenvalues [n] above rounding."""
    return values > (rounding_of(len(values), float(values[-1])) if len(values) else 0.0)


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
    first = distance(start)
    if first[0] <= floor:
        return start + 1, 0

    def scaled(v: np.ndarray) -> tuple[float, np.ndarray]:
        """In v = w / sqrt(N) the first step, of length 1, changes a weight by a factor e."""
        value, gradient = distance(scale * v) if v.any() else first
        return value, scale * gradient

    values = [first[0]]
    with (progress or SilentProgress()).task(label, steps, "iterations") as task:

        def taken(intermediate_result: Any) -> None:
            task.advance(1)
            values.append(float(intermediate_result.fun))
            if values[-1] <= floor or _has_slowed(values):
                raise StopIteration

        options = {"maxiter": steps, "ftol": TOLERANCE, "gtol": 0.0}
        found = minimize(scaled, start, jac=True, method="L-BFGS-B", callback=taken, options=options)
    return len(features) * softmax(scale * found.x), int(found.nit)


def _has_slowed(values: list[float]) -> bool:
    """True where the last iterations have won next to nothing."""
    last = values[-1 - LAST_ITERATIONS :]
    return len(values) > LAST_ITERATIONS and last[0] - last[-1] < LAST_SHARE * (values[0] - values[-1])


def softmax(log_weights: np.ndarray) -> np.ndarray:
    """exp(w_i) / sum_j exp(w_j), [N]."""
    powers = np.exp(log_weights - log_weights.max())
    shares: np.ndarray = powers / powers.sum()
    return shares


def _shares(weights: np.ndarray, count: int) -> np.ndarray:
    found = np.asarray(weights, np.float64)
    if found.shape != (count,) or not np.isfinite(found).all() or (found < 0).any() or not found.sum() > 0:
        raise InputError(f"Weights must be {count} numbers of 0 or more with a sum above 0, one for each sample.")
    shares: np.ndarray = found / found.sum()
    return shares
