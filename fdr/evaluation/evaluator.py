"""Evaluates samples against a reference with several encoders and metrics, in one call."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fdr.encoders import AbstractEncoder, EncoderOptions, load_encoders
from fdr.errors import FdrWarning, InputError, collected_warnings
from fdr.evaluation.measurement import Key, Measurement, Requested, measure
from fdr.evaluation.protocols import Protocol, check_is_free, find_protocol
from fdr.evaluation.reference_side import ReferenceSide, opened
from fdr.evaluation.results import PlannedResult, ResultFacts, samples_facts
from fdr.evaluation.sanity import sanity_warnings
from fdr.features import Extraction, ExtractionOptions, cached_rows
from fdr.frechet import Moments
from fdr.generators import Labels, samples_of
from fdr.images import ImageOptions, ImageSource
from fdr.metrics import (
    AbstractFeaturesMetric,
    AbstractMetric,
    AbstractMomentsMetric,
    AbstractStreamMetric,
    FrechetDistance,
    Ratio,
    Score,
    load_metrics,
    mean_ratio,
    ratio,
)
from fdr.references import DEFAULT_REFERENCE, find_reference, is_statistics, open_samples, warn_if_same_images
from fdr.reports import Report, Result, mean_signature
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

    `samples` and image references are anything `fdr.open_images` reads; `reference` may also be a registry name, a
    statistics file, a folder of `fdr stats`, `Moments`, or a dict of these by encoder name. `encoders` are names
    ("inception", "fdr6"), encoder objects, callables from images [B, 3, H, W] in [0, 1] to [B, D], or a dict that gives
    each callable a name. Left out, they are imagenet256, inception and FD; a `protocol` ("adm") fixes encoders and
    metrics and has a default reference of its own. With `cache`, features are kept there and a killed run resumes.
    `weights` names weight files by encoder. `image_options.count` and `.seed` select among the samples only; crop and
    size hold for both sides.

    `samples` may also be a generator: one of `fdr.load_generator`, a network or function of noise (and labels), as
    there, or a pipeline of diffusers without a prompt. Then `num_images` (50,000) samples of `seed` and `labels` are
    measured, those of `fdr eval --gen`; `noise_shape`, `num_classes` and `value_range` say what the object does not.

    Under torchrun, `group=fdr.join_ranks()` divides the images among the ranks; all of them make the same call and get
    the same report.

    Raises `InputError` for anything unusable, `RunError` when a run cannot finish.
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
    is_default_reference = reference is None
    if reference is None:
        reference = DEFAULT_REFERENCE if chosen is None else chosen.reference
    drawn: dict[str, Any] = {"num_images": num_images, "seed": seed, "labels": labels}
    drawn |= {"noise_shape": noise_shape, "num_classes": num_classes, "value_range": value_range}
    options, encoder_options = (
        image_options or ImageOptions(),
        encoder_options or EncoderOptions(progress=extraction.progress),
    )
    size = extraction.batch_size_on(resolve_device(encoder_options.device).type)
    with samples_of(samples, size, options, drawn) as source:
        evaluator = Evaluator(
            DEFAULT_ENCODER if encoders is None else encoders,
            reference,
            DEFAULT_METRIC if metrics is None else metrics,
            protocol=chosen,
            image_options=options,
            encoder_options=encoder_options,
            weights=weights,
            extraction_options=extraction,
            audit=audit,
            is_default_reference=is_default_reference,
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
        protocol: Protocol | None = None,
        is_default_reference: bool = False,
    ) -> None:
        self.metrics = load_metrics(metrics)
        self.protocol = protocol
        self._is_default_reference = is_default_reference
        self.image_options = image_options
        self.encoder_options = encoder_options
        self.extraction_options = extraction_options
        if any(metric.needs_reference for metric in self.metrics):
            reference = opened(reference, image_options)  # so that errors in it are raised before weights are loaded
        self.encoders = load_encoders(encoders, encoder_options, weights)
        device = self.encoders[0].device
        self._device = str(device) if device.type == "cuda" else None
        self.metrics = [
            replace(metric, audit=audit, device=self._device) if isinstance(metric, FrechetDistance) else metric
            for metric in self.metrics
        ]
        self._check_metrics_apply()
        with collected_warnings() as self.warnings:
            self.reference = ReferenceSide(
                reference,
                self.encoders,
                {encoder.spec.name: self._requested(encoder, of_reference=True) for encoder in self.encoders},
                image_options=image_options,
                encoder_options=encoder_options,
                extraction_options=extraction_options,
            )

    def prepare_reference(self) -> None:
        """Measure the reference if it consists of images. Done once; `evaluate` does it if nobody else has."""
        with collected_warnings() as texts:
            self.reference.prepare()
        self.warnings += texts

    def plan(self, sources: Sequence[ImageSource]) -> Iterator[str]:
        """What `evaluate` would do with these sources, one line each; nothing is computed or written."""
        if self.reference.moments:
            first = next(iter(self.reference.moments.values()))
            yield f"reference: {first.name}, moments from {first.source}"
        if self.reference.images is not None:
            yield "reference: " + self._plan_of(self.reference.images, self.reference.outputs)
        for source in sources:
            outputs = {encoder.spec.name: self._requested(encoder).outputs for encoder in self.encoders}
            yield "samples: " + self._plan_of(source, outputs)

    def _plan_of(self, source: ImageSource, outputs: Mapping[str, tuple[str, ...]]) -> str:
        cache = self.extraction_options.cache
        parts = []
        for encoder in self.encoders:
            if encoder.spec.name in outputs:
                done = 0 if cache is None else cached_rows(cache, source, encoder, outputs[encoder.spec.name])
                parts.append(f"{encoder.spec.name} ({done} cached)")
        return f"{source.name}, {len(source)} images, {', '.join(parts)} on {self.encoders[0].device}"

    def _check_metrics_apply(self) -> None:
        names = ", ".join(encoder.spec.name for encoder in self.encoders)
        for metric in self.metrics:
            if not any(metric is applied for encoder in self.encoders for applied, _ in self._applied(encoder)):
                raise InputError(
                    f"Metric {metric.name!r} needs the output {metric.output!r}, which {names} does not give; "
                    "use an encoder that gives it, such as inception."
                )

    def _applied(self, encoder: AbstractEncoder) -> list[tuple[AbstractMetric, str]]:
        """The metrics that apply to an encoder, with the output that each reads."""
        outputs = [(metric, metric.output_of(encoder.spec.output, encoder.outputs)) for metric in self.metrics]
        return [(metric, output) for metric, output in outputs if output is not None]

    def _requested(self, encoder: AbstractEncoder, of_reference: bool = False) -> Requested:
        """What the metrics need from an encoder, for the samples or for the reference."""
        applied = [(m, output) for m, output in self._applied(encoder) if m.needs_reference or not of_reference]
        return Requested(
            tuple(dict.fromkeys(output for m, output in applied if isinstance(m, AbstractMomentsMetric))),
            tuple(dict.fromkeys(output for m, output in applied if isinstance(m, AbstractFeaturesMetric))),
            tuple(m for m, _ in applied if isinstance(m, AbstractStreamMetric)),
        )

    def evaluate(self, samples: Any) -> Report:
        """Measure one sample set against the reference."""
        return self.evaluate_source(open_samples(samples, self.image_options))

    def evaluate_source(self, source: ImageSource) -> Report:
        """Measure an opened sample set."""
        group = self.extraction_options.group
        with propagate_failures(group):
            source.find_digest(group, self.extraction_options.progress)
            return self._evaluate_on(group, source)

    def _evaluate_on(self, group: Group, source: ImageSource) -> Report:
        self.prepare_reference()
        requested = {encoder.spec.name: self._requested(encoder) for encoder in self.encoders}
        with collected_warnings() as texts:
            stored = self._stored_moments(source)
            if stored:
                requested = {name: replace(request, moments=()) for name, request in requested.items()}
            for reference in list(self.reference.moments.values())[:1]:
                warn_if_same_images(source.digest, reference)
            outputs = {name: request.outputs for name, request in requested.items()}
            extraction = Extraction(source, self.encoders, outputs, self.extraction_options)
            measured = measure(extraction, requested)
            if stored:
                measured = replace(measured, moments=stored)
            results = []
            if group.rank == 0:
                side = self.reference
                for sentence in sanity_warnings(
                    extraction, measured.moments, side.moments, side.image_set, side.preprocessing
                ):
                    warnings.warn(sentence, FdrWarning, stacklevel=2)
                results = list(self._results(source, measured, has_stored=bool(stored)))
        opened = [] if self.reference.images is None else self.reference.images.warnings
        gathered = itertools.chain(opened, self.warnings, source.warnings, *group.gather(texts))

        def report() -> Report:
            return Report(
                samples=samples_facts(source, measured),
                reference=self._reference_facts(),
                results=tuple(results),
                run=self._run_facts(),
                warnings=tuple(dict.fromkeys(gathered)),
            )

        return run_on_rank0(group, report)

    def _stored_moments(self, source: ImageSource) -> dict[Key, Moments]:
        """The moments in the sample file itself, if the protocol uses these instead of the images; else none."""
        has_rule = self.protocol is not None and self.protocol.takes_stored_moments
        if not has_rule or source.path is None or not is_statistics(source.path):
            return {}
        return {
            (encoder.spec.name, output): find_reference(source.path, encoder, output=output).moments
            for encoder in self.encoders
            for output in self._requested(encoder).moments
        }

    def planned(self, source: ImageSource) -> Iterator[PlannedResult]:
        """The numbers that `evaluate_source` would give, with their signatures; nothing is computed."""
        count, has_stored = len(source), bool(self._stored_moments(source))
        ratios = []
        for encoder in self.encoders:
            for metric, output in self._applied(encoder):
                facts = self._facts(encoder, metric, output, source, count, has_stored)
                yield facts.planned(metric.name, metric.lower_is_better)
                if metric.name == "fd" and self.reference.val_fd((encoder.spec.name, output)) is not None:
                    ratios.append(encoder.spec.name)
                    yield facts.planned("fdr", True)
        if len(self.encoders) > 1 and len(ratios) == len(self.encoders):
            yield PlannedResult("fdr_k", None, True, self._mean_signature(source.policy, count))

    def _facts(
        self,
        encoder: AbstractEncoder,
        metric: AbstractMetric,
        output: str,
        source: ImageSource,
        count: int,
        has_stored: bool,
    ) -> ResultFacts:
        settings: Mapping[str, str] = metric.settings
        if has_stored and isinstance(metric, AbstractMomentsMetric):
            settings = {**settings, "m": "stored"}
        origin = None
        if metric.needs_reference:
            origin = self.reference.origin((encoder.spec.name, output), isinstance(metric, AbstractFeaturesMetric))
        return ResultFacts(encoder.spec, output, source.policy, count, origin, settings)

    def _results(self, source: ImageSource, measured: Measurement, has_stored: bool) -> Iterator[Result]:
        ratios: dict[str, Ratio] = {}
        for encoder in self.encoders:
            name = encoder.spec.name
            for metric, output in self._applied(encoder):
                score = self._score(metric, (name, output), measured)
                if has_stored and isinstance(metric, AbstractMomentsMetric):
                    score = replace(score, notes=(*score.notes, STORED_NOTE.format(name=source.name)))
                facts = self._facts(encoder, metric, output, source, measured.count, has_stored)
                yield facts.result(metric.name, score, metric.lower_is_better)
                val_fd = self.reference.val_fd((name, output)) if metric.name == "fd" else None
                if val_fd is not None:
                    ratios[name] = ratio(score.value, val_fd)
                    yield facts.ratio_result(ratios[name])
        if len(self.encoders) > 1 and len(ratios) == len(self.encoders):
            yield self._mean_result(ratios, source.policy, measured.count)

    def _score(self, metric: AbstractMetric, key: Key, measured: Measurement) -> Score:
        with memory_for(
            f"{metric.name} of {key[0]}", "use --device cpu, fewer images, or an encoder of fewer dimensions"
        ):
            return self._scored(metric, key, measured)

    def _scored(self, metric: AbstractMetric, key: Key, measured: Measurement) -> Score:
        if isinstance(metric, AbstractMomentsMetric):
            return metric.score(measured.moments[key], self.reference.moments[key].moments)
        if isinstance(metric, AbstractFeaturesMetric):
            progress = self.extraction_options.progress
            samples, reference = measured.features[key], self.reference.features[key]
            return metric.score(samples=samples, reference=reference, device=self._device, progress=progress)
        return measured.scores[metric.name, key[0]]

    def _mean_result(self, ratios: Mapping[str, Ratio], policy: Mapping[str, str], count: int) -> Result:
        value, interval = mean_ratio(ratios)
        return Result(
            metric="fdr_k",
            value=value,
            encoder=None,
            output=None,
            count=count,
            lower_is_better=True,
            signature=self._mean_signature(policy, count),
            k=len(ratios),
            encoders=tuple(ratios),
            interval=interval,
            details={"fdr": {name: r.value for name, r in ratios.items()}},
        )

    def _mean_signature(self, policy: Mapping[str, str], count: int) -> str:
        specs = {encoder.spec.name: encoder.spec for encoder in self.encoders}
        origins = {name: self.reference.origin((name, spec.output), False) for name, spec in specs.items()}
        return mean_signature(specs, policy, count, origins)

    def _reference_facts(self) -> dict[str, Any] | None:
        facts = self.reference.facts()
        return facts if facts is None or not self._is_default_reference else {**facts, "is_default": True}

    def _run_facts(self) -> dict[str, Any]:
        specs = {}
        for encoder in self.encoders:
            specs[encoder.spec.name] = {**asdict(encoder.spec), "hash": encoder.spec.hash}
        return {
            "device": str(self.encoders[0].device),
            "ranks": self.extraction_options.group.size,
            "seed": self.image_options.seed,
            "versions": package_versions(),
            "encoders": specs,
            **({} if self.protocol is None else {"protocol": self.protocol.name}),
        }
