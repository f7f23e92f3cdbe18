"""The reference images nearest to samples at both ends of the ranking, and the samples nearest to a reference image."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from fdr.errors import InputError
from fdr.evaluation import Evaluator, Measurement
from fdr.explanation.results import EncoderInfluences, Near
from fdr.frechet import Moments, has_rows
from fdr.images import ImageSource
from fdr.neighbours import nearest_centre
from fdr.runtime import memory_for


def good_rows(source: ImageSource, measured: Measurement) -> np.ndarray:
    """int64 [n]: the rows of the images that are not bad."""
    return np.delete(np.arange(len(source.ids)), [image.row for image in measured.bad])


def features_of(moments: Moments) -> np.ndarray:
    """[N, D], of moments that have them."""
    if moments.rows is not None:
        return moments.rows
    assert moments.factor is not None
    return moments.factor + moments.mu


def check_closest(evaluator: Evaluator, count: int) -> None:
    """Raise `InputError` if the samples nearest to a reference image are wanted, and the reference gives no images, or
    for a number that is none.
    """
    if not isinstance(count, int) or count < 0:
        raise InputError(f"closest is {count!r}; it must be a whole number of at least 0.")
    if count and evaluator.reference.images is None:
        raise InputError(
            "closest compares samples with reference images one by one, and the reference is statistics; give "
            "images, best those that the model was trained on."
        )


@memory_for("the nearest reference images", "give fewer reference images, or their statistics")
def with_nearest(
    found: EncoderInfluences, measured: Measurement, evaluator: Evaluator, ends: int, closest: int = 0
) -> EncoderInfluences:
    """The same with the nearest reference images under the encoder, where the reference is images.

    They are found for the `ends` most and least harmful samples, and if `closest` is above 0 for all, of which so many
    are kept.
    """
    images, place = evaluator.reference.images, (found.encoder, found.output)
    reference, theirs = evaluator.reference.moments[place].moments, evaluator.reference.measured
    if images is None or theirs is None or not has_rows(reference):
        note = "the nearest reference images are not known, because the reference gives no features of images"
        return replace(found, notes=(*found.notes, note))
    places = np.arange(len(found.rows)) if closest else np.concatenate(found.ends(ends))
    own, other = (
        np.ascontiguousarray(features, np.float32)
        for features in (features_of(measured.moments[place])[places], features_of(reference))
    )
    device = next(one.device for one in evaluator.encoders if one.spec.name == found.encoder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # features are read only
        squared, nearest = (each.cpu().numpy() for each in nearest_centre(own, other, device))
    rows, distances = good_rows(images, theirs)[nearest].tolist(), np.sqrt(squared).tolist()
    all_near = dict(zip(places.tolist(), map(Near, rows, distances), strict=True))
    order = sorted(all_near, key=lambda one: all_near[one].distance)[:closest]
    kept = {*np.concatenate(found.ends(ends)).tolist(), *order}
    return replace(
        found,
        nearest={one: near for one, near in all_near.items() if one in kept},
        closest=tuple(order),
        median_distance=float(np.median(distances)) if closest else None,
    )
