"""A torch Dataset with a length, or a list of images in memory."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from fdr.errors import InputError, as_utf8, warn
from fdr.images.base import ImageSource, Loader
from fdr.images.decode import Picture, UnreadableImage
from fdr.images.ids import RowIds
from fdr.images.labels import Labels, array_labels, may_be_labels
from fdr.images.options import ImageOptions
from fdr.images.values import image_of, picture_of
from fdr.runtime import Group, Progress


class DatasetSource(ImageSource):
    """A sequence of items that are images, (image, label) or {"image": image}.

    Items are taken one by one in the caller's thread, because few datasets are thread-safe. Labels are the attribute
    `targets` of the sequence, and class names its `classes`, as in torchvision.
    """

    kind = "dataset"

    def __init__(self, value: Any, options: ImageOptions) -> None:
        if len(value) == 0:
            raise InputError(f"The {type(value).__name__} of images is empty.")
        name = f"{type(value).__name__} of {len(value)}"
        super().__init__(name, options, RowIds(("item", len(value))), _labels(value, name))
        self._value = value

    def _loaders(self, start: int, stop: int | None) -> Iterator[Loader]:
        assert self.rows is not None
        for row in map(int, self.rows[start:stop]):
            image = image_of(self._value[row])
            yield functools.partial(picture_of, image, self.options, f"{self.name}: item[{row}]")

    def _content_digest(self, group: Group, progress: Progress) -> str:
        """The hash of the pixels of all items, since nothing else identifies them. It takes one pass over the items."""
        content = hashlib.sha256()
        for load in self._loaders(0, None):
            content.update(_pixel_digest(load))
        return content.hexdigest()


def _labels(value: Any, name: str) -> Labels | None:
    """The labels in the attribute `targets`. Warns if its numbers cannot be labels."""
    try:
        targets = np.asarray(getattr(value, "targets", None))
    except (ValueError, TypeError, RuntimeError):  # rows of different lengths, or a tensor on a GPU
        return None
    fits = may_be_labels(targets.shape, targets.dtype, len(value))
    labels = array_labels(targets, "targets", getattr(value, "classes", None)) if fits else None
    if labels is None and targets.dtype.kind in "iufb":
        warn(
            f"{name}: targets, {targets.dtype} {list(targets.shape)}, are not taken as labels, which are whole numbers "
            "[N], or one-hot [N, K]."
        )
    return labels


def _pixel_digest(load: Loader) -> bytes:
    try:
        picture: Picture = load()
    except UnreadableImage as error:
        return hashlib.sha256(as_utf8(f"unreadable: {error}").encode()).digest()
    array = np.ascontiguousarray(picture.array)
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).digest()
