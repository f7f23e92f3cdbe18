"""The class of every measured image, for metrics that need it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from fdr.errors import InputError, RunError
from fdr.generators import SampleSource
from fdr.images import BadImage, ImageSource
from fdr.metrics import Labelled

SIDES = {"samples": "sample", "reference": "reference image", "training": "training image"}
"""What one image of each side is called in errors."""


def labels_of(source: ImageSource) -> np.ndarray | None:
    """The class of each selected image, int64 [N], bad images included; None if the source has no labels."""
    if source.labels is None and isinstance(source, SampleSource):
        return source.labels_at(0, len(source))
    return source.labels


def check_labelled(source: ImageSource, side: str, metric: str) -> None:
    """Raise `InputError` if `metric` needs the classes of a source without labels. `side` is a key of `SIDES`."""
    if labels_of(source) is None:
        raise InputError(
            f"Metric {metric!r} needs the class of every {SIDES[side]}, and {source.name} has no labels; give the "
            "images in one folder per class, with a dataset.json, or in an npz with the labels as arr_1."
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
