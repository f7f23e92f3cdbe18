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

from fdr.encoders import AbstractEncoder, EncoderOptions, load_encoders
from fdr.errors import FdrWarning, InputError, collected_warnings, warn
from fdr.evaluation.held_out import encoders_trained_on, named_encoders
from fdr.evaluation.measurement import Key, Measurement, Needs, outputs_of
from fdr.evaluation.planning import Planner
from fdr.evaluation.prompts import as_captions, check_prompts, read_prompts
from fdr.evaluation.protocols import Protocol, check_is_free, find_protocol, warn_of_departures
from fdr.evaluation.reference_side import ReferenceSide, open_reference, open_training_set
from fdr.evaluation.remaining import measure_remaining
from fdr.evaluation.requested import Requested, need_of, without_stderr
from fdr.evaluation.results import PlannedResult, describe_samples
from fdr.evaluation.sanity import sanity_warnings
from fdr.evaluation.scoring import Scoring
from fdr.features import ExtractionOptions, cached_rows
from fdr.frechet import Moments
from fdr.generators import MAX_BATCH, GeneratorOptions, Labels, LoadedPipeline, samples_of
from fdr.images import ImageOptions, ImageSource
from fdr.metrics import Context, Metric, Side, load_metrics
from fdr.neighbours import DEFAULT_MEMORY
from fdr.references import DEFAULT_REFERENCE, find_reference, is_statistics, open_samples, warn_if_same_images
from fdr.reports import Failure, Report, Result
from fdr.runtime import (
    SOLO,
    Group,
    Progress,
    as_path,
    as_progress,
    named_arguments,
    package_versions,
    propagate_failures,
    resolve_device,
    run_on_rank0,
)

DEFAULT_ENCODER, DEFAULT_METRIC = "inception", "fd"
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
    spectra: bool = False,
    memory: int = DEFAULT_MEMORY,
    stderr: bool = True,
    trained_on: str | Sequence[str] | None = None,
    training_set: Any = None,
    prompts: Any = None,
    progress: Progress | bool | None = None,
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
    each callable a name. The defaults are imagenet256, inception and FD. A `protocol` ("adm", "coco-30k", "mjhq-30k")
    gives encoders and metrics, and perhaps a reference, a crop and a size. With `cache`, features are kept there and a
    killed run resumes. `weights` gives weight files by encoder. `image_options.count` and `.seed` select among the
    samples only; crop and size apply to both sides. `trained_on` names the encoders that the generator was trained on:
    FDr^k is then given for them and for the held-out ones as well. A run folder of `fdr train` says it by itself,
    and so do files that `fdr sample` made of it. `training_set` is the images that the model was trained on, for
    metrics that compare with them. `prompts` are those of the samples, for metrics that read texts: a file of captions,
    a list in the order of the images, or a dict by their names. `memory`, in bytes, is what metrics of nearest
    neighbours may hold; it does not change the result.
    `spectra=True` adds eigenvalues of both covariances to the details of FD, which `fdr report` draws. `stderr=False`
    leaves out standard errors that cost time. `progress=True` shows on stderr how far the call is, as bars on a
    terminal and in notebooks; an object with a method `task`, like `fdr.runtime.Progress`, receives it instead.

    `samples` may also be a generator: one that `fdr.load_generator` gives or takes, or a pipeline of diffusers, as an
    object or from `fdr.load_pipeline`. Then `num_images` (50,000) samples are made from `seed` and `labels`, the same
    as by `fdr eval --gen`. `noise_shape`, `num_classes` and `value_range` are for a generator that does not declare
    them. A pipeline that makes images of texts makes sample i from prompt i of `prompts`, and without `num_images` one
    of each.

    Under torchrun, `group=fdr.join_ranks()` divides the images among the ranks. All ranks make the same call and get
    the same report.

    Raises `InputError` for anything unusable, and `RunError` if a run cannot finish. If only some of the numbers cannot
    be computed, `Report.failed` says which and why, with a warning.
    """
    extraction = ExtractionOptions(
        None if cache is None else as_path(cache, "the cache"),
        batch_size,
        num_workers,
        as_progress(progress),
        group=group,
    )
    chosen = None if protocol is None else find_protocol(protocol)
    image_options, is_default = image_options or ImageOptions(), reference is None
    if chosen is not None:
        check_is_free(chosen, encoders is not None, metrics is not None)
        encoders, metrics = encoders or chosen.encoder, metrics or chosen.metrics
        image_options = chosen.options(image_options)
    if is_default:
        reference = DEFAULT_REFERENCE if chosen is None else chosen.default_reference(metrics or chosen.metrics)
    encoder_options = (encoder_options or EncoderOptions()).shown_by(extraction.progress)
    size = extraction.batch_size_on(resolve_device(encoder_options.device).type)
    if batch_size is None and isinstance(samples, LoadedPipeline):
        size = MAX_BATCH
    drawn = GeneratorOptions(num_images, seed, labels, noise_shape, num_classes, value_range)
    captions = None if prompts is None else as_captions(prompts)
    with samples_of(samples, size, image_options, drawn, captions) as source:
        evaluator = Evaluator(
            DEFAULT_ENCODER if encoders is None else encoders,
            reference,
            DEFAULT_METRIC if metrics is None else metrics,
            protocol=chosen,
            image_options=image_options,
            encoder_options=encoder_options,
            weights=weights,
            extraction_options=extraction,
            audit=audit,
            spectra=spectra,
            memory=memory,
            stderr=stderr,
            trained_on=trained_on,
            training_set=training_set,
            prompts=captions,
            is_default_reference=is_default,
        )
        report = evaluator.evaluate(source)
    for failure in report.failed:
        warn(f"{failure.key} could not be computed: {failure.sentence}")
    return report


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
        spectra: bool = False,
        memory: int = DEFAULT_MEMORY,
        stderr: bool = True,
        trained_on: str | Sequence[str] | None = None,
        training_set: Any = None,
        prompts: Any = None,
        protocol: Protocol | None = None,
        is_default_reference: bool = False,
    ) -> None:
        self.metrics = load_metrics(metrics) if stderr else without_stderr(load_metrics(metrics))
        self.protocol = protocol
        self._is_default_reference = is_default_reference
        self.captions = None if prompts is None else as_captions(prompts)
        """The prompts of the samples."""
        check_prompts(self.metrics, self.captions, protocol)
        self.on_measured: Callable[[Measurement], object] | None = None
        """Called on rank 0 with what was collected of each sample set, when its numbers are computed."""
        self.image_options = image_options
        self.encoder_options = encoder_options
        self.extraction_options = extraction_options
        if any(metric.needs_reference for metric in self.metrics.values()):
            reference = open_reference(reference, image_options)  # its errors come before weights are loaded
        if trained := [name for name, metric in self.metrics.items() if metric.needs_training_set]:
            if training_set is None:
                raise InputError(
                    f"Metric {trained[0]!r} compares with the images that the model was trained on; give them with "
                    "--training-set."
                )
            training_set = open_training_set(training_set, image_options)
        self.encoders = load_encoders(encoders, encoder_options, weights)
        names = [encoder.spec.name for encoder in self.encoders]
        self._trained_on = None if trained_on is None else named_encoders(trained_on, names)
        device = self.encoders[0].device
        self._context = Context(
            device=str(device) if device.type == "cuda" else None,
            audit=audit,
            spectra=spectra,
            progress=extraction_options.progress,
            memory=memory,
            stderr=stderr,
        )
        self.requested = Requested(self.metrics, self.encoders)
        self.requested.check_apply()
        self.prompts = read_prompts(self.metrics, self.captions, self.encoders, extraction_options)
        with collected_warnings() as self.warnings:
            self.reference = self._open_side("reference", reference)
            self.training = self._open_side("training", training_set)
        self._planner = Planner(self.requested, self.reference, self.training, self._trained_on, self.prompts)

    def _open_side(self, side: Side, images: Any) -> ReferenceSide:
        """The reference or the training set, with what metrics need of it."""
        found = ReferenceSide(
            images,
            self.encoders,
            self.requested.needs(side),
            image_options=self.image_options,
            encoder_options=self.encoder_options,
            extraction_options=self.extraction_options,
        )
        self.requested.check_labelled(side, found.images)
        return found

    def check_source(self, source: ImageSource) -> None:
        """Raise `InputError` if a metric needs the classes of the samples, or their prompts, and they have none."""
        self.requested.check_labelled("samples", source)
        if self.prompts is not None:
            self.prompts.rows_of(source)

    def prepare_reference(self) -> None:
        """Measure the reference if it consists of images, and the training set if there is one. Done once; `evaluate`
        does it if it was not done."""
        with collected_warnings() as texts:
            self.reference.prepare()
            self.training.prepare()
        self.warnings += texts

    def plan(self, sources: Sequence[ImageSource]) -> Iterator[str]:
        """Describe what `evaluate` would do with these sources, a line for each; nothing is computed or written."""
        if self.reference.moments:
            first = next(iter(self.reference.moments.values()))
            yield f"reference: {first.name}, moments from {first.source}"
        if self.reference.images is not None:
            yield "reference: " + self._plan_of(self.reference.images, self.reference.outputs)
        if self.training.images is not None:
            yield "training set: " + self._plan_of(self.training.images, self.training.outputs)
        for source in sources:
            yield "samples: " + self._plan_of(source, outputs_of(self.requested.needs()))

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
            self.check_source(source)
            source.find_digest(group, self.extraction_options.progress)
            self.prepare_reference()
            with collected_warnings() as texts:
                for reference in list(self.reference.moments.values())[:1]:
                    warn_if_same_images(source.digest, reference)
                stored = self._stored_moments(source)
                needs = {
                    name: [need for need in wanted if (name, need) not in stored]
                    for name, wanted in self.requested.needs().items()
                }
                extraction, measured = measure_remaining(source, self.encoders, needs, self.extraction_options)
                results: tuple[Result, ...] = ()
                failed: tuple[Failure, ...] = ()
                if measured is not None:
                    measured = replace(measured, collected={**measured.collected, **stored})
                    for sentence in sanity_warnings(extraction, measured.moments, self.reference):
                        warnings.warn(sentence, FdrWarning, stacklevel=2)
                    warn_of_departures(self.protocol, measured, self.reference, extraction.preprocessing, self.captions)
                    planned = self._planner.rows(source, measured.count, stored)
                    results, failed = self._score(source, measured).rows(planned)
                    if self.on_measured is not None:
                        self.on_measured(measured)
            gathered = list(itertools.chain(*group.gather(texts)))

            def report() -> Report:
                assert measured is not None
                return self._report(source, measured, results, failed, gathered)

            return run_on_rank0(group, report)

    def needs(self, side: Side = "samples") -> Needs:
        """The needs of the metrics for each encoder, of one set of images."""
        return self.requested.needs(side)

    def report_of(self, source: ImageSource, measured: Measurement) -> Report:
        """The report of samples that were measured elsewhere, such as in a training loop, on this rank alone."""
        self.prepare_reference()
        with collected_warnings() as texts:
            results, failed = self._score(source, measured).rows(self._planner.rows(source, measured.count, ()))
        return self._report(source, measured, results, failed, texts)

    def _stored_moments(self, source: ImageSource) -> dict[Key, Moments]:
        """The moments in the sample file itself, if the protocol uses these instead of the images; else none."""
        has_rule = self.protocol is not None and self.protocol.takes_stored_moments
        if not has_rule or source.path is None or not is_statistics(source.path):
            return {}
        return {
            (encoder.spec.name, need): find_reference(source.path, encoder, output=need.output).moments
            for encoder in self.encoders
            for need in self.requested.needs()[encoder.spec.name]
            if need.is_moments
        }

    def planned(self, source: ImageSource) -> Iterator[PlannedResult]:
        """The numbers that `evaluate_source` would give, with their signatures; nothing is computed."""
        return self._planner.rows(source, len(source), self._stored_moments(source))

    def _score(self, source: ImageSource, measured: Measurement) -> Scoring:
        """The scores of all metrics and encoders; metrics that share their work are computed once."""
        scoring = Scoring()
        for encoder in self.encoders:
            for metric in dict.fromkeys(metric for _, metric, _ in self.requested.applied(encoder)):
                arguments = partial(self._arguments, metric, encoder, source, measured)
                scoring.compute(metric, encoder.spec.name, arguments)
        return scoring

    def _arguments(
        self, metric: Metric, encoder: AbstractEncoder, source: ImageSource, measured: Measurement
    ) -> tuple[Any, Any, Context]:
        """What was collected of the samples and of the reference for a metric, and its context."""
        name, context = encoder.spec.name, replace(self._context, labels=measured.labels)
        samples = measured.of(name, need_of(metric, encoder, "samples"))
        reference = None
        if metric.needs_reference:
            reference = self.reference.collected(name, need_of(metric, encoder, "reference"))
        if metric.needs_training_set:
            context = replace(context, training=self.training.collected(name, need_of(metric, encoder, "training")))
        if metric.prompt and self.prompts is not None:
            context = replace(context, texts=self.prompts.texts(name, metric, source, measured.bad))
        return samples, reference, context

    def _report(
        self,
        source: ImageSource,
        measured: Measurement,
        results: tuple[Result, ...],
        failed: tuple[Failure, ...],
        texts: Sequence[str],
    ) -> Report:
        specs = {encoder.spec.name: encoder.spec for encoder in self.encoders}
        reference = self.reference.describe()
        if reference is not None and self._is_default_reference:
            reference["is_default"] = True
        trained = encoders_trained_on(source, self._trained_on)
        sides = (self.reference.images, self.training.images)
        opened = [text for images in sides if images is not None for text in images.warnings]
        return Report(
            samples=describe_samples(source, measured) | ({} if self.prompts is None else self.prompts.described),
            reference=reference,
            results=results,
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
            failed=failed,
            training_set=self.training.describe(),
        )
