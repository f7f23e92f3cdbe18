"""Images in one tensor or array in memory."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from fdr.errors import InputError
from fdr.images.base import ImageSource, Loader
from fdr.images.decode import Picture
from fdr.images.ids import RowIds
from fdr.images.options import ImageOptions
from fdr.images.values import CHANNELS, array_picture, is_tensor, to_numpy
from fdr.runtime import Group, Progress


class TensorSource(ImageSource):
    """A tensor or array [N, 3, H, W], [N, H, W, 3] or [N, H, W] of uint8, or of floats in [0, 1].

    If both layouts are possible, a tensor and a float array are taken as NCHW, a uint8 array as NHWC.
    """

    kind = "tensor"

    def __init__(self, value: Any, options: ImageOptions) -> None:
        is_first = is_tensor(value) or value.dtype.kind == "f"
        self._value, self._axis = value, batch_channel_axis(tuple(value.shape), is_first)
        name = "tensor" if is_tensor(value) else "array"
        super().__init__(name, options, RowIds((name, len(value))))

    def _loaders(self, start: int, stop: int | None) -> Iterator[Loader]:
        assert self.rows is not None
        for row in self.rows[start:stop]:
            yield functools.partial(self._load, int(row))

    def _load(self, row: int) -> Picture:
        return array_picture(to_numpy(self._value[row]), self._axis, self.options, f"{self.name}[{row}]")

    def _content_digest(self, group: Group, progress: Progress) -> str:
        assert self.rows is not None
        content = hashlib.sha256(f"{self._axis} {self._value.dtype} {list(self._value.shape[1:])}".encode())
        for row in self.rows:
            content.update(np.ascontiguousarray(to_numpy(self._value[int(row)])).tobytes())
        return content.hexdigest()


def batch_channel_axis(shape: tuple[int, ...], is_first: bool) -> int | None:
    """The axis of the channels in one image of a batch: 0 or 2, or None for [N, H, W]."""
    if 0 in shape:
        raise InputError(f"The images have shape {list(shape)}, without a single pixel; expected [N, 3, H, W].")
    if len(shape) == 3 and shape[0] not in CHANNELS and shape[2] not in CHANNELS:
        return None
    if len(shape) == 3:
        raise InputError(
            f"The images have shape {list(shape)}, which looks like one image; add an axis, x[None] (or, for grayscale "
            "images, x[:, None])."
        )
    found = [axis for axis in ((0, 2) if is_first else (2, 0)) if len(shape) == 4 and shape[axis + 1] in CHANNELS]
    if not found:
        raise InputError(
            f"The images have shape {list(shape)}; expected [N, C, H, W] or [N, H, W, C] with 1, 3 or 4 channels."
        )
    return found[0]
