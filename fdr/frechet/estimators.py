"""FD at infinitely many samples, by several named estimators with one interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fdr.errors import InputError, unknown
from fdr.frechet.covariance import as_numpy
from fdr.frechet.distance import frechet_terms
from fdr.frechet.extrapolation import RULES, SEED, Extrapolation, extrapolate
from fdr.frechet.moments import Moments
from fdr.frechet.relative_taylor import relative_taylor_fd
from fdr.runtime import memory_for, named_arguments, resolve_device

if TYPE_CHECKING:
    import torch

METHODS = ("raw", *RULES, "rtd")


@dataclass(frozen=True)
class Estimate:
    """An estimate of FD between the distribution of the samples and a reference taken as exact."""

    value: float
    """It can be negative: estimators that remove bias scatter around 0 where the two distributions are equal."""
    stderr: float | None = None
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
    device: str | None = None,
) -> Estimate:
    """An estimate of the FD that infinitely many samples would have, from `rows` [N, D].

    `reference` is `Moments` or features [M, D]; its moments are taken as exact. Methods:

    - "raw": FD of all samples, biased upward;
    - "fd_inf": FD_inf (Chong & Forsyth 2020), a line in 1/N;
    - "vale1", "vale2", "vale3": variance-aware polynomials of degree 1 to 3 in 1/N (arXiv 2610.07114);
    - "rtd": relative Taylor debiasing (arXiv 2610.07114).

    The value is the mean over `shuffles` random orders of the samples, seeded by `seed`. Raises `InputError` for an
    unknown method, and for too few samples.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if shuffles < 1:
        raise InputError(f"shuffles is {shuffles}; expected 1 or more.")
    rows = as_numpy(rows)
    exact = reference if isinstance(reference, Moments) else Moments.from_features(reference, device=device)
    if rows.ndim != 2 or rows.shape[1] != exact.dim:
        raise InputError(f"Features have shape {list(rows.shape)}; expected [N, {exact.dim}] as the reference has.")
    if method == "raw":
        return Estimate(_raw(rows, exact, device))
    if method == "rtd":
        return _by_taylor(rows, exact, shuffles, seed, resolve_device(device or "cpu"))
    found = extrapolate(
        lambda chosen: _raw(rows[chosen], exact, device), len(rows), RULES[method], shuffles=shuffles, seed=seed
    )
    return Estimate(found.value, None, fit_details(found))


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


def _by_taylor(rows: np.ndarray, reference: Moments, shuffles: int, seed: int, device: torch.device) -> Estimate:
    random = np.random.default_rng(seed)
    found = [relative_taylor_fd(rows[random.permutation(len(rows))], reference, device) for _ in range(shuffles)]
    values = np.array([estimate.value for estimate in found])
    details = {
        "pilot": found[0].pilot,
        "degree": len(found[0].terms),
        "terms": np.mean([estimate.terms for estimate in found], 0).tolist(),
        "shuffles": shuffles,
        "spread_of_shuffles": float(values.std(ddof=1)) if shuffles > 1 else None,
    }
    return Estimate(float(values.mean()), None, details)
