"""FD at infinitely many samples, by several named estimators with one interface."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fdr.errors import InputError, unknown
from fdr.frechet.covariance import as_numpy
from fdr.frechet.debiased import debiased_frechet_distance
from fdr.frechet.distance import frechet_terms
from fdr.frechet.extrapolation import RULES, SEED, Extrapolation, extrapolate
from fdr.frechet.influence import fd_influence
from fdr.frechet.moments import Moments
from fdr.frechet.relative_taylor import relative_taylor_fd
from fdr.runtime import memory_for, named_arguments, resolve_device

METHODS = ("raw", "debiased", *RULES, "rtd")


@dataclass(frozen=True)
class Estimate:
    """An estimate of FD between the distribution of the samples and a reference taken as exact."""

    value: float
    """It can be negative: estimators that remove bias scatter around 0 where the two distributions are equal."""
    stderr: float | None = None
    """The standard error against sampling, to first order; None if it was not asked for, or there is none."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Parts of the number."""


@named_arguments
@memory_for("the estimates of FD", "use --device cpu, or an encoder of fewer dimensions")
def estimate_fd(
    rows: Any,
    reference: Any,
    *,
    method: str = "fd_inf",
    shuffles: int = 1,
    seed: int = SEED,
    stderr: bool = True,
    device: str | None = None,
) -> Estimate:
    """An estimate of the FD that infinitely many samples would have, from `rows` [N, D].

    `reference` is `Moments` or features [M, D]; its moments are taken as exact. Methods:

    - "raw": FD of all samples, biased upward;
    - "debiased": `fdr.debiased_frechet_distance`, the leverage-corrected FD;
    - "fd_inf": FD_inf (Chong & Forsyth 2020), a line in 1/N;
    - "vale1", "vale2", "vale3": variance-aware polynomials of degree 1 to 3 in 1/N (arXiv 2610.07114);
    - "rtd": relative Taylor debiasing (arXiv 2610.07114).

    The value of extrapolations and of RTD is the mean over `shuffles` random orders of the samples, seeded by `seed`.
    RTD has a standard error from two shuffles on; it takes the noise between them from their spread. Raises
    `InputError` for an unknown method, and for too few samples.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if shuffles < 1:
        raise InputError(f"shuffles is {shuffles}; expected 1 or more.")
    rows = as_numpy(rows)
    exact = _exact(reference, device)
    if rows.ndim != 2 or rows.shape[1] != exact.dim:
        raise InputError(f"Features have shape {list(rows.shape)}; expected [N, {exact.dim}] as the reference has.")
    if method == "debiased":
        return _debiased(rows, exact, stderr, device)
    if method == "rtd":
        return _by_taylor(rows, exact, shuffles, seed, stderr, device)
    if method == "raw":
        return Estimate(_raw(rows, exact, device), sampling_error(rows, exact, device=device) if stderr else None)
    found = extrapolate(
        lambda chosen: _raw(rows[chosen], exact, device), len(rows), RULES[method], shuffles=shuffles, seed=seed
    )
    error = sampling_error(rows, exact, found.noise_factors(), device) if stderr else None
    return Estimate(found.value, error, fit_details(found))


def sampling_error(
    rows: np.ndarray, reference: Moments, factors: tuple[float, float] = (1.0, 1.0), device: str | None = None
) -> float:
    """The standard error of FD of `rows` to exact moments, with the variance of first and of second order multiplied
    by `factors` (`Extrapolation.noise_factors`). V1 counts V2 twice (`fd_influence`).
    """
    samples = replace(Moments.from_features(rows, device=device), rows=rows)
    noise = fd_influence(samples, reference, device=device)
    first = max(noise.first_order - 2 * noise.second_order, 0.0)
    return math.sqrt(factors[0] * first + factors[1] * noise.second_order)


def _exact(reference: Any, device: str | None) -> Moments:
    """The reference without count and rows, so that none of its noise is corrected or counted."""
    found = reference if isinstance(reference, Moments) else Moments.from_features(reference, device=device)
    return found if found.count is None else Moments(found.mu, found.sigma)


def fit_details(fit: Extrapolation) -> dict[str, Any]:
    """The parts of an extrapolation that a reader may want."""
    spread = float(fit.values.std(ddof=1)) if len(fit.values) > 1 else None
    return {
        "sizes": fit.sizes.tolist(),
        "curve": fit.curve.tolist(),
        "r_squared": fit.r_squared,
        "slope": fit.slope,
        "shuffles": len(fit.values),
        "spread_of_shuffles": spread,
    }


def _raw(rows: np.ndarray, reference: Moments, device: str | None) -> float:
    return frechet_terms(Moments.from_features(rows, device=device), reference, device=device).value


def _debiased(rows: np.ndarray, reference: Moments, stderr: bool, device: str | None) -> Estimate:
    found = debiased_frechet_distance(rows, reference, stderr=stderr, device=device)
    if found.value is None:
        raise InputError(f"No debiased FD can be given: {'; '.join(found.notes)}.")
    return Estimate(found.value, found.stderr, {"raw": found.raw, "regime": found.regime, "bracket": found.bracket})


def _by_taylor(
    rows: np.ndarray, reference: Moments, shuffles: int, seed: int, stderr: bool, device: str | None
) -> Estimate:
    random, where = np.random.default_rng(seed), resolve_device(device or "cpu")
    found = [relative_taylor_fd(rows[random.permutation(len(rows))], reference, where) for _ in range(shuffles)]
    values = np.array([estimate.value for estimate in found])
    spread = float(values.std(ddof=1)) if shuffles > 1 else None
    error = None
    if stderr and spread is not None:
        error = math.hypot(sampling_error(rows, reference, device=device), spread / math.sqrt(shuffles))
    details = {
        "pilot": found[0].pilot,
        "degree": len(found[0].terms),
        "terms": np.mean([estimate.terms for estimate in found], 0).tolist(),
        "shuffles": shuffles,
        "spread_of_shuffles": spread,
    }
    return Estimate(float(values.mean()), error, details)
