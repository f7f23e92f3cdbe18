"""`ImageOptions`: which images of a source are taken, and how they become pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fdr.errors import InputError, unknown
from fdr.images.decode import ALPHA, MAX_PIXELS
from fdr.images.resize import CROPS


@dataclass(frozen=True)
class ImageOptions:
    """Which images are taken, and how they become pixels. These defaults are the only ones."""

    count: int | None = None
    """The size of a random subset without replacement; None takes all images."""
    seed: int = 0
    crop: str = "none"
    """"none" (with `size`: squash to size x size), "center", "center-bilinear", "lanczos" or "adm"; see
    `fdr.images.resize`."""
    size: int | None = None
    alpha: str = "drop"
    """"drop" ignores transparency, as all peers do; "white" and "black" composite over that colour."""
    on_bad: str = "fail"
    """"fail" raises at the first file that cannot be decoded; "skip" lists it and goes on."""
    max_bad: float = 0.01
    """With "skip", a pass in which a larger share was bad ends in `RunError`.

    A folder or archive in which a larger share is lost (formats that are not read, links to nothing, names that occur
    twice) is always refused.
    """
    quantize: str = "uint8"
    """Float input: "uint8" rounds 255 x, as saving to PNG would; "none" keeps the floats."""
    max_pixels: int = MAX_PIXELS
    """Images with more pixels are bad, because a small file may be a decompression bomb.

    The default is Pillow's limit.
    """

    def __post_init__(self) -> None:
        for name, choices in (("crop", CROPS), ("alpha", ALPHA), ("on_bad", ("fail", "skip"))):
            if getattr(self, name) not in choices:
                raise unknown(name.replace("_", "-"), str(getattr(self, name)), choices)
        if self.quantize not in ("uint8", "none"):
            raise unknown("quantize", str(self.quantize), ("uint8", "none"))
        for name, least in (("count", 1), ("size", 1), ("seed", 0), ("max_pixels", 1)):
            value = getattr(self, name)
            if value is None and name in ("count", "size"):
                continue
            if not isinstance(value, int | np.integer) or value < least:
                raise InputError(f"{name} must be a whole number of at least {least}; got {value!r}.")
        if self.crop != "none" and self.size is None:
            raise InputError(f"crop={self.crop!r} needs a size (--size S): the side of the square in pixels.")
        if not 0 <= self.max_bad <= 1:
            raise InputError(f"max_bad is a share between 0 and 1; got {self.max_bad!r}.")
