"""The classes of a sample set: how much each raises FD, and its own debiased FD where it has images enough."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np

from fdr.evaluation import Evaluator, Measurement, labels_of
from fdr.explanation.results import ClassShare
from fdr.frechet import LEAST_COUNT
from fdr.images import ImageSource
from fdr.metrics import Context, Labelled, class_keys, load_metrics

METRIC = "fd_per_class_debiased"
LEAST_RATIO = 0.5
"""Images of a class for each dimension that a debiased FD needs. Lowering it gives values that are less certain."""


def named_labels(source: ImageSource) -> tuple[str, ...] | None:
    """The class of each image of a source by name, or by number where classes have no names; None without labels."""
    labels = labels_of(source)
    if labels is None:
        return None
    names = source.class_names
    return tuple(str(label) if names is None else names[label] for label in labels.tolist())


def class_shares(
    influences: np.ndarray,
    features: tuple[np.ndarray, np.ndarray | None],
    measured: Measurement,
    source: ImageSource,
    evaluator: Evaluator,
    place: tuple[str, str],
) -> tuple[tuple[ClassShare, ...] | None, tuple[str, ...]]:
    """The classes from the one that raises FD most, and sentences about what is missing.

    `features` [N, D] and [M, D] are those of the samples and the reference; None where its features are not known.
    """
    if measured.labels is None:
        return None, ("the samples have no labels, so there is no table of classes",)
    own = _labelled(features[0], measured.labels, source)
    other = _reference(features[1], evaluator)
    if other is None:
        (keys,), _ = class_keys([own])
        note = "the reference is not images with labels, so the classes have no debiased FD of their own"
        return _rows(keys, influences, None, {}), (note,)
    (keys, theirs), _ = class_keys([own, other])
    large = _large(keys, theirs, own.collected.shape[1])
    values = _debiased(own, other, (keys, theirs), large, evaluator) if large else {}
    few, dim = len(set(keys)) - len(values), own.collected.shape[1]
    least = max(LEAST_COUNT, math.ceil(LEAST_RATIO * dim))
    note = (
        f"{few} of {len(set(keys))} classes have too few images for a debiased FD. It needs {least} of each "
        f"class on both sides, and on one as many as the {dim} dimensions of the encoder"
    )
    return _rows(keys, influences, Counter(theirs), values), (note,) * bool(few)


def _labelled(features: np.ndarray, labels: np.ndarray, source: ImageSource) -> Labelled:
    return Labelled(features, labels, None if source.class_names is None else tuple(source.class_names), source.name)


def _reference(features: np.ndarray | None, evaluator: Evaluator) -> Labelled | None:
    """The features of the reference with their labels; None where one of the two is not known."""
    images, measured = evaluator.reference.images, evaluator.reference.measured
    labels = None if measured is None else measured.labels
    return None if features is None or images is None or labels is None else _labelled(features, labels, images)


def _large(keys: list[str], theirs: list[str], dim: int) -> set[str]:
    """The classes with images enough on both sides."""
    own, other = Counter(keys), Counter(theirs)
    least = max(LEAST_COUNT, LEAST_RATIO * dim)
    return {key for key in own if min(own[key], other[key]) >= least and max(own[key], other[key]) >= dim}


def _debiased(
    own: Labelled, other: Labelled, keys: tuple[list[str], list[str]], large: set[str], evaluator: Evaluator
) -> dict[str, float]:
    """The debiased FD of each of the classes `large`, by the metric of that name."""
    parts = []
    for side, of in zip((own, other), keys, strict=True):
        is_large = np.isin(of, list(large))
        parts.append(replace(side, collected=side.collected[is_large], labels=side.labels[is_large]))
    device = evaluator.encoders[0].device
    options = evaluator.extraction_options
    context = Context(device=str(device) if device.type == "cuda" else None, stderr=False, progress=options.progress)
    score = load_metrics(METRIC)[METRIC].scores(parts[0], parts[1], context)[METRIC]
    return {name: row["fd"] for name, row in score.details["classes"].items() if row["fd"] is not None}


def _rows(
    keys: list[str], influences: np.ndarray, theirs: Counter[str] | None, values: dict[str, float]
) -> tuple[ClassShare, ...]:
    names, places = np.unique(keys, return_inverse=True)
    sums, counts = np.bincount(places, influences), np.bincount(places)
    found = [
        ClassShare(name, int(count), float(total), None if theirs is None else theirs[name], values.get(name))
        for name, count, total in zip(names.tolist(), counts, sums, strict=True)
    ]
    return tuple(sorted(found, key=lambda one: (-one.influence, one.name)))
