"""The rows of a report before there are numbers: every metric of every encoder, its ratio, and means over encoders."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from fdr.evaluation.held_out import encoder_groups, encoders_trained_on
from fdr.evaluation.measurement import Key
from fdr.evaluation.prompts import Prompts
from fdr.evaluation.reference_side import ReferenceSide
from fdr.evaluation.requested import Requested, need_of
from fdr.evaluation.results import PlannedResult, Provenance, Scores
from fdr.frechet import ValidationFD
from fdr.images import ImageSource
from fdr.metrics import DERIVED, METRICS, Metric, Score, mean_score, ratio_score
from fdr.reports import Origin, mean_signature

STORED_NOTE = "the samples' moments are those that {name} holds (mu, sigma), not those of its images, by ADM's rule"


@dataclass(frozen=True)
class Planner:
    """Plans reports of one reference and, for metrics that need it, one training set."""

    requested: Requested
    reference: ReferenceSide
    training: ReferenceSide
    trained_on: tuple[str, ...] | None
    """The encoders that the generator was trained on, if the user names them."""
    prompts: Prompts | None = None
    """The prompts of the samples, if a metric needs them."""

    def rows(self, source: ImageSource, count: int, stored: Collection[Key]) -> Iterator[PlannedResult]:
        """Every metric of every encoder, each followed by its ratio if it has one; then the means over the encoders.

        The moments in `stored` come from the sample file itself.
        """
        averaged: dict[str, dict[str, Origin]] = {}
        for encoder in self.requested.encoders:
            spec = encoder.spec
            for name, metric, need in self.requested.applied(encoder):
                is_stored = (spec.name, need) in stored
                settings = {
                    **metric.settings_of(name),
                    **({"m": "stored"} if is_stored else {}),
                    **self._other_sets(metric),
                    **(self.prompts.settings(spec.name) if metric.prompt and self.prompts is not None else {}),
                }
                notes = (STORED_NOTE.format(name=source.name),) if is_stored else ()
                other = need_of(metric, encoder, "reference")
                if metric.reference_settings is not None:
                    settings |= metric.reference_settings(self.reference.known_moments(spec.name, other))
                origin = self.reference.origin(spec.name, other) if metric.needs_reference else None
                provenance = Provenance(spec, need.output, source.policy, count, origin, settings)
                yield provenance.row(name, (*notes, *self.reference.notes(spec.name, other, name)))
                ratio, val_fd = METRICS[name].ratio, self.reference.val_fd(spec.name, other, name)
                if ratio and val_fd is not None and origin is not None:
                    below, origin = (name, spec.name), replace(origin, val_fd=val_fd.value)
                    of_ratio = replace(provenance, origin=origin)
                    yield of_ratio.row(ratio, derive=partial(_ratio_of, below, val_fd), sources=(below,))
                    # the digest in the signature of the mean covers how the bias of each reference was removed
                    covered = replace(origin, digest=origin.digest + settings.get("rb", ""))
                    averaged.setdefault(ratio, {})[spec.name] = covered
                if METRICS[name].mean and origin is not None:
                    averaged.setdefault(name, {})[spec.name] = origin
        for part, origins in averaged.items():
            if 1 < len(origins) == len(self.requested.encoders):
                yield from self._means(part, origins, source, count)

    def _means(
        self, part: str, origins: Mapping[str, Origin], source: ImageSource, count: int
    ) -> Iterator[PlannedResult]:
        """The mean of a number over all encoders; then over those that the generator was trained on, and the others."""
        specs = {encoder.spec.name: encoder.spec for encoder in self.requested.encoders}
        mean, trained = (METRICS | DERIVED)[part].mean, encoders_trained_on(source, self.trained_on)
        parts = (
            [] if trained is None else [(f"{mean}:{group}", names) for group, names in encoder_groups(specs, trained)]
        )
        settings = self.requested.metrics[part].settings if part in self.requested.metrics else {}
        for metric, names in [(mean, tuple(specs)), *parts]:
            own = {name: specs[name] for name in names}
            references = {name: origins[name] for name in names}
            signature = mean_signature(metric, own, source.policy, count, references, settings)
            derive, below = partial(_mean_of, part, names), tuple((part, name) for name in names)
            yield PlannedResult(metric, None, None, count, signature, encoders=names, derive=derive, sources=below)

    def _other_sets(self, metric: Metric) -> dict[str, str]:
        """The fields of the signature for the training set, and for the classes of reference and training set."""
        sides = {"reference": self.reference, "training": self.training}
        labels = [found.labels_digest for side, found in sides.items() if side in metric.labels]
        return {
            **({"train": self.training.label} if metric.needs_training_set else {}),
            **({"lab": "+".join(digest[:8] for digest in labels)} if labels else {}),
        }


def _ratio_of(key: tuple[str, str], val_fd: ValidationFD, scores: Scores) -> Score:
    return ratio_score(scores[key], val_fd)


def _mean_of(ratio: str, encoders: Sequence[str], scores: Scores) -> Score:
    return mean_score({name: scores[ratio, name] for name in encoders}, ratio)
