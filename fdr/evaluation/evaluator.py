"""Evaluates samples against a reference with several encoders and metrics, in one call."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from fdr.encoders import ROWS, AbstractEncoder, EncoderOptions, load_encoders
from fdr.errors import FdrWarning, InputError, collected_warnings
from fdr.evaluation.held_out import encoders_trained_on, groups, named_encoders
from fdr.evaluation.measurement import Key, Measurement, Needs, measure, outputs_of
from fdr.evaluation.protocols import Protocol, check_is_free, find_protocol
from fdr.evaluation.reference_side import ReferenceSide, open_reference
from fdr.evaluation.results import PlannedResult, Provenance, Scores, describe_samples
from fdr.evaluation.sanity import sanity_warnings
from fdr.features import Extraction, ExtractionOptions, cached_rows
from fdr.frechet import Moments, ValidationFD
from fdr.generators import GeneratorOptions, Labels, samples_of
from fdr.images import ImageOptions, ImageSource
from fdr.metrics import DERIVED, METRICS, Context, Metric, Need, Score, load_metrics, mean_score, ratio_score
from fdr.references import DEFAULT_REFERENCE, find_reference, is_statistics, open_samples, warn_if_same_images
from fdr.reports import Origin, Report, Result, mean_signature
from fdr.runtime import (
    SOLO,
    Group,
    Progress,
    SilentProgress,
    as_path,
    memory_for,
    named_arguments,
    package_versions,
    propagate_failures,
    resolve_device,
    run_on_rank0,
)

DEFAULT_ENCODER, DEFAULT_METRIC = "inception", "fd"
STORED_NOTE = "the samples' moments are those that {name} holds (mu, sigma), not those of its images, by ADM's rule"
Encoders = str | AbstractEncoder | Any


@named_arguments
def evaluate(
    samples: Any,
    reference: Any = None,
    encoders: Encoders | Sequence[Encoders] | None = None,
    metrics: str | Sequence[str] | None = None,
    *,
    protocol: str | Protocol | None = None,
    image_options: ImageOptions | None = None,
    encoder_options: EncoderOptions | None = None,
    weights: Mapping[str, Path] | None = None,
    cache: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    audit: bool = False,
    trained_on: str | Sequence[str] | None = None,
    progress: Progress | None = None,
    group: Group = SOLO,
    num_images: int | None = None,
    seed: int | None = None,
    labels: Labels | None = None,
    noise_shape: Sequence[int] | int | None = None,
    num_classes: int | None = None,
    value_range: tuple[float, float] | None = None,
) -> Report:
    """Evaluate one sample set. Arguments and files are checked before the first image is decoded.

    `samples` and image references are anything that `fdr.open_images` reads. `reference` may also be a registry name, a
    statistics file, a folder of `fdr stats`, `Moments`, or a dict of these by encoder name. `encoders` are names
    ("inception", "fdr6"), encoder objects, callables from images [B, 3, H, W] in [0, 1] to [B, D], or a dict that gives
    each callable a name. The defaults are imagenet256, inception and FD. A `protocol` ("adm") fixes encoders and
    metrics and has a default reference of its own. With `cache`, features are kept there and a killed run resumes.
    `weights` gives weight files by encoder. `image_options.count` and `.seed` select among the samples only; crop and
    size apply to both sides. `trained_on` names the encoders that the generator was trained on: FDr^k is then given for
    them and for the held-out ones as well. A run folder of `fdr train` says it by itself.

    `samples` may also be a generator: one that `fdr.load_generator` gives or takes, or a pipeline of diffusers without
    a prompt. Then `num_images` (50,000) samples are made from `seed` and `labels`, the same as by `fdr eval --gen`.
    `noise_shape`, `num_classes` and `value_range` are for a generator that does not declare them.

    Under torchrun, `group=fdr.join_ranks()` divides the images among the ranks. All ranks make the same call and get
    the same report.

    Raises `InputError` for anything unusable, and `RunError` if a run cannot finish.
    """
    extraction = ExtractionOptions(
        None if cache is None else as_path(cache, "the cache"),
        batch_size,
        num_workers,
        progress or SilentProgress(),
        group=group,
    )
    chosen = None if protocol is None else find_protocol(protocol)
    if chosen is not None:
        check_is_free(chosen, encoders is not None, metrics is not None)
        encoders, metrics = chosen.encoder, chosen.metrics
    default_reference = DEFAULT_REFERENCE if chosen is None else chosen.reference
    image_options = image_options or ImageOptions()
    encoder_options = encoder_options or EncoderOptions(progress=extraction.progress)
    size = extraction.batch_size_on(resolve_device(encoder_options.device).type)
    drawn = GeneratorOptions(num_images, seed, labels, noise_shape, num_classes, value_range)
    with samples_of(samples, size, image_options, drawn) as source:
        evaluator = Evaluator(
            DEFAULT_ENCODER if encoders is None else encoders,
            default_reference if reference is None else reference,
            DEFAULT_METRIC if metrics is None else metrics,
            protocol=chosen,
            image_options=image_options,
            encoder_options=encoder_options,
            weights=weights,
            extraction_options=extraction,
            audit=audit,
            trained_on=trained_on,
            is_default_reference=reference is None,
        )
        return evaluator.evaluate(source)


class Evaluator:
    """Loads encoders, metrics and a reference once; `evaluate` then measures any number of sample sets."""

    def __init__(
        self,
        encoders: Encoders | Sequence[Encoders],
        reference: Any,
        metrics: str | Sequence[str],
        *,
        image_options: ImageOptions,
        encoder_options: EncoderOptions,
        extraction_options: ExtractionOptions,
        weights: Mapping[str, Path] | None = None,
        audit: bool = False,
        trained_on: str | Sequence[str] | None = None,
        protocol: Protocol | None = None,
        is_default_reference: bool = False,
    ) -> None:
        self.metrics = load_metrics(metrics)
        self.protocol = protocol
        self._is_default_reference = is_default_reference
        self.on_measured: Callable[[Mapping[tuple[str, str], Moments]], None] | None = None
        """Called on rank 0 with the moments of each sample set, by (encoder, output), when its numbers are computed."""
        self.image_options = image_options
        self.encoder_options = encoder_options
        self.extraction_options = extraction_options
        if any(metric.needs_reference for metric in self.metrics.values()):
            reference = open_reference(reference, image_options)  # its errors come before weights are loaded
        self.encoders = load_encoders(encoders, encoder_options, weights)
        names = [encoder.spec.name for encoder in self.encoders]
        self._trained_on = None if trained_on is None else named_encoders(trained_on, names)
        device = self.encoders[0].device
        self._context = Context(
            device=str(device) if device.type == "cuda" else None, audit=audit, progress=extraction_options.progress
        )
        self._check_metrics_apply()
        with collected_warnings() as self.warnings:
            self.reference = ReferenceSide(
                reference,
                self.encoders,
                self._needs(of_reference=True),
                image_options=image_options,
                encoder_options=encoder_options,
                extraction_options=extraction_options,
            )

    def _check_metrics_apply(self) -> None:
        applied = {name for encoder in self.encoders for name, _, _ in self._applied(encoder)}
        for name, metric in self.metrics.items():
            if name not in applied:
                encoders = ", ".join(encoder.spec.name for encoder in self.encoders)
                example = next((row.name for row in ROWS if row.output == metric.output), DEFAULT_ENCODER)
                raise InputError(
                    f"Metric {name!r} needs the output {metric.output!r}, which {encoders} does not give; use an "
                    f"encoder that gives it, such as {example}."
                )

    def _applied(self, encoder: AbstractEncoder) -> Iterator[tuple[str, Metric, Need]]:
        """The metrics that apply to an encoder, by name, with what each needs."""
        for name, metric in self.metrics.items():
            need = metric.need(encoder.spec.output, encoder.outputs)
            if need is not None:
                yield name, metric, need

    def _needs(self, of_reference: bool = False) -> Needs:
        """What the metrics need of each encoder, for the samples or for the reference."""
        wanted: dict[str, list[Need]] = {encoder.spec.name: [] for encoder in self.encoders}
        for encoder in self.encoders:
            for _, metric, need in self._applied(encoder):
                if (metric.needs_reference or not of_reference) and need not in wanted[encoder.spec.name]:
                    wanted[encoder.spec.name].append(need)
        return wanted

    def prepare_reference(self) -> None:
        """Measure the reference if it consists of images. Done once; `evaluate` does it if it was not done."""
        with collected_warnings() as texts:
            self.reference.prepare()
        self.warnings += texts

    def plan(self, sources: Sequence[ImageSource]) -> Iterator[str]:
        """Describe what `evaluate` would do with these sources, a line for each; nothing is computed or written."""
        if self.reference.moments:
            first = next(iter(self.reference.moments.values()))
            yield f"reference: {first.name}, moments from {first.source}"
        if self.reference.images is not None:
            yield "reference: " + self._plan_of(self.reference.images, self.reference.outputs)
        for source in sources:
            yield "samples: " + self._plan_of(source, outputs_of(self._needs()))

    def _plan_of(self, source: ImageSource, outputs: Mapping[str, tuple[str, ...]]) -> str:
        cache = self.extraction_options.cache
        parts = []
        for encoder in self.encoders:
            if encoder.spec.name in outputs:
                done = 0 if cache is None else cached_rows(cache, source, encoder, outputs[encoder.spec.name])
                parts.append(f"{encoder.spec.name} ({done} cached)")
        return f"{source.name}, {len(source)} images, {', '.join(parts)} on {self.encoders[0].device}"

    def evaluate(self, samples: Any) -> Report:
        """Measure one sample set against the reference."""
        return self.evaluate_source(open_samples(samples, self.image_options))

    def evaluate_source(self, source: ImageSource) -> Report:
        """Measure an opened sample set."""
        group = self.extraction_options.group
        with propagate_failures(group):
            source.find_digest(group, self.extraction_options.progress)
            self.prepare_reference()
            with collected_warnings() as texts:
                for reference in list(self.reference.moments.values())[:1]:
                    warn_if_same_images(source.digest, reference)
                stored = self._stored_moments(source)
                needs = {
                    name: [need for need in wanted if (name, need) not in stored]
                    for name, wanted in self._needs().items()
                }
                extraction = Extraction(source, self.encoders, outputs_of(needs), self.extraction_options)
                measured = measure(extraction, needs)
                results: list[Result] = []
                if measured is not None:
                    measured = replace(measured, collected={**measured.collected, **stored})
                    for sentence in sanity_warnings(extraction, measured.moments, self.reference):
                        warnings.warn(sentence, FdrWarning, stacklevel=2)
                    results = list(self._results(source, measured, stored))
                    if self.on_measured is not None:
                        self.on_measured(measured.moments)
            gathered = list(itertools.chain(*group.gather(texts)))

            def report() -> Report:
                assert measured is not None
                return self._report(source, measured, results, gathered)

            return run_on_rank0(group, report)

    def _stored_moments(self, source: ImageSource) -> dict[Key, Moments]:
        """The moments in the sample file itself, if the protocol uses these instead of the images; else none."""
        has_rule = self.protocol is not None and self.protocol.takes_stored_moments
        if not has_rule or source.path is None or not is_statistics(source.path):
            return {}
        return {
            (encoder.spec.name, need): find_reference(source.path, encoder, output=need.output).moments
            for encoder in self.encoders
            for need in self._needs()[encoder.spec.name]
            if need.is_moments
        }

    def planned(self, source: ImageSource) -> Iterator[PlannedResult]:
        """The numbers that `evaluate_source` would give, with their signatures; nothing is computed."""
        return self._planned(source, len(source), self._stored_moments(source))

    def _planned(self, source: ImageSource, count: int, stored: Mapping[Key, Moments]) -> Iterator[PlannedResult]:
        """Every metric of every encoder, each followed by its ratio if it has one; then the means over the encoders."""
        averaged: dict[str, dict[str, Origin]] = {}
        for encoder in self.encoders:
            spec = encoder.spec
            for name, metric, need in self._applied(encoder):
                is_stored = (spec.name, need) in stored
                settings = {**metric.settings_of(name), **({"m": "stored"} if is_stored else {})}
                notes = (STORED_NOTE.format(name=source.name),) if is_stored else ()
                origin = self.reference.origin(spec.name, need) if metric.needs_reference else None
                provenance = Provenance(spec, need.output, source.policy, count, origin, settings)
                yield provenance.row(name, notes)
                ratio, val_fd = METRICS[name].ratio, self.reference.val_fd(spec.name, need)
                if ratio and val_fd is not None and origin is not None:
                    yield provenance.row(ratio, derive=partial(_ratio_of, (name, spec.name), val_fd))
                    averaged.setdefault(ratio, {})[spec.name] = origin
                if METRICS[name].mean and origin is not None:
                    averaged.setdefault(name, {})[spec.name] = origin
        for part, origins in averaged.items():
            if 1 < len(origins) == len(self.encoders):
                yield from self._means(part, origins, source, count)

    def _means(
        self, part: str, origins: Mapping[str, Origin], source: ImageSource, count: int
    ) -> Iterator[PlannedResult]:
        """The mean of a number over all encoders; then over those that the generator was trained on, and the others."""
        specs = {encoder.spec.name: encoder.spec for encoder in self.encoders}
        mean, trained = (METRICS | DERIVED)[part].mean, encoders_trained_on(source, self._trained_on)
        parts = [] if trained is None else [(f"{mean}:{group}", names) for group, names in groups(specs, trained)]
        settings = self.metrics[part].settings if part in self.metrics else {}
        for metric, names in [(mean, tuple(specs)), *parts]:
            own = {name: specs[name] for name in names}
            references = {name: origins[name] for name in names}
            signature = mean_signature(metric, own, source.policy, count, references, settings)
            derive = partial(_mean_of, part, names)
            yield PlannedResult(metric, None, None, count, signature, encoders=names, derive=derive)

    def _results(self, source: ImageSource, measured: Measurement, stored: Mapping[Key, Moments]) -> Iterator[Result]:
        """The plan with its numbers."""
        scores: dict[tuple[str, str | None], Score] = {
            (name, encoder.spec.name): score
            for encoder in self.encoders
            for name, score in self._scores(encoder, measured.collected).items()
        }
        for row in self._planned(source, measured.count, stored):
            key = row.metric, row.encoder
            if row.derive is not None:
                scores[key] = row.derive(scores)
            yield row.result(scores[key])

    def _scores(self, encoder: AbstractEncoder, collected: Mapping[Key, Any]) -> dict[str, Score]:
        """The scores of all metrics of one encoder, by name; metrics that share their work are computed once."""
        encoder_name = encoder.spec.name
        scores: dict[str, Score] = {}
        for metric, need in {metric: need for _, metric, need in self._applied(encoder)}.items():
            reference = self.reference.collected(encoder_name, need) if metric.needs_reference else None
            with memory_for(
                f"{', '.join(metric.names)} of {encoder_name}",
                "use --device cpu, fewer images, or an encoder of fewer dimensions",
            ):
                scores.update(metric.scores(collected[encoder_name, need], reference, self._context))
        return scores

    def _report(
        self,
        source: ImageSource,
        measured: Measurement,
        results: Sequence[Result],
        texts: Sequence[str],
    ) -> Report:
        specs = {encoder.spec.name: encoder.spec for encoder in self.encoders}
        reference = self.reference.describe()
        if reference is not None and self._is_default_reference:
            reference["is_default"] = True
        trained = encoders_trained_on(source, self._trained_on)
        opened = [] if self.reference.images is None else self.reference.images.warnings
        return Report(
            samples=describe_samples(source, measured),
            reference=reference,
            results=tuple(results),
            run={
                "device": str(self.encoders[0].device),
                "ranks": self.extraction_options.group.size,
                "seed": self.image_options.seed,
                "versions": package_versions(),
                "encoders": {name: {**asdict(spec), "hash": spec.hash} for name, spec in specs.items()},
                **({} if self.protocol is None else {"protocol": self.protocol.name}),
                **({} if trained is None else {"trained_on": list(trained)}),
            },
            warnings=tuple(dict.fromkeys([*opened, *self.warnings, *source.warnings, *texts])),
        )


def _ratio_of(key: tuple[str, str], val_fd: ValidationFD, scores: Scores) -> Score:
    return ratio_score(scores[key], val_fd)


def _mean_of(ratio: str, encoders: Sequence[str], scores: Scores) -> Score:
    return mean_score({name: scores[ratio, name] for name in encoders}, ratio)
