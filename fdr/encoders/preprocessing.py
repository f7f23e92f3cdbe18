"""How an image of any size becomes the network's square, and its values the network's: `Preprocessing`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from fdr.encoders.resize import BYTE_RESIZES, HOST_RESIZES, RESIZES, pil_bytes
from fdr.errors import InputError

_GRAMMAR = re.compile(r"(?P<kernel>[a-z0-9-]+?)(\+(?P<fit>square|short)(?P<short>\d+)?-crop(?P<floor>-floor)?)?")


@dataclass(frozen=True)
class Preprocessing:
    """Images [B, 3, H, W] in [0, 1] -> network input [B, 3, size, size]: resize, crop, (x - mean) / std.

    `resize` is a kernel of `RESIZES` or `BYTE_RESIZES` that squashes the image, or "none"; or a kernel on bytes with
    - "+short-crop": the short side to `size` ("+short256-crop": to 256), then the centre as torchvision cuts it, at
      round((H - size) / 2); with "-floor" as transformers does, at floor((H - size) / 2);
    - "+square-crop": the largest centred square first, at floor((H - W) / 2), then resized.

    Raises `InputError` for another name.
    """

    resize: str
    size: int
    """Side of the square, in pixels; 0 with the resize "none"."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    range: tuple[float, ...] | None = None
    """The values of black and white, in place of 0 and 1; with a mean of 0 and a std of 1."""

    def __post_init__(self) -> None:
        parts = self._parts
        known = ("none", *RESIZES, *BYTE_RESIZES)
        if parts is None or parts["kernel"] not in known:
            raise InputError(f"Unknown resize {self.resize!r}; known: {', '.join(known)}.")
        if parts["fit"] and parts["kernel"] not in BYTE_RESIZES:
            raise InputError(f"The resize {self.resize!r} crops, which goes with {', '.join(BYTE_RESIZES)} only.")
        if parts["fit"] == "short" and self._short_side < self.size:
            raise InputError(f"The resize {self.resize!r} leaves no {self.size} px to crop.")

    @property
    def runs_on_host(self) -> bool:
        """True when Pillow does the resize."""
        assert self._parts is not None
        return self._parts["kernel"] in HOST_RESIZES

    def __call__(self, images: Tensor) -> Tensor:
        images = self._fitted(images)
        mean, std = (_channels(values, images.dtype, images.device) for values in (self.mean, self.std))
        images = (images - mean) / std
        if self.range is None or self.range == (0.0, 1.0):
            return images
        low, high = self.range
        return images * (high - low) + low

    @cached_property
    def _parts(self) -> re.Match[str] | None:
        return _GRAMMAR.fullmatch(self.resize)

    @property
    def _short_side(self) -> int:
        assert self._parts is not None
        return int(self._parts["short"] or self.size)

    def _fitted(self, images: Tensor) -> Tensor:
        assert self._parts is not None
        kernel, fit = self._parts["kernel"], self._parts["fit"]
        if kernel in RESIZES:
            return RESIZES[kernel](images, self.size)
        if kernel == "none":
            return images
        if fit == "square":
            images = _centre(images, min(images.shape[2:]), is_floor=True)
        if fit == "short":
            resized = pil_bytes(images, _short_to(self._short_side, images), kernel)
            return _centre(resized, self.size, is_floor=self._parts["floor"] is not None)
        return pil_bytes(images, (self.size, self.size), kernel)


@cache
def _channels(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """[1, C, 1, 1], made once: every copy of numbers to a GPU makes the host wait for it."""
    with torch.inference_mode(False):  # the tensor will serve passes with gradient as well
        return torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1, 1)


def _short_to(side: int, images: Tensor) -> tuple[int, int]:
    """Height and width with the short side at `side` and the other rounded down."""
    height, width = images.shape[2:]
    return (side, int(side * width / height)) if height <= width else (int(side * height / width), side)


def _centre(images: Tensor, side: int, *, is_floor: bool) -> Tensor:
    """The centred square; torchvision rounds half an offset to even, others round it down."""
    rests = [length - side for length in images.shape[2:]]
    top, left = (rest // 2 if is_floor else round(rest / 2) for rest in rests)
    return images[:, :, top : top + side, left : left + side]
