"""preprocessor_config.json of a transformers model -> `Preprocessing`, equal to the library's Pillow processors.

The processors themselves are not called: since transformers 5 the default one resizes with torchvision, some grey
levels from the Pillow one that the models were published with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

from fdr.encoders.catalogue import CLIP_MEAN, CLIP_STD, HALF, IMAGENET_MEAN, IMAGENET_STD
from fdr.encoders.preprocessing import Preprocessing
from fdr.errors import InputError

_PILLOW = {0: "pil-nearest", 1: "pil-lanczos", 2: "pil-bilinear", 3: "pil-bicubic"}
_TORCH = {2: "bilinear-antialias", 3: "bicubic-antialias"}


@dataclass(frozen=True)
class Processor:
    """What one of the library's image processors assumes where the file is silent."""

    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_short: bool = False
    """A single number as `size` is the short side; otherwise both sides."""
    crops: bool = False
    kernels: Mapping[int, str] = field(default_factory=lambda: _PILLOW)
    """Pillow's resample number -> our resize."""


_CLIP = Processor(3, CLIP_MEAN, CLIP_STD, is_short=True, crops=True)
_VIT = Processor(2, HALF, HALF)
PROCESSORS = {
    "CLIP": _CLIP,
    "Bit": _CLIP,
    "ViT": _VIT,
    "Siglip": Processor(3, HALF, HALF),
    "Siglip2": _VIT,
    "DINOv3ViT": Processor(2, IMAGENET_MEAN, IMAGENET_STD, kernels=_TORCH),  # floats, before the resize
}


def preprocessing_of(config: Mapping[str, Any], default_processor: str, encoder: str) -> Preprocessing:
    """What `config` asks for; `default_processor` is a key of `PROCESSORS` for files that name none.

    Raises `InputError` for a processor, a resampling or a step that fdr does not reproduce.
    """
    named = str(config.get("image_processor_type") or config.get("feature_extractor_type") or default_processor)
    kind = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", named)
    processor = PROCESSORS.get(kind)
    if processor is None:
        raise _unsupported(encoder, f"the processor {named}", f"one of {', '.join(PROCESSORS)}")
    factor = config.get("rescale_factor", 1 / 255)
    if not config.get("do_rescale", True) or abs(factor * 255 - 1) > 1e-6:
        raise _unsupported(encoder, f"rescale_factor {factor}", "1/255")
    resize, size = _resize(config, processor, kind, encoder)
    is_normalised = config.get("do_normalize", True)
    mean, std = config.get("image_mean") or processor.mean, config.get("image_std") or processor.std
    return Preprocessing(
        resize, size, tuple(mean) if is_normalised else (0.0,) * 3, tuple(std) if is_normalised else (1.0,) * 3
    )


def _resize(config: Mapping[str, Any], processor: Processor, kind: str, encoder: str) -> tuple[str, int]:
    """The name of the resize, and the side that the network sees."""
    resample = config.get("resample", processor.resample)
    if resample not in processor.kernels:
        raise _unsupported(encoder, f"resample {resample}", f"one of {', '.join(map(str, processor.kernels))}")
    kernel = processor.kernels[resample]
    if kind == "Siglip2":  # a square image fills a square of patches; others would keep their aspect, padded
        return kernel, isqrt(config.get("max_num_patches", 256)) * config.get("patch_size", 16)
    if not config.get("do_resize", True):
        raise _unsupported(encoder, "no resize", "a square size")
    is_short, side = _size(config.get("size", 224), processor, encoder)
    if config.get("do_center_crop", processor.crops) and not (not is_short and side == _crop(config, side, encoder)):
        if not is_short:
            raise _unsupported(encoder, f"a crop after a resize to {side} x {side}", "a crop after the short side")
        crop = _crop(config, side, encoder)
        return f"{kernel}+short{'' if crop == side else side}-crop-floor", crop
    if is_short:
        raise _unsupported(encoder, "a short side without a crop", "a square size")
    return kernel, side


def _size(size: Any, processor: Processor, encoder: str) -> tuple[bool, int]:
    """(is it the short side, pixels)"""
    if isinstance(size, int):
        return processor.is_short, size
    if isinstance(size, Mapping) and isinstance(size.get("shortest_edge"), int) and not size.get("longest_edge"):
        return True, size["shortest_edge"]
    return False, _square(size, encoder)


def _crop(config: Mapping[str, Any], side: int, encoder: str) -> int:
    crop = config.get("crop_size", side)
    return crop if isinstance(crop, int) else _square(crop, encoder)


def _square(size: Any, encoder: str) -> int:
    if isinstance(size, Mapping) and isinstance(size.get("height"), int) and size["height"] == size.get("width"):
        return size["height"]
    raise _unsupported(encoder, f"the size {size}", "a square or a short side")


def _unsupported(encoder: str, found: str, expected: str) -> InputError:
    return InputError(
        f"Encoder {encoder!r}: its preprocessor_config.json asks for {found}, and fdr reproduces {expected}; "
        "load the model yourself and pass it as a callable, or as py:MODULE:FACTORY."
    )
