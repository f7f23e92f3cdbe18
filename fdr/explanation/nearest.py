"""The reference image nearest to each of the most and the least harmful images."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from fdr.evaluation import Evaluator, Measurement
from fdr.explanation.results import EncoderInfluences
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


@memory_for("the nearest reference images", "give fewer reference images, or their statistics")
def with_nearest(found: EncoderInfluences, measured: Measurement, evaluator: Evaluator, ends: int) -> EncoderInfluences:
    """The same with the nearest reference images under the encoder, where the reference is images."""
    images, place = evaluator.reference.images, (found.encoder, found.output)
    reference, theirs = evaluator.reference.moments[place].moments, evaluator.reference.measured
    if images is None or theirs is None or not has_rows(reference):
        note = "the nearest reference images are not known, because the reference gives no features of images"
        return replace(found, notes=(*found.notes, note))
    places = np.concatenate(found.ends(ends))
    own, other = (
        np.ascontiguousarray(features, np.float32)
        for features in (features_of(measured.moments[place])[places], features_of(reference))
    )
    device = next(one.device for one in evaluator.encoders if one.spec.name == found.encoder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # features are read only
        _, nearest = nearest_centre(own, other, device)
    rows = good_rows(images, theirs)[nearest.cpu().numpy()]
    return replace(found, nearest=dict(zip(places.tolist(), rows.tolist(), strict=True)))
