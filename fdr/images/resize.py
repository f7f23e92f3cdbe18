"""Pillow's resampling with the same pixels in every Pillow version, and the crops made of it.

Pillow 13 chooses which axis it resamples first; the 8-bit rounding between the passes then changes up to a fifth of
the values. One axis a call, horizontal first, is what every version before 13 did and what every version does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling

CROPS = ("none", "center", "center-bilinear", "adm")


def crop_function(crop: str, size: int | None) -> Callable[[Image], Image] | None:
    """The function RGB image -> RGB image of size x size for a crop name; None when nothing is resized."""
    if size is None:
        return None
    functions = {"none": squash, "center": center_crop, "center-bilinear": bilinear_center_crop, "adm": adm_crop}
    function = functions[crop]
    return lambda image: function(image, size)


def resize(image: Image, size: tuple[int, int], resample: Resampling) -> Image:
    """Pillow's `resize` to (width, height), horizontal pass first in every version."""
    width, height = size
    return image.resize((width, image.height), resample).resize((width, height), resample)


def squash(image: Image, size: int) -> Image:
    """Bicubic to size x size, whatever the aspect ratio."""
    from PIL.Image import Resampling

    return resize(image, (size, size), Resampling.BICUBIC)


def center_crop(image: Image, size: int) -> Image:
    """Short side to `size` (bicubic, the long side truncated), then the centre square, halves rounded to even.

    The sizes and offsets of torchvision's `Resize(size, BICUBIC)` followed by `CenterCrop(size)`.
    """
    from PIL.Image import Resampling

    return _center_crop(image, size, Resampling.BICUBIC)


def bilinear_center_crop(image: Image, size: int) -> Image:
    """`center_crop` with a bilinear filter: torchvision's `Resize(size)` followed by `CenterCrop(size)`."""
    from PIL.Image import Resampling

    return _center_crop(image, size, Resampling.BILINEAR)


def _center_crop(image: Image, size: int, resample: Resampling) -> Image:
    width, height = image.size
    short = min(width, height)
    wide, high = int(size * width / short), int(size * height / short)
    offset = round((wide - size) / 2.0), round((high - size) / 2.0)
    return _resize_and_crop(image, (wide, high), offset, size, resample)


def adm_crop(image: Image, size: int) -> Image:
    """The centre crop of ADM (Dhariwal and Nichol 2021), that of most ImageNet generators.

    While the short side is at least twice `size`, halve with a box filter; then bicubic until the short side is
    `size`; then the centre square at floored offsets. Smaller images are enlarged.
    """
    from PIL.Image import Resampling

    while min(image.size) >= 2 * size:
        image = resize(image, (image.width // 2, image.height // 2), Resampling.BOX)
    scale = size / min(image.size)
    wide, high = round(image.width * scale), round(image.height * scale)
    offset = (wide - size) // 2, (high - size) // 2
    return _resize_and_crop(image, (wide, high), offset, size, Resampling.BICUBIC)


def _resize_and_crop(
    image: Image, target: tuple[int, int], offset: tuple[int, int], size: int, resample: Resampling
) -> Image:
    """Resampled to `target`, then the square at `offset`; columns outside it are dropped before the vertical pass."""
    (wide, high), (left, top) = target, offset
    image = image.resize((wide, image.height), resample)
    if wide > size:
        image = image.crop((left, 0, left + size, image.height))
    image = image.resize((size, high), resample)
    return image.crop((0, top, size, top + size)) if high > size else image
