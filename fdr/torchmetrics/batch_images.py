"""Batches of a training loop as the images that an evaluation of files would see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from fdr.errors import InputError, RunError
from fdr.images import ImageOptions, ImageSource, RowIds
from fdr.runtime import Group, Progress

ROUNDING = 1e-3
"""A float may lie this far outside [0, 1], as in `fdr.open_images`. Raising it accepts more rounding errors."""


def unit_images(images: Any, quantize: str) -> Tensor:
    """uint8 or floats in [0, 1], [B, 3, H, W] or [B, 1, H, W], as float32 [B, 3, H, W] in [0, 1].

    `quantize="uint8"` rounds floats to 8 bits, as a file does. Raises `InputError` for another shape, dtype or range.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        got = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"This metric takes images [B, 3, H, W], with one channel or three; got {got}.")
    if images.dtype == torch.uint8:
        unit = images.to(torch.float32, copy=True).div_(255)
    elif images.is_floating_point():
        unit = _in_range(images.detach().float())
        unit = unit.mul_(255).round_().div_(255) if quantize == "uint8" else unit
    else:
        dtype = str(images.dtype).removeprefix("torch.")
        raise InputError(f"This metric takes uint8 images, or floats in [0, 1]; got {dtype}.")
    return unit.expand(-1, 3, -1, -1)


def _in_range(images: Tensor) -> Tensor:
    """A copy with rounding errors outside of [0, 1] removed."""
    if not images.numel():
        return images
    low, high = (float(value) for value in images.aminmax())
    if low != low:
        raise InputError("This metric takes floats in [0, 1]; these hold NaN, so look at what made them.")
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise InputError(
            f"This metric takes floats in [0, 1]; these reach from {low:.3g} to {high:.3g}: give (x + 1) / 2 where "
            "[-1, 1] is their range, and (x + 1).div(2).clamp(0, 1) for a generator that overshoots."
        )
    return images.clamp(0, 1)


class LoopImages(ImageSource):
    """What a report says of images that passed through a loop and were not kept: their number and their classes."""

    kind = "loop"
    is_repeatable = False

    def __init__(self, name: str, count: int, options: ImageOptions, labels: np.ndarray | None) -> None:
        super().__init__(name, options, RowIds(("image", count)))
        self.labels = labels
        self.labels_from = None if labels is None else "update(labels=...)"

    def _loaders(self, start: int, stop: int | None) -> Iterator[NoReturn]:
        raise RunError(f"The {self.name} were not kept, so they cannot be read again.")

    def _content_digest(self, group: Group, progress: Progress) -> None:
        return None
