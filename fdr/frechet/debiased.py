"""`debiased_frechet_distance`: FD without its bias from the number of samples, with its error, where that is possible.

The estimator is the leverage-corrected FD of `correction`; docs/debiased-fd.md derives it and shows how good it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fdr.errors import InputError, unknown, warn
from fdr.frechet.correction import Estimate, correct
from fdr.frechet.distance import device_of
from fdr.frechet.regimes import balanced_warning, is_class_balanced, notes_on, regime_of, warnings_of
from fdr.frechet.uncertainty import corrected_influence, jackknife_stderr
from fdr.frechet.whitening import Side, shared_columns
from fdr.runtime import memory_for, named_arguments

if TYPE_CHECKING:
    import torch

STDERRS = (True, False, "influence")
INFLUENCE_RATIO = 8
"""From this number of samples in dimensions on, the standard error is that of the influence function."""
LEFT_OVER = 0.04
"""The share of the correction that counts as systematic error below N = D."""
BRACKET_PART = 3
"""The half-width of the bracket, divided by this, counts as systematic error, where that is more."""


@dataclass(frozen=True)
class DebiasedFD:
    """FD without its bias from the number of samples."""

    value: float | None
    """The corrected FD, which may be negative where the true FD is near 0; None where the regime gives no value."""
    stderr: float | None
    """Its standard error; None if it was not asked for."""
    bracket: tuple[float, float] | None
    """Bounds that hold without extrapolation, below N = D; else None."""
    regime: str
    """"asymptotic", "full", "near", "extrapolated", "bracket" or "refused", by N / D and by N."""
    raw: float
    """FD as measured, with its bias."""
    estimate: float
    """The corrected FD as computed, also where `value` is None because it is not to be believed."""
    ratio: float
    """N / D of the smaller side that is sampled."""
    systematic: float
    """What extrapolation may add to the error, beside `stderr`; 0 from N = D on."""
    kappa: float | None
    """mean h_a^2 / (mean h_a)^2 of the samples where h is half of its maximum; 1 if all have the same leverage."""
    max_leverage: float | None
    """The largest leverage h_a of a sample, from 0 to 1."""
    noise: str
    """Whose sampling noise `stderr` contains: "samples", or "samples and reference"."""
    stderr_method: str | None
    """"influence" or "jackknife"."""
    notes: tuple[str, ...] = ()
    """How the reference was treated, and what the regime means."""
    warnings: tuple[str, ...] = ()
    """What may make the value wrong."""

    def __float__(self) -> float:
        """The value. Raises `InputError` where there is none."""
        if self.value is None:
            bounds = (
                "" if self.bracket is None else f"; it lies between {self.bracket[0]:.4g} and {self.bracket[1]:.4g}"
            )
            raise InputError(
                f"There are too few images for a debiased FD ({self.ratio:.3g} for each dimension){bounds}."
            )
        return self.value

    @property
    def correction_share(self) -> float:
        """The part of the raw FD that was removed: 0.9 says that nine tenths of it were bias."""
        return (self.raw - self.estimate) / self.raw if self.raw else 0.0

    @property
    def is_consistent_with_zero(self) -> bool:
        """True if the value is within two of its errors of 0, so that the two distributions may be equal."""
        error = math.hypot(self.stderr or 0.0, self.systematic)
        return self.value is not None and self.value <= 2 * error


@named_arguments
@memory_for("the debiased Fréchet distance", "use --device cpu, or an encoder of fewer dimensions")
def debiased_frechet_distance(
    samples: Any,
    reference: Any,
    *,
    device: str | torch.device | None = None,
    stderr: bool | str = True,
    extrapolate: bool = False,
    labels: Any = None,
) -> DebiasedFD:
    """FD between two sets without the bias that comes from their numbers of samples (about D^2 / N).

    `samples` are features [N, D] (array, tensor or batches), or `Moments` with their `rows`. `reference` is the same,
    or plain `Moments`: their bias is then known from their count and `curve`, or without a curve as if they were of
    Gaussian features; moments without a count are taken as exact.

    `stderr=False` saves the standard error, which below N = 8 D takes 20 times as long as the value.
    `stderr="influence"` takes the influence function there as well, in a fifth more time than the value: against an
    exact reference it was 0.7 to 2 times the true error from N = D/2 on. `extrapolate=True` gives a value between
    N = D/4 and D/2 as well, where most of it is extrapolated. `labels` [N] of the samples serve to notice draws with
    equally many images of each class.

    What may make the value wrong is in `warnings` and is warned of as `FdrWarning`. Raises `InputError` for samples
    without features, other widths, and moments that are too few to be corrected without features.
    """
    where = device_of(device, samples, reference)
    found = debias(
        Side.of(samples, device),
        Side.of(reference, device),
        where,
        stderr=stderr,
        extrapolate=extrapolate,
        labels=labels,
    )
    for sentence in found.warnings:
        warn(sentence)
    return found


def debias(
    samples: Side,
    reference: Side,
    device: torch.device,
    *,
    stderr: bool | str = True,
    extrapolate: bool = False,
    labels: Any = None,
) -> DebiasedFD:
    """`debiased_frechet_distance` of two sides, which warns of nothing."""
    if stderr not in STDERRS:
        raise unknown("stderr", str(stderr), list(map(str, STDERRS)))
    if not samples.has_all_rows:
        raise InputError(
            "The debiased FD needs the features of the samples, and these are moments without them; give features "
            "[N, D], or moments with rows."
        )
    sides = samples, reference
    least, columns = min(side.n + 1 for side in sides), shared_columns(samples, reference)
    if len(columns[0]) == 0:
        raise InputError(
            "No feature varies on both sides, so there is no covariance whose bias could be removed; look at the "
            "images: all of one side are equal."
        )
    dim = len(columns[1])
    regime = regime_of(sides, dim)
    has_value = regime != "refused" and (regime != "bracket" or extrapolate)
    method = _method(stderr, least / dim) if has_value else None
    estimate = correct(samples, reference, device, keep=3 if method == "influence" else 0)
    own, other = estimate.leverages
    assert own is not None
    found = DebiasedFD(
        value=estimate.value if has_value else None,
        stderr=None if method is None else _stderr(method, sides, estimate),
        bracket=(estimate.low, estimate.high) if least <= dim else None,
        regime=regime,
        raw=estimate.raw,
        estimate=estimate.value,
        ratio=least / dim,
        systematic=_systematic(estimate) if least <= dim else 0.0,
        kappa=float(own.kappa[estimate.ridges.middle]),
        max_leverage=float(own.largest.max()),
        noise="samples" if other is None else "samples and reference",
        stderr_method=method,
    )
    warned = [
        *warnings_of("samples", samples, own, dim),
        *warnings_of("reference images", reference, other, dim),
        *_own_warnings(found, labels),
    ]
    return replace(found, notes=tuple(notes_on(reference, regime, least, dim)), warnings=tuple(warned))


def _method(stderr: bool | str, ratio: float) -> str | None:
    """How the standard error is computed at N / D = `ratio`."""
    if not stderr:
        return None
    return "influence" if stderr == "influence" or ratio >= INFLUENCE_RATIO else "jackknife"


def _stderr(method: str, sides: tuple[Side, Side], estimate: Estimate) -> float:
    if method == "jackknife":
        return jackknife_stderr(sides, estimate.whitening.roots.device)
    return corrected_influence(sides, estimate).stderr


def _systematic(estimate: Estimate) -> float:
    """The error that extrapolation may bring, from N = D downwards."""
    half_width = (estimate.high - estimate.low) / 2
    return max(half_width / BRACKET_PART, LEFT_OVER * (estimate.raw - estimate.value))


def _own_warnings(found: DebiasedFD, labels: Any) -> Iterator[str]:
    if labels is not None and is_class_balanced(labels):
        yield balanced_warning("samples")
    if found.value is not None and found.systematic > 0.5 * max(found.value, 2 * (found.stderr or 0.0)):
        yield (
            f"The systematic error of the extrapolation may be {found.systematic:.3g}, which is large beside the "
            f"debiased FD of {found.value:.3g}; measure more samples."
        )
