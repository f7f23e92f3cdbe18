"""The class of every measured image, for metrics that need it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from fdr.errors import InputError, RunError
from fdr.frechet import ClassMoments, ClassSums
from fdr.generators import SampleSource
from fdr.images import BadImage, ImageSource
from fdr.metrics import AbstractCollector, Labelled

SIDES = {"samples": "sample", "reference": "reference image", "training": "training image"}
"""What one image of each side is called in errors."""


def labels_of(source: ImageSource) -> np.ndarray | None:
    """The class of each selected image, int64 [N], bad images included; None if the source has no labels."""
    if source.labels is None and isinstance(source, SampleSource):
        return source.labels_at(0, len(source))
    return source.labels


def check_labelled(source: ImageSource, side: str, metric: str) -> None:
    """Raise `InputError` if `metric` needs the classes of a source without labels. `side` is a key of `SIDES`."""
    _check(source, f"Metric {metric!r} needs the class of every {SIDES[side]}")


def check_has_classes(source: ImageSource) -> None:
    """Raise `InputError` if a source whose moments of classes are to be stored has no labels."""
    _check(source, "The moments of every class are to be stored (--labels)")


def _check(source: ImageSource, need: str) -> None:
    if labels_of(source) is None:
        raise InputError(
            f"{need}, and {source.name} has no labels; give the images in one folder per class, with a dataset.json, "
            "or in an npz with the labels as arr_1."
        )


def labels_digest(source: ImageSource) -> str:
    """sha256 over the class of each selected image and the names of the classes; "" without labels."""
    labels = labels_of(source)
    if labels is None:
        return ""
    digest = hashlib.sha256(np.ascontiguousarray(labels, "<i8").tobytes())
    digest.update(repr(source.class_names).encode())
    return digest.hexdigest()


def good_labels(source: ImageSource, bad: Sequence[BadImage]) -> np.ndarray | None:
    """The class of each image of `source` that is not `bad`, int64 [n]; None if the source has no labels."""
    labels = labels_of(source)
    if labels is None:
        return None
    is_good = np.ones(len(labels), dtype=bool)
    is_good[[image.row for image in bad]] = False
    return labels[is_good]


def labelled(found: Any, source: ImageSource, bad: Sequence[BadImage]) -> Labelled:
    """What was collected of `source` without its `bad` images, with the labels of the others in the same order."""
    labels = good_labels(source, bad)
    if labels is None:
        raise InputError(f"{source.name} has no labels.")
    if isinstance(found, np.ndarray) and len(found) != len(labels):
        raise RunError(f"{source.name} gave {len(found)} rows of features for {len(labels)} labels.")
    names = source.class_names
    return Labelled(found, labels, None if names is None else tuple(names), source.name)


class CollectedClasses(AbstractCollector):
    """The moments of the classes of a source, `ClassMoments`; the memory is that of one mean a class."""

    def __init__(self, num_rows: int | None = None, *, source: ImageSource) -> None:
        self._sums, self._source = ClassSums(), source
        labels = labels_of(source)
        assert labels is not None
        names = source.class_names
        numbers, self._places = np.unique(labels, return_inverse=True)
        self._names = [str(number) if names is None else names[number] for number in numbers.tolist()]

    def add(self, rows: np.ndarray, features: np.ndarray) -> None:
        self._sums.add(features, self._places[rows])

    def state(self) -> list[np.ndarray]:
        return self._sums.state()

    def absorb(self, state: list[np.ndarray]) -> None:
        self._sums.absorb(state)

    def finish(self) -> ClassMoments:
        found = self._sums.finish(self._names)
        if found.counts.max() < 2:
            raise InputError(
                f"Each of the {len(found.names)} classes of {self._source.name} has one image, so there is no spread "
                "within classes; give more images of each class."
            )
        return found
