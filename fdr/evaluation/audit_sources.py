"""Measures the sets of an audit of classes: features of every encoder, and logits of the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fdr._version import __version__
from fdr.encoders import AbstractEncoder
from fdr.errors import InputError
from fdr.evaluation.baseline_gain import ClassedFeatures, check_counts
from fdr.evaluation.class_audit import ClassAudit, audit_classes
from fdr.evaluation.class_matching import check_logits
from fdr.evaluation.held_out import encoder_groups
from fdr.evaluation.measurement import measure, outputs_of
from fdr.features import Extraction, ExtractionOptions
from fdr.images import ImageOptions, ImageSource, Preprocessing, open_images
from fdr.metrics import CollectedFeatures, Need
from fdr.references import names_images
from fdr.runtime import propagate_failures

LOGITS = "logits"
"""The output of an encoder that gives classes."""


@dataclass(frozen=True)
class AuditedSets:
    """The samples, the reference and the encoders of an audit; the first encoder gives the classes.

    `baseline` is the samples of another model, in a number that hardly differs.
    """

    samples: ImageSource
    reference: ImageSource
    encoders: Sequence[AbstractEncoder]
    options: ExtractionOptions
    baseline: ImageSource | None = None

    def __post_init__(self) -> None:
        if self.baseline is not None:
            check_counts(len(self.samples), len(self.baseline))
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
        if self.baseline is not None:
            yield f"baseline: {self.baseline.name}, {len(self.baseline)} images"
        yield f"reference: {self.reference.name}, {len(self.reference)} images"
        yield f"classes and weights: {first} on {self.encoders[0].device}; held out: {', '.join(others) or 'none'}"
        yield f"matchings: Top-1, Top-{top_n}, and optimised weights, in at most {steps} iterations"

    def audit(self, *, top_n: int = 5, steps: int = 100) -> dict[str, Any] | None:
        """The report of the audit as JSON holds it; None on ranks other than 0."""
        group = self.options.group
        with propagate_failures(group):
            sets = self._measured(top_n)
            if sets is None:
                return None
            device = self.encoders[0].device
            baseline = sets.get("baseline")
            found = audit_classes(
                sets["samples"].features,
                sets["reference"].features,
                tuple(one.logits for one in sets.values()),
                baseline=None if baseline is None else baseline.features,
                top_n=top_n,
                steps=steps,
                device=str(device) if device.type == "cuda" else None,
                progress=self.options.progress,
            )
            return self._report(found)

    def _measured(self, top_n: int) -> dict[str, ClassedFeatures] | None:
        """The samples, the reference and the baseline, if there is one, in this order; None on ranks other than 0."""
        samples = self._features(self.samples)
        if samples is not None:
            check_logits([samples[0].logits], top_n)  # before the work for the others
        baseline = None if self.baseline is None else self._features(self.baseline)
        if self.baseline is not None:
            self._check_baseline(self.baseline, samples, baseline)  # before the work for the reference
        reference = self._features(self.reference)
        if samples is None or reference is None:
            return None
        found = {"samples": samples[0], "reference": reference[0]}
        return found if baseline is None else {**found, "baseline": baseline[0]}

    def _features(self, source: ImageSource) -> tuple[ClassedFeatures, Preprocessing | None] | None:
        """Features by encoder with logits, from the cache where it has them, and the size of the images."""
        source.find_digest(self.options.group, self.options.progress)
        first = self.encoders[0].spec.name
        needs = {encoder.spec.name: [Need(encoder.spec.output, CollectedFeatures)] for encoder in self.encoders}
        classes = Need(LOGITS, CollectedFeatures)
        needs[first].append(classes)
        extraction = Extraction(source, self.encoders, outputs_of(needs), self.options)
        measured = measure(extraction, needs)
        if measured is None:
            return None
        features = {name: measured.of(name, wanted[0]) for name, wanted in needs.items()}
        return ClassedFeatures(features, measured.of(first, classes)), extraction.preprocessing

    def _check_baseline(
        self, baseline: ImageSource, *found: tuple[ClassedFeatures, Preprocessing | None] | None
    ) -> None:
        """Raise `InputError` for a baseline that is the samples, or has images of another size."""
        if baseline.digest is not None and baseline.digest == self.samples.digest:
            raise InputError(
                f"The baseline {baseline.name} has the images of the samples; name another model's samples."
            )
        sizes = [one[1] for one in found if one is not None and one[1] is not None]
        if len({(one.width, one.height, one.is_uniform) for one in sizes}) == 2:
            raise InputError(
                f"The samples are {sizes[0]} and the images of the baseline are {sizes[1]}, so that the gain would be "
                "one of size as well; bring both to one size (--size PX)."
            )

    def _report(self, found: ClassAudit) -> dict[str, Any]:
        report: dict[str, Any] = {
            "schema": "fdr-audit/1",
            "fdr_version": __version__,
            "samples": {"source": self.samples.name, "digest": self.samples.digest},
            "reference": {"source": self.reference.name, "digest": self.reference.digest},
            "encoders": {one.spec.name: {**asdict(one.spec), "hash": one.spec.hash} for one in self.encoders},
            **found.to_dict(),
        }
        if self.baseline is not None:
            report["baseline"] |= {"source": self.baseline.name, "digest": self.baseline.digest}
        return report


def open_audited_reference(reference: str, options: ImageOptions) -> ImageSource:
    """The images of a reference; crop and size apply to them, a subset does not. Raises `InputError` for statistics."""
    if not names_images(reference):
        raise InputError(
            f"An audit needs images of the reference, for their predicted classes, and {reference} has statistics "
            "alone; give the folder or the file of its images."
        )
    return open_images(reference, replace(options, count=None, seed=0))
