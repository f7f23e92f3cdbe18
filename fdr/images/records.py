"""A record of every decoded image, made while it is read. Warnings about odd sets of images are based on these records.

28 bytes per image: its row, the least and greatest value, whether it is one flat colour, the format it came from, a
digest of its pixels, and its size after crop and resize.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

IMAGE_RECORD = np.dtype(
    [
        *(("row", "<i8"), ("low", "u1"), ("high", "u1"), ("is_flat", "u1"), ("format", "u1"), ("digest", "<u8")),
        *(("width", "<u4"), ("height", "<u4")),
    ]
)
FORMATS = ("", "array", "jpeg", "png", "webp", "tiff", "bmp", "gif", "ppm", "other")
"""Names of formats by their code; 0 is an image that was not read. Codes are stored in caches, so only append."""
UNIFORM_SHARE = 0.9
"""If this share of the images has one size, the set counts as that size. Raising it makes more sets count as mixed."""
_BLOCK_WORDS = 2048


@dataclass(frozen=True)
class Preprocessing:
    """The size of the images of a set when they reach the encoders, and the crop and resize that gave it."""

    width: int
    """Width of the most frequent size, in pixels."""
    height: int
    """Height of the same size."""
    share: float
    """The share of images that have that size."""
    crop: str
    """As in `ImageSource.policy`: "none", "squash-256", "adm-256", ..."""

    @classmethod
    def of(cls, records: np.ndarray, crop: str) -> Preprocessing | None:
        """The preprocessing of images with these records of dtype `IMAGE_RECORD`; None where a size is unknown."""
        sizes, counts = np.unique(records[["width", "height"]], return_counts=True)
        if len(sizes) == 0 or sizes["width"].min() == 0:
            return None
        most = int(counts.argmax())
        width, height = sizes[most].item()
        return cls(width, height, float(counts[most] / counts.sum()), crop)

    @classmethod
    def of_attributes(cls, attributes: Mapping[str, Any]) -> Preprocessing | None:
        """The preprocessing of the images behind moments that fdr wrote; None for moments of other tools."""
        try:
            width, height = int(attributes["image_width"]), int(attributes["image_height"])
            crop = json.loads(attributes["policy"])["crop"]
            return cls(width, height, float(attributes["image_size_share"]), str(crop))
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
            return None

    @property
    def is_uniform(self) -> bool:
        """True when nearly all images have the same size."""
        return self.share >= UNIFORM_SHARE

    @property
    def flags(self) -> str:
        """The options that give this size, such as "--crop adm --size 256"; empty for images of their own size."""
        crop, _, size = self.crop.rpartition("-")
        return "" if not crop else f"--size {size}" if crop == "squash" else f"--crop {crop} --size {size}"

    def attributes(self) -> dict[str, str | int | float]:
        """The attributes about sizes in a file of moments; the crop is in its policy."""
        return {"image_width": self.width, "image_height": self.height, "image_size_share": self.share}

    def __str__(self) -> str:
        size = f"{self.width} x {self.height} pixels"
        return size if self.is_uniform else f"of many sizes (the most frequent is {size}, {self.share:.0%} of them)"


def as_records(records: np.ndarray) -> np.ndarray:
    """Stored records as `IMAGE_RECORD`; fields that an earlier release did not store are 0."""
    if records.dtype == IMAGE_RECORD:
        return records
    found = np.zeros(len(records), IMAGE_RECORD)
    for name in set(IMAGE_RECORD.names or ()).intersection(records.dtype.names or ()):
        found[name] = records[name]
    return found


def record_of(pixels: np.ndarray, image_format: str) -> tuple[int, int, bool, int, int, int, int]:
    """A record of dtype `IMAGE_RECORD` without its row, for pixels [H, W, 3] of uint8 or floats in [0, 1].

    The least and greatest value of floats are recorded as 255 x.
    """
    low, high = pixels.min(), pixels.max()
    if pixels.dtype != np.uint8:
        low, high = np.rint([low * 255, high * 255]).clip(0, 255)
    code = FORMATS.index(image_format) if image_format in FORMATS else FORMATS.index("other")
    height, width = pixels.shape[:2]
    return int(low), int(high), is_flat(pixels), code, pixel_digest(pixels), width, height


def is_flat(pixels: np.ndarray) -> bool:
    """True if all pixels of [H, W, 3] have one colour. For nearly every image two corners already differ."""
    return bool((pixels[0, 0] == pixels[-1, -1]).all() and (pixels == pixels[0, 0]).all())


def pixel_digest(pixels: np.ndarray) -> int:
    """64 bits that identify the pixels: sha1 over the shape, the weighted sums modulo 2^64 of all blocks, and the rest.

    The sums take a tenth of the time of hashing all bytes. Only images that were made to collide share a digest.
    """
    flat = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)
    whole = len(flat) - len(flat) % (8 * _BLOCK_WORDS)
    sums = np.einsum("ij,j->i", flat[:whole].view("<u8").reshape(-1, _BLOCK_WORDS), _weights())
    content = hashlib.sha1(f"{pixels.dtype} {pixels.shape}".encode(), usedforsecurity=False)
    content.update(sums.tobytes() + flat[whole:].tobytes())
    return int.from_bytes(content.digest()[:8], "little")


@functools.cache
def _weights() -> np.ndarray:
    """uint64 [2048], odd. They must never change, because digests are stored."""
    return np.random.PCG64(0).random_raw(_BLOCK_WORDS) | np.uint64(1)


def other_preprocessing(samples: Preprocessing | None, reference: Preprocessing | None, name: str) -> str | None:
    """A warning if the samples have another size than the images of the reference, or were cropped differently."""
    if samples is None or reference is None or not (samples.is_uniform or reference.is_uniform):
        return None
    is_same_size = (samples.width, samples.height) == (reference.width, reference.height)
    if is_same_size and samples.is_uniform == reference.is_uniform:
        if "none" in (samples.crop, reference.crop) or samples.crop == reference.crop:
            return None
        return (
            f"The samples were brought to their size with {samples.flags}, but the images of the reference {name!r} "
            f"with {reference.flags}: FD sees the difference; give both the same options."
        )
    made = f", made with {reference.flags}" if reference.flags else ""
    if samples.crop not in ("none", reference.crop):
        advice = f"{samples.flags} changes the samples alone; leave it out, or make the reference with it (fdr stats)"
    elif reference.flags not in ("", samples.flags):
        advice = f"give the samples {reference.flags}, too"
    else:
        advice = "bring both to one size, such as with --crop adm --size PX, which fdr stats takes too"
    return (
        f"The samples are {samples}, but the images of the reference {name!r} are {reference}{made}: FD sees the "
        f"difference; {advice}."
    )
