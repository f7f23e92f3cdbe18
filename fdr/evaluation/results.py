"""The rows of a report, as planned and with their numbers, and what a report says of samples and references."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fdr._version import __version__
from fdr.encoders import AbstractEncoder, EncoderSpec
from fdr.evaluation.measurement import Measurement
from fdr.evaluation.sanity import image_set, jpeg_share
from fdr.features import Extraction
from fdr.images import ImageSource
from fdr.metrics import Score, metric_info
from fdr.reports import Origin, Result, result_key, result_signature

Scores = Mapping[tuple[str, str | None], Score]
"""Scores by (metric, encoder)."""


@dataclass(frozen=True)
class PlannedResult:
    """A row of a report without its number."""

    metric: str
    encoder: str | None
    output: str | None
    count: int
    signature: str
    reference_count: int | None = None
    spec_hash: str | None = None
    encoders: tuple[str, ...] | None = None
    """The encoders of a mean."""
    notes: tuple[str, ...] = ()
    derive: Callable[[Scores], Score] | None = None
    """Computes the number from those of other rows; None if a metric computes it."""
    sources: tuple[tuple[str, str | None], ...] = ()
    """The rows that it is computed from, (metric, encoder)."""

    @property
    def key(self) -> str:
        """The name of this number within its report."""
        return result_key(self.metric, self.encoder)

    @property
    def lower_is_better(self) -> bool:
        info = metric_info(self.metric)
        assert info is not None
        return info.lower_is_better

    def result(self, score: Score) -> Result:
        """The row with its number."""
        return Result(
            metric=self.metric,
            value=score.value,
            encoder=self.encoder,
            output=self.output,
            count=self.count,
            lower_is_better=self.lower_is_better,
            signature=self.signature,
            stderr=score.stderr,
            reference_count=self.reference_count,
            k=None if self.encoders is None else len(self.encoders),
            encoders=self.encoders,
            interval=score.interval,
            spec_hash=self.spec_hash,
            details=score.details,
            notes=(*score.notes, *self.notes),
        )


@dataclass(frozen=True)
class Provenance:
    """How the numbers of one output of an encoder are made."""

    spec: EncoderSpec
    output: str
    policy: Mapping[str, str]
    """How the images were read."""
    count: int
    origin: Origin | None
    """The reference; None for a metric that needs none."""
    settings: Mapping[str, str]
    """Further fields of the signature."""

    def row(
        self,
        metric: str,
        notes: tuple[str, ...] = (),
        derive: Callable[[Scores], Score] | None = None,
        sources: tuple[tuple[str, str | None], ...] = (),
    ) -> PlannedResult:
        """The row of a metric."""
        return PlannedResult(
            metric,
            self.spec.name,
            self.output,
            self.count,
            result_signature(metric, self.spec, self.output, self.policy, self.count, self.origin, self.settings),
            reference_count=None if self.origin is None else self.origin.count,
            spec_hash=self.spec.hash,
            notes=notes,
            derive=derive,
            sources=sources,
        )


def describe_samples(source: ImageSource, measured: Measurement) -> dict[str, Any]:
    """The samples in a report."""
    subset = {"count": source.options.count, "seed": source.options.seed}
    return {
        "source": source.name,
        "kind": source.kind,
        "count": measured.count,
        "digest": source.digest,
        "skipped": measured.skipped,
        **({"left_out": dict(source.left_out)} if source.left_out else {}),
        **({"labels_from": source.labels_from} if source.labels_from else {}),
        "policy": dict(source.policy),
        "subset": None if source.options.count is None else subset,
        **({} if source.made_by is None else {"made_by": dict(source.made_by)}),
    }


def moments_attributes(
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
