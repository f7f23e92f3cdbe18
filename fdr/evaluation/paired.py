"""Measures several sample sets against one reference and keeps how each image moves each FD, for paired comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fdr.evaluation.evaluator import Evaluator
from fdr.evaluation.measurement import Measurement
from fdr.frechet import Influence, Moments, fd_influence
from fdr.images import ImageSource
from fdr.reports import Report
from fdr.runtime import memory_for

MAX_ROWS = 5000
"""Images of each side that standard errors are computed from, at random; the same ones of the reference for all sets.

Raising it makes the errors of large sets more accurate (2 to 4 % at 5,000) and slower.
"""


@dataclass(frozen=True)
class MeasuredSet:
    """One sample set."""

    report: Report
    influences: Mapping[tuple[str, str], Influence]
    """By (encoder, output); without those whose features were not kept, as with --moments-only. Empty on ranks other
    than 0."""
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The score of each prompt, float64 [P], of numbers that are means over images, by their key; as `Prompts.scores`
    has them."""


def measure_sets(evaluator: Evaluator, sources: Sequence[ImageSource]) -> list[MeasuredSet]:
    """Measure the sets one after another. Features of one set are freed before the next is read."""
    found = []
    for source in sources:
        influences: dict[tuple[str, str], Influence] = {}
        scores: dict[str, np.ndarray] = {}

        def keep(measured: Measurement, source: ImageSource = source, into: Any = (influences, scores)) -> None:
            into[0].update(_influences(evaluator, measured.moments))
            if evaluator.prompts is not None:
                into[1].update(evaluator.prompts.scores(evaluator.requested, source, measured))

        evaluator.on_measured = keep
        try:
            found.append(MeasuredSet(evaluator.evaluate_source(source), influences, scores))
        finally:
            evaluator.on_measured = None
    return found


@memory_for("the influence of each image on FD", "use --device cpu, fewer images, or an encoder of fewer dimensions")
def _influences(evaluator: Evaluator, measured: Mapping[tuple[str, str], Moments]) -> dict[tuple[str, str], Influence]:
    device = evaluator.encoders[0].device
    return {
        place: fd_influence(moments, evaluator.reference.moments[place].moments, device=device, max_rows=MAX_ROWS)
        for place, moments in measured.items()
        if moments.rows is not None and place in evaluator.reference.moments
    }
