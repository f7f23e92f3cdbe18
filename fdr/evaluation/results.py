"""Turns the scores of metrics into rows of the report, with their provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fdr._version import __version__
from fdr.encoders import AbstractEncoder, EncoderSpec
from fdr.evaluation.measurement import Measurement
from fdr.evaluation.sanity import image_set, jpeg_share
from fdr.features import Extraction
from fdr.images import ImageSource
from fdr.metrics import Ratio, Score
from fdr.reports import Origin, Result, result_key, result_signature


@dataclass(frozen=True)
class PlannedResult:
    """A number that will be measured."""

    metric: str
    encoder: str | None
    lower_is_better: bool
    signature: str

    @property
    def key(self) -> str:
        """The name of this number within its report."""
        return result_key(self.metric, self.encoder)


@dataclass(frozen=True)
class ResultFacts:
    """What the results of one encoder on one sample set have in common."""

    spec: EncoderSpec
    output: str
    policy: Mapping[str, str]
    count: int
    origin: Origin | None
    settings: Mapping[str, str] = field(default_factory=dict)

    def result(
        self, metric: str, score: Score, lower_is_better: bool, interval: tuple[float, float] | None = None
    ) -> Result:
        """The row of the report."""
        return Result(
            metric=metric,
            value=score.value,
            encoder=self.spec.name,
            output=self.output,
            count=self.count,
            lower_is_better=lower_is_better,
            signature=self.signature(metric),
            stderr=score.stderr,
            reference_count=None if self.origin is None else self.origin.count,
            interval=interval,
            spec_hash=self.spec.hash,
            details=score.details,
            notes=score.notes,
        )

    def signature(self, metric: str) -> str:
        """How a number of this metric is made."""
        return result_signature(metric, self.spec, self.output, self.policy, self.count, self.origin, self.settings)

    def planned(self, metric: str, lower_is_better: bool) -> PlannedResult:
        """The row before it is measured."""
        return PlannedResult(metric, self.spec.name, lower_is_better, self.signature(metric))

    def ratio_result(self, ratio: Ratio) -> Result:
        """The row of FDr."""
        denominator = {"val_fd": ratio.val_fd.value, "val_fd_source": ratio.val_fd.source}
        score = Score(ratio.value, details=denominator, notes=ratio.notes)
        return self.result("fdr", score, True, ratio.interval)


def samples_facts(source: ImageSource, measured: Measurement) -> dict[str, Any]:
    """The samples in a report."""
    return {
        "source": source.name,
        "kind": source.kind,
        "count": measured.count,
        "digest": source.digest,
        "skipped": [{"id": image.id, "reason": image.reason} for image in measured.bad],
        **({"left_out": dict(source.left_out)} if source.left_out else {}),
        **({"labels_from": source.labels_from} if source.labels_from else {}),
        "policy": dict(source.policy),
        "subset": None
        if source.options.count is None
        else {"count": source.options.count, "seed": source.options.seed},
        **({} if source.made_by is None else {"made_by": dict(source.made_by)}),
    }


def moments_facts(
    name: str, extraction: Extraction, encoder: AbstractEncoder, measured: Measurement
) -> dict[str, str | int | float]:
    """Where the moments of an extraction come from, as the attributes of the file that keeps them.

    `name` is the reference's.
    """
    source, images = extraction.source, image_set(extraction)
    return {
        **extraction.provenance(encoder),
        **({} if images is None else {"jpeg_share": jpeg_share(images)}),
        "reference": name,
        "images": source.name,
        "images_digest": source.digest or "",
        "skipped": len(measured.bad),
        **({"left_out": json.dumps(source.left_out)} if source.left_out else {}),
        "fdr_version": __version__,
    }
