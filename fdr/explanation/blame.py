"""Measures samples as `fdr eval` does, and says how each image moves FD.

Leaving out sample a of N changes mean and covariance by one row. With x its centred feature, D = m_q - m_p and the
optimal map T from the samples to the reference kept as it is (`fdr.frechet.whitening`),

    FD - FD(without a) = (2 x^T D + x^T (I - T) x - mean) / (N - 1) + O(1 / N^2)

the influence of `fdr.frechet.sample_influences` over N - 1. One eigendecomposition serves all images, and the standard
error of FD as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fdr.encoders import EncoderOptions
from fdr.errors import InputError
from fdr.evaluation import Evaluator, Measurement, as_captions
from fdr.explanation.class_table import class_shares, named_labels
from fdr.explanation.heat_maps import spatial_layers, with_heat_maps
from fdr.explanation.nearest import check_closest, features_of, good_rows, with_nearest
from fdr.explanation.results import EncoderInfluences, Explanation
from fdr.features import ExtractionOptions
from fdr.frechet import frechet_distance, has_rows, moments_without, sample_influences
from fdr.generators import GeneratorOptions, Labels, is_pipeline, samples_of
from fdr.images import Captions, ImageOptions, ImageSource, open_images
from fdr.references import DEFAULT_REFERENCE
from fdr.reports import Report, Result
from fdr.runtime import Progress, as_path, as_progress, memory_for, named_arguments, resolve_device

LEAST_IMAGES = 3
WORST_SHARE = 0.01
"""The share of the images whose part in FD is stated. Raising it states that of more images."""


@named_arguments
def explain(
    samples: Any,
    reference: Any = None,
    encoders: Any = "inception",
    *,
    image_options: ImageOptions | None = None,
    encoder_options: EncoderOptions | None = None,
    weights: Mapping[str, Path] | None = None,
    cache: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    ends: int = 8,
    closest: int = 0,
    heat_maps: bool = False,
    progress: Progress | bool | None = None,
    num_images: int | None = None,
    seed: int | None = None,
    labels: Labels | None = None,
    noise_shape: Sequence[int] | int | None = None,
    num_classes: int | None = None,
    value_range: tuple[float, float] | None = None,
    prompts: Any = None,
) -> Explanation:
    """Say which images and which classes of a sample set raise its FD most.

    Arguments are those of `fdr.evaluate`. `samples` is anything that `fdr.open_images` reads, or a generator, whose
    samples `num_images` and the arguments after it describe; `prompts` are those of a pipeline of texts. A reference of
    images with labels gives the debiased FD of every class that is large enough. Where the reference is images, the
    nearest of them is found for each of the `ends` most and least harmful samples. `closest` above 0 compares all
    samples with all reference images and keeps so many that lie nearest to one: copies, if the reference is the
    training set. `heat_maps` adds what FD looks at in each of the images at both ends.

    Raises `InputError` for anything unusable, such as samples whose features are too large to keep in memory, or
    heat-maps of an encoder without a spatial output.
    """
    captions = _prompts_of(samples, prompts)
    options = image_options or ImageOptions()
    shown = as_progress(progress)
    folder = None if cache is None else as_path(cache, "the cache")
    extraction = ExtractionOptions(folder, batch_size, num_workers, shown)
    encoding = (encoder_options or EncoderOptions()).shown_by(shown)
    drawn = GeneratorOptions(num_images, seed, labels, noise_shape, num_classes, value_range)
    size = extraction.batch_size_on(resolve_device(encoding.device).type)
    with samples_of(samples, size, options, drawn, captions) as given:
        source = open_images(given, options)
        evaluator = Evaluator(
            encoders,
            DEFAULT_REFERENCE if reference is None else reference,
            "fd",
            image_options=options,
            encoder_options=encoding,
            extraction_options=extraction,
            weights=weights,
            is_default_reference=reference is None,
        )
        found = explain_with(evaluator, source, ends, closest, heat_maps=heat_maps)
    assert found is not None
    return found


def _prompts_of(samples: Any, prompts: Any) -> Captions | None:
    if prompts is None:
        return None
    if not is_pipeline(samples):
        raise InputError("Only a pipeline makes images of prompts; leave them out for other samples.")
    return as_captions(prompts)


def explain_with(
    evaluator: Evaluator, source: ImageSource, ends: int, closest: int = 0, *, heat_maps: bool = False
) -> Explanation | None:
    """Explain the FD of an opened sample set with an evaluator of the metric `fd`; None on ranks other than 0.

    The nearest reference images, and the heat-maps if they are wanted, are found for the `ends` most and least harmful
    images. The `closest` images are those that lie nearest to any reference image.
    """
    check_closest(evaluator, closest)
    if not isinstance(ends, int) or ends < 1:
        raise InputError(f"ends is {ends!r}; it must be a whole number of at least 1.")
    layers = spatial_layers(evaluator, source) if heat_maps else {}
    caught: list[Measurement] = []
    evaluator.on_measured = caught.append
    try:
        report = evaluator.evaluate_source(source)
    finally:
        evaluator.on_measured = None
    if not caught:
        return None
    measured = caught[0]
    found = [_influences(evaluator, source, measured, result) for result in _distances(report)]
    found = [with_nearest(one, measured, evaluator, ends, closest) for one in found]
    if heat_maps:
        found = [with_heat_maps(one, measured, evaluator, source, layers[one.encoder], ends) for one in found]
    reference = evaluator.reference.images
    return Explanation(
        report,
        tuple(source.ids),
        named_labels(source),
        tuple(found),
        () if reference is None else tuple(reference.ids),
    )


def plan_of(evaluator: Evaluator, source: ImageSource, closest: int = 0, *, heat_maps: bool = False) -> Iterator[str]:
    """Describe what `explain_with` would do, a line for each step. Nothing is written, and nothing computed but the
    spatial layers of heat-maps, for which one image is encoded.
    """
    check_closest(evaluator, closest)
    yield from evaluator.plan([source])
    yield f"influence of each of {len(source)} images on FD, for {len(evaluator.encoders)} encoder(s)"
    if closest:
        yield f"distances of all {len(source)} images to all reference images, for the {closest} nearest to one"
    for name, found in (spatial_layers(evaluator, source) if heat_maps else {}).items():
        height, width = found.layer.layout.grid
        yield f"heat-maps of the most and least harmful images, from {found.layer.name} of {name} ({height} x {width})"


def _distances(report: Report) -> Iterator[Result]:
    return (result for result in report if result.metric == "fd" and result.encoder is not None)


@memory_for("the influence of each image on FD", "use --device cpu, fewer images, or an encoder of fewer dimensions")
def _influences(evaluator: Evaluator, source: ImageSource, measured: Measurement, result: Result) -> EncoderInfluences:
    encoder = next(one for one in evaluator.encoders if one.spec.name == result.encoder)
    device, place = encoder.device, (encoder.spec.name, encoder.spec.output)
    moments, reference = measured.moments[place], evaluator.reference.moments[place].moments
    if not has_rows(moments):
        raise InputError(
            f"The influence of an image needs the features of all of them, and those of the {measured.count} images of "
            f"{source.name} under {encoder.spec.name} are too large to keep in memory; explain fewer (--count)."
        )
    if measured.count < LEAST_IMAGES:
        raise InputError(
            f"{source.name} has {measured.count} images; an influence needs at least {LEAST_IMAGES}, since FD without "
            "an image is that of the others."
        )
    influences = sample_influences(moments, reference, device=device) / (measured.count - 1)
    count, share = _worst(influences)
    features = features_of(moments)
    rest = moments_without(moments, np.argsort(-influences, kind="stable")[:count])
    classes, notes = class_shares(influences, (features, reference.rows), measured, source, evaluator, place)
    return EncoderInfluences(
        *place,
        result.value,
        result.stderr,
        influences,
        good_rows(source, measured),
        count,
        share,
        frechet_distance(rest, reference, device=device),
        classes,
        notes=notes,
    )


def _worst(influences: np.ndarray) -> tuple[int, float]:
    """The number of images in the worst 1 %, and their share in all influences above 0."""
    count = max(1, round(WORST_SHARE * len(influences)))
    above = float(influences[influences > 0].sum())
    worst = np.sort(influences)[::-1][:count]
    return count, float(worst[worst > 0].sum()) / above if above else 0.0
