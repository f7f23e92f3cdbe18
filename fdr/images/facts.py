"""What is noted of every decoded image in passing, so that the oddities of a set can be told later.

20 bytes per image: its row, the least and greatest value, whether it is one flat colour, the format it came from, and a
digest of its pixels.
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np

FACTS = np.dtype(
    [("row", "<i8"), ("low", "u1"), ("high", "u1"), ("is_flat", "u1"), ("format", "u1"), ("digest", "<u8")]
)
FORMATS = ("", "array", "jpeg", "png", "webp", "tiff", "bmp", "gif", "ppm", "other")
"""Format by code; 0 is an image not seen. Codes are stored: only append."""
_BLOCK_WORDS = 2048


def facts_of(pixels: np.ndarray, image_format: str) -> tuple[int, int, bool, int, int]:
    """A record of dtype `FACTS` but for the row; pixels [H, W, 3], uint8 or floats in [0, 1] (told in 255ths)."""
    low, high = pixels.min(), pixels.max()
    if pixels.dtype != np.uint8:
        low, high = np.rint([low * 255, high * 255]).clip(0, 255)
    code = FORMATS.index(image_format) if image_format in FORMATS else FORMATS.index("other")
    return int(low), int(high), is_flat(pixels), code, pixel_digest(pixels)


def is_flat(pixels: np.ndarray) -> bool:
    """True when all pixels of [H, W, 3] are one colour; two corners tell for nearly every image."""
    return bool((pixels[0, 0] == pixels[-1, -1]).all() and (pixels == pixels[0, 0]).all())


def pixel_digest(pixels: np.ndarray) -> int:
    """64 bits over shape and all pixels: sha1 of the weighted sums modulo 2^64 of the blocks, and of the rest.

    The sums take a tenth of the time that hashing all bytes would, and tell apart images that are not made to collide.
    """
    flat = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)
    whole = len(flat) - len(flat) % (8 * _BLOCK_WORDS)
    sums = np.einsum("ij,j->i", flat[:whole].view("<u8").reshape(-1, _BLOCK_WORDS), _weights())
    content = hashlib.sha1(f"{pixels.dtype} {pixels.shape}".encode(), usedforsecurity=False)
    content.update(sums.tobytes() + flat[whole:].tobytes())
    return int.from_bytes(content.digest()[:8], "little")


@functools.cache
def _weights() -> np.ndarray:
    """uint64 [2048], odd, the same everywhere: digests are stored."""
    return np.random.PCG64(0).random_raw(_BLOCK_WORDS) | np.uint64(1)
