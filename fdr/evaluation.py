"""Samples against a reference, with several encoders and metrics: the first arrow line of the design, in one call."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fdr.encoders.base import AbstractEncoder, EncoderOptions, EncoderSpec
from fdr.encoders.registry import as_encoder, parse_encoders
from fdr.errors import FdrWarning, InputError, unknown
from fdr.extraction import Extraction, ExtractionOptions, cached_rows
from fdr.images import ImageOptions, ImageSource, open_images
from fdr.measurement import Measurement, measure
from fdr.metrics import load_metrics
from fdr.metrics.base import AbstractMetric, AbstractMomentsMetric, AbstractStreamMetric, Score
from fdr.metrics.fd import FrechetDistance
from fdr.metrics.fdr_ratio import Ratio, mean_ratio, ratio
from fdr.progress import Progress, SilentProgress
from fdr.reference import DEFAULT_REFERENCE, Reference, find_reference, names_images, warn_if_same_images
from fdr.report import Report, Result
from fdr.runtime import package_versions
from fdr.signature import mean_signature, result_signature

Encoders = str | AbstractEncoder | Any


def evaluate(
    samples: Any,
    reference: Any = DEFAULT_REFERENCE,
    encoders: Encoders | Sequence[Encoders] = ("inception",),
    metrics: str | Sequence[str] = ("fd",),
    *,
    image_options: ImageOptions | None = None,
    encoder_options: EncoderOptions | None = None,
    weights: Mapping[str, Path] | None = None,
    cache: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    audit: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Measure one sample set; everything that can be wrong is checked before the first image is decoded.

    `samples` and image references are anything `fdr.open_images` reads; `reference` may also be a registry name, a
    statistics file, a folder of `fdr stats`, or `Moments`. `encoders` are names ("inception", "fdr6"), encoder
    objects, or callables from images [B, 3, H, W] in [0, 1] to [B, D]. With `cache`, features are kept there and a
    killed run resumes. `weights` names weight files by encoder. `image_options.count` and `.seed` select among the
    samples only; crop and size hold for both sides.

    Raises `InputError` for anything unusable, `RunError` when a run cannot finish.
    """
    extraction = ExtractionOptions(
        None if cache is None else Path(cache), batch_size, num_workers, progress or SilentProgress()
    )
    evaluator = Evaluator(
        encoders,
        reference,
        metrics,
        image_options=image_options or ImageOptions(),
        encoder_options=encoder_options or EncoderOptions(progress=extraction.progress),
        weights=weights,
        extraction_options=extraction,
        audit=audit,
    )
    return evaluator.evaluate(samples)


def load_encoders(
    encoders: Encoders | Sequence[Encoders], options: EncoderOptions, weights: Mapping[str, Path] | None = None
) -> list[AbstractEncoder]:
    """Encoder objects for names, comma-separated names, bundles, objects and callables, in order, once each.

    `weights` gives weight files by encoder name. Raises `InputError` when it names an encoder that is not asked for.
    """
    given = list(encoders) if isinstance(encoders, list | tuple) else [encoders]
    files = dict(weights or {})
    loaded: dict[str, AbstractEncoder] = {}
    for item in given:
        for one in parse_encoders(item) if isinstance(item, str) else [item]:
            file = files.pop(one, None) if isinstance(one, str) else None
            if isinstance(one, str) and one in loaded:
                continue
            encoder = as_encoder(one, replace(options, weights=file))
            if encoder.spec.name in loaded:
                raise InputError(f"Two encoders are called {encoder.spec.name!r}; give one of them another name.")
            loaded[encoder.spec.name] = encoder
    if files:
        raise unknown("encoder with explicit weights", next(iter(files)), loaded, "Name it in --reps as well.")
    if not loaded:
        raise InputError("No encoder was given; name at least one, for example inception.")
    return list(loaded.values())


class Evaluator:
    """Encoders, metrics and a reference, loaded once; `evaluate` then measures any number of sample sets."""

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
    ) -> None:
        self.metrics = load_metrics(metrics)
        self.image_options = image_options
        self.encoder_options = encoder_options
        self.extraction_options = extraction_options
        needs_reference = any(metric.needs_reference for metric in self.metrics)
        has_images = needs_reference and names_images(reference)
        self._reference_source = self._open_reference(reference) if has_images else None
        self.encoders = load_encoders(encoders, encoder_options, weights)
        device = self.encoders[0].device
        frechet = FrechetDistance(audit, str(device) if device.type == "cuda" else None)
        self.metrics = [frechet if isinstance(metric, FrechetDistance) else metric for metric in self.metrics]
        self._check_metrics_apply()
        self.references: dict[str, Reference] = {}
        self.warnings: list[str] = []
        if needs_reference and not has_images:
            with collected_warnings() as self.warnings:
                self.references = self._find_references(reference)

    def _open_reference(self, reference: Any) -> ImageSource:
        return open_images(reference, replace(self.image_options, count=None, seed=0))

    def _find_references(self, reference: Any) -> dict[str, Reference]:
        options = self.encoder_options
        return {
            encoder.spec.name: find_reference(
                reference, encoder, weights_dir=options.weights_dir, offline=options.offline, progress=options.progress
            )
            for encoder in self.encoders
        }

    def _measure_reference(self, source: ImageSource) -> dict[str, Reference]:
        measured = measure(Extraction(source, self.encoders, None, self.extraction_options), {})
        digest = source.digest or ""
        return {
            encoder.spec.name: Reference(
                source.name, source.name, digest, measured.moments[encoder.spec.name], digest, encoder.spec.hash
            )
            for encoder in self.encoders
        }

    def prepare_reference(self) -> None:
        """Measure the reference images, if that is what the reference is; done once, at the latest by `evaluate`."""
        if self._reference_source is not None and not self.references:
            with collected_warnings() as self.warnings:
                self.references = self._measure_reference(self._reference_source)

    def plan(self, sources: Sequence[ImageSource]) -> Iterator[str]:
        """What `evaluate` would do with these sources, one line each; nothing is computed or written."""
        if self._reference_source is not None:
            yield "reference: " + self._plan_of(self._reference_source)
        elif self.references:
            first = next(iter(self.references.values()))
            yield f"reference: {first.name}, moments from {first.source}"
        for source in sources:
            yield "samples: " + self._plan_of(source)

    def _plan_of(self, source: ImageSource) -> str:
        cache = self.extraction_options.cache
        parts = []
        for encoder in self.encoders:
            done = 0 if cache is None else cached_rows(cache, source, encoder, self._outputs()[encoder.spec.name])
            parts.append(f"{encoder.spec.name} ({done} cached)")
        return f"{source.name}, {len(source)} images, {', '.join(parts)} on {self.encoders[0].device}"

    def _check_metrics_apply(self) -> None:
        names = ", ".join(encoder.spec.name for encoder in self.encoders)
        for metric in self.metrics:
            if not any(metric is applied for encoder in self.encoders for applied, _ in self._applied(encoder)):
                needed = getattr(metric, "output", "")
                raise InputError(
                    f"Metric {metric.name!r} needs the output {needed!r}, which {names} does not give; "
                    "use an encoder with a classifier, such as inception."
                )

    def _applied(self, encoder: AbstractEncoder) -> list[tuple[AbstractMetric, str]]:
        """The metrics that apply to an encoder, with the output that each reads."""
        outputs = [(metric, metric.output_of(encoder.spec.output, encoder.outputs)) for metric in self.metrics]
        return [(metric, output) for metric, output in outputs if output is not None]

    def evaluate(self, samples: Any) -> Report:
        """Measure one sample set against the reference."""
        return self.evaluate_source(open_images(samples, self.image_options))

    def evaluate_source(self, source: ImageSource) -> Report:
        """Measure an opened sample set."""
        self.prepare_reference()
        streams = {
            encoder.spec.name: [m for m, _ in self._applied(encoder) if isinstance(m, AbstractStreamMetric)]
            for encoder in self.encoders
        }
        with collected_warnings() as texts:
            for reference in list(self.references.values())[:1]:
                warn_if_same_images(source.digest, reference)
            extraction = Extraction(source, self.encoders, self._outputs(), self.extraction_options)
            measured = measure(extraction, streams)
            results = list(self._results(source, measured))
        return Report(
            samples=_samples_facts(source, measured),
            reference=self._reference_facts(),
            results=tuple(results),
            run=self._run_facts(),
            warnings=tuple(dict.fromkeys((*self.warnings, *texts))),
        )

    def _outputs(self) -> dict[str, tuple[str, ...]]:
        return {
            encoder.spec.name: tuple(dict.fromkeys(output for _, output in self._applied(encoder)))
            for encoder in self.encoders
        }

    def _results(self, source: ImageSource, measured: Measurement) -> Iterator[Result]:
        ratios: dict[str, Ratio] = {}
        for encoder in self.encoders:
            name = encoder.spec.name
            for metric, output in self._applied(encoder):
                if isinstance(metric, AbstractMomentsMetric):
                    score = metric.score(measured.moments[name], self.references[name].moments)
                else:
                    score = measured.scores[metric.name, name]
                reference = self.references[name] if metric.needs_reference else None
                facts = _Facts(encoder.spec, output, source.policy, measured.count, reference)
                yield facts.result(metric.name, score, metric.lower_is_better)
                if metric.name == "fd" and reference is not None and reference.val_fd is not None:
                    ratios[name] = ratio(score.value, reference.val_fd)
                    yield facts.ratio_result(ratios[name])
        if len(self.encoders) > 1 and len(ratios) == len(self.encoders):
            yield self._mean_result(ratios, source.policy, measured.count)

    def _mean_result(self, ratios: Mapping[str, Ratio], policy: Mapping[str, str], count: int) -> Result:
        value, interval = mean_ratio(ratios)
        specs = {encoder.spec.name: encoder.spec for encoder in self.encoders}
        return Result(
            metric="fdr_k",
            value=value,
            encoder=None,
            output=None,
            count=count,
            lower_is_better=True,
            signature=mean_signature(specs, policy, count, self.references),
            k=len(ratios),
            encoders=tuple(ratios),
            interval=interval,
            details={"fdr": {name: r.value for name, r in ratios.items()}},
        )

    def _reference_facts(self) -> dict[str, Any] | None:
        if not self.references:
            return None
        first = next(iter(self.references.values()))
        digests = {name: reference.digest for name, reference in self.references.items()}
        digest = first.digest if len(set(digests.values())) == 1 else digests
        return {"name": first.name, "source": first.source, "digest": digest, "count": first.moments.count}

    def _run_facts(self) -> dict[str, Any]:
        specs = {}
        for encoder in self.encoders:
            specs[encoder.spec.name] = {**asdict(encoder.spec), "hash": encoder.spec.hash}
        return {
            "device": str(self.encoders[0].device),
            "seed": self.image_options.seed,
            "versions": package_versions(),
            "encoders": specs,
        }


@dataclass(frozen=True)
class _Facts:
    """What the results of one encoder on one sample set have in common."""

    spec: EncoderSpec
    output: str
    policy: Mapping[str, str]
    count: int
    reference: Reference | None

    def result(
        self, metric: str, score: Score, lower_is_better: bool, interval: tuple[float, float] | None = None
    ) -> Result:
        return Result(
            metric=metric,
            value=score.value,
            encoder=self.spec.name,
            output=self.output,
            count=self.count,
            lower_is_better=lower_is_better,
            signature=result_signature(metric, self.spec, self.output, self.policy, self.count, self.reference),
            stderr=score.stderr,
            reference_count=None if self.reference is None else self.reference.moments.count,
            interval=interval,
            spec_hash=self.spec.hash,
            details=score.details,
            notes=score.notes,
        )

    def ratio_result(self, ratio: Ratio) -> Result:
        denominator = {"val_fd": ratio.val_fd.value, "val_fd_source": ratio.val_fd.source}
        score = Score(ratio.value, details=denominator, notes=ratio.notes)
        return self.result("fdr", score, True, ratio.interval)


def _samples_facts(source: ImageSource, measured: Measurement) -> dict[str, Any]:
    return {
        "source": source.name,
        "kind": source.kind,
        "count": measured.count,
        "digest": source.digest,
        "skipped": [{"id": image.id, "reason": image.reason} for image in measured.bad],
        "policy": dict(source.policy),
        "subset": None
        if source.options.count is None
        else {"count": source.options.count, "seed": source.options.seed},
    }


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Catch `FdrWarning`s as texts, for the report; they are warned again on leaving, other warnings pass."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FdrWarning)
        yield texts
        texts += [str(item.message) for item in caught if issubclass(item.category, FdrWarning)]
    for item in caught:
        warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)
