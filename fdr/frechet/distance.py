"""The Fréchet distance between two sets of features, and the ratios FDr and FDr^k (arXiv 2604.28190).

FD(a, b) = |mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^{1/2}   (Dowson & Landau 1982; Heusel et al. 2017)

where mu [D] and S [D, D] are the mean and covariance of a set of features. Everything is float64. The last trace is
computed by one of three routes:

- few samples (N <= D): the centred features are a factor of the singular covariance; nuclear norm of F_a^T F_b;
- both covariances of full rank: Cholesky of the reference, eigenvalues of L^T S_a L;
- otherwise: a Cholesky factor with pivots, or scaled eigenvectors where the rank is in doubt; nuclear norm of
  F_a^T F_b.

Features that are constant on either side do not enter the last trace and are left out of it exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fdr.errors import InputError, RunError
from fdr.frechet import linalg
from fdr.frechet.moments import Moments
from fdr.runtime import memory_for, named_arguments, resolve_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

AUDIT_TOLERANCE = 1e-9
"""Largest gap between two routes, relative to tr S_a + tr S_b: correct routes agree to 1e-11, faults show at 1e-7.

Raising it lets larger faults pass the audit.
"""


@dataclass(frozen=True)
class FrechetResult:
    """FD with its parts."""

    value: float
    """mean_term + trace_term as computed, but exactly 0 where its size is within `rounding`. No other clamping."""
    mean_term: float
    """|mu_a - mu_b|^2."""
    trace_term: float
    """tr S_a + tr S_b - 2 tr (S_a S_b)^{1/2}; rounding can make it slightly negative."""
    route: str
    """"cholesky" for eigenvalues of L^T S L, else the two factors: "thin-thin", "thin-cholesky", ...,
    "pivoted-pivoted"; "constant" where no feature varies on both sides."""
    rounding: float
    """Estimated absolute rounding error of `value`; equal moments come out below it."""
    audit: float | None = None
    """FD by a second, independent route, when it was asked for."""


@named_arguments
@memory_for("the Fréchet distance", "use --device cpu, or an encoder of fewer dimensions")
def frechet_distance(a: Any, b: Any, *, audit: bool = False, device: str | torch.device | None = None) -> float:
    """FD between two sets; each is `Moments`, features [N, D], or an iterable of batches of features.

    Symmetric up to rounding; many sample sets against one reference are fastest with the reference as `b`, whose
    factor is kept. Raises `InputError` when the widths differ or a covariance is none.
    """
    return frechet_terms(a, b, audit=audit, device=device).value


def frechet_terms(a: Any, b: Any, *, audit: bool = False, device: str | torch.device | None = None) -> FrechetResult:
    """`frechet_distance` with its parts and its route.

    `device` is where the factorisations run: by default the CUDA device of features given as tensors, else the CPU.
    `audit` repeats the trace by an independent route and raises `RunError` when the two differ by more than
    `AUDIT_TOLERANCE`, which no data should bring about.
    """
    where = device_of(device, a, b)
    a, b = (x if isinstance(x, Moments) else Moments.from_features(x, device=device) for x in (a, b))
    if a.dim != b.dim:
        raise InputError(
            f"Features of width {a.dim} cannot be compared with features of width {b.dim}; "
            "both sides need the same encoder and output."
        )
    pair = _Pair(a, b, where)
    mean_term = float(np.square(a.mu - b.mu).sum())
    trace_term, route, accuracy = pair.trace_term()
    scale = mean_term + float(a.sigma.trace() + b.sigma.trace())
    rounding = accuracy * scale
    value = mean_term + trace_term
    second = mean_term + pair.second_trace_term(route) if audit else None
    if second is not None and not abs(second - value) <= AUDIT_TOLERANCE * scale:
        raise RunError(
            f"The audit of FD failed: {value!r} by the route {route!r}, {second!r} by another; "
            "please report this with the two statistics files."
        )
    return FrechetResult(0.0 if abs(value) <= rounding else value, mean_term, trace_term, route, rounding, second)


@dataclass(frozen=True)
class _Factor:
    """`values` [d, r] with values values^T = sigma over the columns of a pair."""

    kind: str
    values: Tensor

    @property
    def trace(self) -> float:
        return float(self.values.square().sum())


class _Pair:
    """Two moments over the columns that vary on both sides, by descending variance of the reference."""

    def __init__(self, a: Moments, b: Moments, device: torch.device) -> None:
        self.a, self.b, self.device = a, b, device
        variances = b.sigma.diagonal()
        varying = np.flatnonzero((a.sigma.diagonal() > 0) & (variances > 0))
        self.columns = varying[np.argsort(-variances[varying], kind="stable")]
        idle = np.ones(a.dim, dtype=bool)
        idle[varying] = False
        self.idle_trace = float(a.sigma.diagonal()[idle].sum() + b.sigma.diagonal()[idle].sum())

    def trace_term(self) -> tuple[float, str, float]:
        """tr S_a + tr S_b - 2 tr (S_a S_b)^{1/2}, its route, and its estimated relative rounding error."""
        relative = 4 * linalg.EPS * math.sqrt(self.a.dim)
        if len(self.columns) == 0:
            return self.idle_trace, "constant", relative
        reference = self._factor(self.b, "reference covariance")
        if reference.kind == "cholesky" and self.a.factor is None:
            found = linalg.sqrt_trace_by_congruence(reference.values, self._covariance(self.a))
            if found is not None:
                root, error = found
                traces = self.a.sigma.trace() + self.b.sigma.trace()
                return float(traces) - 2 * root, "cholesky", max(relative, error)
        samples = self._factor(self.a, "sample covariance")
        route = f"{samples.kind}-{reference.kind}"
        if "pivoted" in route:
            found = linalg.nuclear_norm_by_gram(samples.values.T @ reference.values)
            if found is not None:
                root, error = found
                return self._nuclear(samples, reference, root), route, max(relative, error)
        return self._nuclear(samples, reference), route, relative

    def second_trace_term(self, route: str) -> float:
        """`trace_term` by another route: from Cholesky factors of both sides, or from factors by other algorithms."""
        if route == "constant":
            return self.idle_trace
        samples, reference = self._factor(self.a, "sample covariance"), self._factor(self.b, "reference covariance")
        if route != "cholesky":
            samples, reference = self._other_factor(self.a, samples), self._other_factor(self.b, reference)
        return self._nuclear(samples, reference)

    def _other_factor(self, moments: Moments, known: _Factor) -> _Factor:
        covariance = self._covariance(moments)
        if known.kind == "eigen":
            return _Factor("singular", linalg.singular_factor(covariance))
        return _Factor("eigen", linalg.eigen_factor(covariance))

    def _nuclear(self, a: _Factor, b: _Factor, root: float | None = None) -> float:
        """The trace term from factors. It uses their own traces, so that what a factor leaves out cancels."""
        root = linalg.nuclear_norm(a.values.T @ b.values) if root is None else root
        return self.idle_trace + a.trace + b.trace - 2 * root

    def _covariance(self, moments: Moments) -> Tensor:
        """A fresh copy, which may be overwritten."""
        return linalg.as_float64(moments.sigma[np.ix_(self.columns, self.columns)], self.device)

    def _factor(self, moments: Moments, name: str) -> _Factor:
        """The factor with the fewest columns that is exact; the last one is kept with the moments."""
        key = (self.columns.tobytes(), str(self.device))
        kept_key, factor = moments.derived.get("factor", (None, None))
        if kept_key != key:
            factor = self._new_factor(moments, name)
            moments.derived["factor"] = (key, factor)
        return factor

    def _new_factor(self, moments: Moments, name: str) -> _Factor:
        if moments.factor is not None:
            assert moments.count is not None
            scaled = moments.factor[:, self.columns] / math.sqrt(moments.count - moments.ddof)
            return _Factor("thin", linalg.as_float64(scaled.T, self.device))
        covariance = self._covariance(moments)
        lower = linalg.cholesky_factor(covariance)
        if lower is not None:
            return _Factor("cholesky", lower)
        pivoted = linalg.pivoted_factor(covariance)
        if pivoted is not None:
            return _Factor("pivoted", pivoted)
        return _Factor("eigen", linalg.eigen_factor(covariance, name))


def device_of(device: str | torch.device | None, *sides: Any) -> torch.device:
    """Where to compute: on `device`, else on the CUDA device of features that are given as tensors, else on the CPU."""
    import torch

    if device is not None:
        chosen = resolve_device(str(device))
        return chosen if chosen.type == "cuda" else torch.device("cpu")
    return next((x.device for x in sides if isinstance(x, torch.Tensor) and x.is_cuda), torch.device("cpu"))


# ------------------------------------------------------------------------------------------------------------- ratios


@dataclass(frozen=True)
class ValidationFD:
    """FD of the real validation set against the reference: the denominator of FDr."""

    value: float
    decimals: int | None
    """Decimals of a rounded published constant; None when the value is exact."""
    source: str
    stderr: float | None = None
    """Standard error of a debiased FD; None for a raw one, which counts as a constant."""

    @property
    def is_above_zero(self) -> bool:
        """False for a debiased value within two standard errors of 0, by which nothing can be divided."""
        return self.value > 2 * (self.stderr or 0.0)

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval that the rounding leaves open; a point when the value is exact."""
        half = 0.0 if self.decimals is None else 0.5 * 10.0**-self.decimals
        return self.value - half, self.value + half


def fd_ratio(fd: float, fd_val: float) -> float:
    """FDr: FD divided by the FD of the validation set under the same encoder and reference; 1 for validation data."""
    if not math.isfinite(fd):
        raise InputError(f"FD is {fd}; FDr needs a finite FD.")
    if not (math.isfinite(fd_val) and fd_val > 0):
        raise InputError(f"The validation FD is {fd_val}; FDr needs one above 0.")
    return fd / fd_val


def fdr_k(ratios: Mapping[str, float]) -> float:
    """FDr^k: the arithmetic mean of FDr over k encoders, {"inception": 1.2, "dinov2": 3.4}."""
    if not ratios:
        raise InputError("FDr^k needs the FDr of at least one encoder; got none.")
    for name, ratio in ratios.items():
        if not math.isfinite(ratio):
            raise InputError(f"The FDr of {name} is {ratio}; FDr^k needs finite ones.")
    return math.fsum(ratios.values()) / len(ratios)
