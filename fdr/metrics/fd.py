"""Fréchet Distance between the moments of samples and reference (Dowson & Landau 1982; Heusel et al. 2017), and its
ratio to the FD of the validation set (arXiv 2604.28190).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from fdr.frechet import (
    Influence,
    Moments,
    ValidationFD,
    eigenvalues,
    fd_influence,
    fd_ratio,
    fdr_k,
    frechet_terms,
    has_rows,
    spectrum_points,
)
from fdr.metrics.base import MAX_ROWS_BYTES, Context, Metric, Score
from fdr.runtime import resolve_device

WIDE_ROUNDING = 0.01
"""FDr gets a note if the rounding of its denominator changes it by this share or more."""

STDERR_ROWS = 2500
"""Images of each side that the standard error is computed from, at random; its own relative error is then 2 to 5 %.

Raising it makes the standard error of large sets more accurate and slower.
"""


def fd_score(samples: Moments, reference: Moments, context: Context) -> Score:
    """FD of one output; called FID when the encoder is Inception and the output its main one."""
    terms = frechet_terms(samples, reference, audit=context.audit, device=context.device)
    details = {
        "mean_term": terms.mean_term,
        "trace_term": terms.trace_term,
        "rounding": terms.rounding,
        "route": terms.route,
    }
    if terms.audit is not None:
        details["audit"] = terms.audit
    if context.spectra:
        device = resolve_device(context.device or "cpu")
        sides = {"samples": samples, "reference": reference}
        details["spectra"] = {name: spectrum_points(eigenvalues(side, device)) for name, side in sides.items()}
    influence = _influence(samples, reference, context)
    if influence is not None:
        details["noise"] = "samples" if influence.reference is None else "samples and reference"
    stderr = None if influence is None else influence.stderr
    return Score(terms.value, stderr, details=details, notes=tuple(_notes(samples, reference, context)))


def _influence(samples: Moments, reference: Moments, context: Context) -> Influence | None:
    """How the images move FD, where their features are known and a standard error is wanted."""
    if not (context.stderr and has_rows(samples)):
        return None
    return fd_influence(samples, reference, device=context.device, max_rows=STDERR_ROWS)


FD = Metric(fd_score, rows="wanted")
SFID = Metric(fd_score, output="spatial", rows="wanted")
"""sFID (Nash et al. 2021): FD of Inception's "spatial" output, 17 x 17 x 7 values that are not averaged."""


def _notes(samples: Moments, reference: Moments, context: Context) -> Iterator[str]:
    is_too_large = samples.count is not None and samples.count * samples.dim * 4 > MAX_ROWS_BYTES
    if context.stderr and is_too_large and not has_rows(samples):
        yield f"no standard error: the features of {samples.count} images are too large to keep in memory"
    for side, moments in (("samples", samples), ("reference images", reference)):
        if moments.count is not None and moments.count <= moments.dim:
            yield f"{moments.count} {side} for {moments.dim} dimensions: FD is biased upward"


def ratio_score(fd: Score, val_fd: ValidationFD) -> Score:
    """FDr = FD / FD of the validation set, with the interval of a denominator that was published rounded or of the FD.

    Its standard error is that of FD over the denominator; that of a debiased denominator is added as if the two were
    independent. Since both fluctuate together with the reference images, this is rather too large.
    """
    value = fd_ratio(fd.value, val_fd.value)
    details = {"val_fd": val_fd.value, "val_fd_source": val_fd.source}
    stderr = None
    if val_fd.stderr is not None:
        details["val_fd_stderr"] = val_fd.stderr
    if fd.stderr is not None:
        stderr = math.hypot(fd.stderr, value * (val_fd.stderr or 0.0)) / val_fd.value
    ends = [fd_ratio(end, below) for end in fd.interval or (fd.value,) for below in val_fd.bounds]
    low, high = min(ends), max(ends)
    if val_fd.decimals is None:
        return Score(value, stderr, None if fd.interval is None else (low, high), details)
    spread = max(high - value, value - low) / abs(value) if value else 0.0
    constant, percent = f"{val_fd.value:.{val_fd.decimals}f}", 50 * 10.0**-val_fd.decimals / val_fd.value
    note = f"validation FD {constant} is published to {val_fd.decimals} decimals: FDr is ±{percent:.3g} % wide"
    notes = (note,) if spread >= WIDE_ROUNDING else ()
    return Score(value, stderr, interval=(low, high), details=details, notes=notes)


def mean_score(ratios: Mapping[str, Score], name: str = "fdr") -> Score:
    """FDr^k = the mean of FDr over k encoders, with the interval that rounding leaves open; or another mean.

    `name` is that of the ratio, under which its parts are in the details. The standard error is the mean of those of
    the parts: all encoders see the same images, so the errors go together, and this is the most that they add up to.
    """
    value = fdr_k({encoder: score.value for encoder, score in ratios.items()})
    errors = [score.stderr for score in ratios.values() if score.stderr is not None]
    stderr = math.fsum(errors) / len(errors) if len(errors) == len(ratios) else None
    interval = None
    if any(score.interval for score in ratios.values()):
        ends = {encoder: score.interval or (score.value, score.value) for encoder, score in ratios.items()}
        low, high = (fdr_k({encoder: pair[side] for encoder, pair in ends.items()}) for side in (0, 1))
        interval = low, high
    parts = {encoder: score.value for encoder, score in ratios.items()}
    return Score(value, stderr, interval=interval, details={name: parts})
