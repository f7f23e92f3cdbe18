"""Fréchet Distance without its bias from the number of images: the leverage-corrected FD of docs/debiased-fd.md."""

from __future__ import annotations

import hashlib

from fdr.errors import InputError
from fdr.frechet import DebiasedFD, Moments, debiased_frechet_distance, has_rows
from fdr.metrics.base import Context, Metric, Score


def debiased_score(samples: Moments, reference: Moments, context: Context) -> Score:
    """The debiased FD of one output, with its standard error, and below N = D with the interval that surely holds.

    Raises `InputError` where there are too few images for a value.
    """
    found = debiased_frechet_distance(
        samples, reference, device=context.device, stderr=context.stderr, labels=context.labels
    )
    if found.value is None:
        raise InputError(_refusal(found, samples, reference))
    zero = (
        ("the debiased FD is consistent with 0: the two sets may be of one distribution",)
        if found.is_consistent_with_zero
        else ()
    )
    details = {
        "raw": found.raw,
        "correction_share": found.correction_share,
        "regime": found.regime,
        "images_per_dimension": found.ratio,
        "systematic": found.systematic,
        "kappa": found.kappa,
        "max_leverage": found.max_leverage,
        "noise": found.noise,
        "stderr_by": found.stderr_method,
    }
    return Score(found.value, found.stderr, found.bracket, details, (*found.notes, *zero))


def _refusal(found: DebiasedFD, samples: Moments, reference: Moments) -> str:
    low, high = found.bracket or (found.estimate, found.estimate)
    sides = f"{samples.count} samples"
    if reference.count is not None:
        sides += f" and {reference.count} reference images"
    return (
        f"{sides} are too few for a debiased FD in {samples.dim} dimensions: it lies between {low:.4g} and {high:.4g} "
        f"(raw FD {found.raw:.4g}). It needs 100 images and half as many images as dimensions on each side, and on one "
        "side as many as dimensions."
    )


def reference_bias(reference: Moments | None) -> dict[str, str]:
    """What the bias of the reference is removed by, for the signature: its features, its leverage curve, the theory of
    Gaussian features, or nothing if it is taken as exact.

    The count and the curve move the debiased FD but not FD, so the digest of the reference does not cover them. They
    are stated here: "curve-30000-1a2b3c4d", with a digest of the curve.
    """
    if reference is None or has_rows(reference):
        return {"rb": "features"}
    if reference.count is None:
        return {"rb": "exact"}
    if reference.curve is None:
        return {"rb": f"gaussian-{reference.count}"}
    return {"rb": f"curve-{reference.count}-{hashlib.sha256(reference.curve.array.tobytes()).hexdigest()[:8]}"}


DEBIASED = Metric(debiased_score, rows="needed", settings={"est": "leverage"}, reference_settings=reference_bias)
