"""Measures samples and a reference for an audit of classes: features of every encoder, and logits of the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from fdr._version import __version__
from fdr.encoders import AbstractEncoder
from fdr.errors import InputError
from fdr.evaluation.class_audit import ClassAudit, audit_classes
from fdr.evaluation.held_out import encoder_groups
from fdr.evaluation.measurement import measure, outputs_of
from fdr.features import Extraction, ExtractionOptions
from fdr.images import ImageOptions, ImageSource, open_images
from fdr.metrics import CollectedFeatures, Need
from fdr.runtime import propagate_failures

LOGITS = "logits"
"""The output of an encoder that gives classes."""


@dataclass(frozen=True)
class AuditedSets:
    """The samples, the reference and the encoders of an audit; the first encoder gives the classes."""

    samples: ImageSource
    reference: ImageSource
    encoders: Sequence[AbstractEncoder]
    options: ExtractionOptions

    def __post_init__(self) -> None:
        first, *others = self.encoders
        if LOGITS not in first.outputs:
            raise InputError(
                f"An audit of classes needs an encoder with the output {LOGITS!r}, and {first.spec.name} gives "
                f"{', '.join(first.outputs)}; use one that classifies, such as inception."
            )
        specs = {encoder.spec.name: encoder.spec for encoder in self.encoders}
        groups = dict(encoder_groups(specs, [first.spec.name]))
        for encoder in others:
            if encoder.spec.name not in groups.get("held_out", ()):
                raise InputError(
                    f"{encoder.spec.name} has the weights of {first.spec.name}, for which the samples are weighted, so "
                    "that it is not held out; name another encoder in --held-out."
                )

    def plan(self, top_n: int, steps: int) -> Iterator[str]:
        """What an audit would do, a line for each; nothing is computed."""
        first, *others = (encoder.spec.name for encoder in self.encoders)
        yield f"samples: {self.samples.name}, {len(self.samples)} images"
        yield f"reference: {self.reference.name}, {len(self.reference)} images"
        yield f"classes and weights: {first} on {self.encoders[0].device}; held out: {', '.join(others) or 'none'}"
        yield f"matchings: Top-1, Top-{top_n}, and optimised weights, in at most {steps} iterations"

    def audit(self, *, top_n: int = 5, steps: int = 100) -> dict[str, Any] | None:
        """The report of the audit as JSON holds it; None on ranks other than 0."""
        group = self.options.group
        with propagate_failures(group):
            samples, reference = self._features(self.samples), self._features(self.reference)
            if samples is None or reference is None:
                return None
            device = self.encoders[0].device
            found = audit_classes(
                samples[0],
                reference[0],
                (samples[1], reference[1]),
                top_n=top_n,
                steps=steps,
                device=str(device) if device.type == "cuda" else None,
                progress=self.options.progress,
            )
            return self._report(found)

    def _features(self, source: ImageSource) -> tuple[dict[str, np.ndarray], np.ndarray] | None:
        """Features [N, D] by encoder, and logits [N, C], from the cache where it has them."""
        source.find_digest(self.options.group, self.options.progress)
        first = self.encoders[0].spec.name
        needs = {encoder.spec.name: [Need(encoder.spec.output, CollectedFeatures)] for encoder in self.encoders}
        classes = Need(LOGITS, CollectedFeatures)
        needs[first].append(classes)
        measured = measure(Extraction(source, self.encoders, outputs_of(needs), self.options), needs)
        if measured is None:
            return None
        return {name: measured.of(name, wanted[0]) for name, wanted in needs.items()}, measured.of(first, classes)

    def _report(self, found: ClassAudit) -> dict[str, Any]:
        return {
            "schema": "fdr-audit/1",
            "fdr_version": __version__,
            "samples": {"source": self.samples.name, "digest": self.samples.digest},
            "reference": {"source": self.reference.name, "digest": self.reference.digest},
            "encoders": {one.spec.name: {**asdict(one.spec), "hash": one.spec.hash} for one in self.encoders},
            **found.to_dict(),
        }


def open_audited_reference(reference: str, options: ImageOptions) -> ImageSource:
    """The images of a reference; crop and size apply to them, a subset does not. Raises `InputError` for statistics."""
    try:
        return open_images(reference, replace(options, count=None, seed=0))
    except InputError as error:
        raise InputError(f"An audit needs images of the reference, for their predicted classes. {error}") from error
