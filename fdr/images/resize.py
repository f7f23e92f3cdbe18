"""Pillow's resampling with the same pixels in every Pillow version, and the crops made of it.

Pillow 13 chooses which axis it resamples first; the 8-bit rounding between the passes then changes up to a fifth of
the values. One axis a call, horizontal first, is what every version before 13 did and what every version does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

LANCZOS, BILINEAR, BICUBIC, BOX = 1, 2, 3, 4
"""Filters by Pillow's numbers, since Pillow is imported only where images are resized."""


def resize(image: Image, size: tuple[int, int], resample: int) -> Image:
    """Pillow's `resize` to (width, height), horizontal pass first in every version."""
    width, height = size
    return image.resize((width, image.height), resample).resize((width, height), resample)


def squash(image: Image, size: int) -> Image:
    """Bicubic to size x size, whatever the aspect ratio."""
    return resize(image, (size, size), BICUBIC)


def center_crop(image: Image, size: int, resample: int = BICUBIC) -> Image:
    """Short side to `size` (the long side truncated), then the centre square, halves rounded to even.

    The sizes and offsets of torchvision's `Resize(size)` followed by `CenterCrop(size)`.
    """
    width, height = image.size
    short = min(width, height)
    wide, high = int(size * width / short), int(size * height / short)
    offset = round((wide - size) / 2.0), round((high - size) / 2.0)
    return _resize_and_crop(image, (wide, high), offset, size, resample)


def lanczos_crop(image: Image, size: int) -> Image:
    """The largest centre square, halves rounded to even, then Lanczos to size x size.

    GigaGAN (Kang et al. 2023) and later work crop COCO in this way.
    """
    short = min(image.size)
    left, top = (round((side - short) / 2.0) for side in image.size)
    return resize(image.crop((left, top, left + short, top + short)), (size, size), LANCZOS)


def adm_crop(image: Image, size: int) -> Image:
    """The centre crop of ADM (Dhariwal and Nichol 2021), which most ImageNet generators use.

    While the short side is at least twice `size`, halve with a box filter; then bicubic until the short side is
    `size`; then the centre square at floored offsets. Smaller images are enlarged.
    """
    while min(image.size) >= 2 * size:
        image = resize(image, (image.width // 2, image.height // 2), BOX)
    scale = size / min(image.size)
    wide, high = round(image.width * scale), round(image.height * scale)
    offset = (wide - size) // 2, (high - size) // 2
    return _resize_and_crop(image, (wide, high), offset, size, BICUBIC)


def _resize_and_crop(image: Image, target: tuple[int, int], offset: tuple[int, int], size: int, resample: int) -> Image:
    """The image resized to `target`, and the square at `offset` of it. Columns outside of the square are dropped before
    the vertical pass."""
    (wide, high), (left, top) = target, offset
    image = image.resize((wide, image.height), resample)
    if wide > size:
        image = image.crop((left, 0, left + size, image.height))
    image = image.resize((size, high), resample)
    return image.crop((0, top, size, top + size)) if high > size else image


CROPS: dict[str, Callable[[Image, int], Image]] = {
    "none": squash,
    "center": center_crop,
    "center-bilinear": functools.partial(center_crop, resample=BILINEAR),
    "lanczos": lanczos_crop,
    "adm": adm_crop,
}
"""The functions RGB image -> RGB image of size x size, by the name of the crop."""
