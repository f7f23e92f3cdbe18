"""The resizes of the encoders, by the names that specs record: float images [B, 3, H, W] -> [B, 3, size, size].

Each equals its owner's to float32 rounding, whatever the memory layout of the images. Those of `HOST_RESIZES` run on
the CPU and have no gradient; those of `BYTE_RESIZES` work on bytes, as Pillow does, and take images in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fdr.errors import InputError


def tf1_bilinear(images: Tensor, size: int) -> Tensor:
    """TensorFlow 1's `resize_bilinear`: source = target * in / out, no half-pixel shift, no antialiasing."""
    left, right, dx = _tf1_taps(images.shape[3], size, images)
    top, bottom, dy = _tf1_taps(images.shape[2], size, images)
    rows = images.flatten(0, 2)  # index_select is an order of magnitude slower on the last of four dimensions
    start = rows.index_select(1, left)
    columns = rows.index_select(1, right).sub_(start).mul_(dx).add_(start).unflatten(0, images.shape[:3])
    start = columns.index_select(2, top)
    return columns.index_select(2, bottom).sub_(start).mul_(dy[:, None]).add_(start)


def _tf1_taps(length: int, size: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two source pixels of each target pixel, and the weight of the second."""
    scale = torch.full((), length / size, dtype=torch.float32, device=like.device)
    source = torch.arange(size, dtype=torch.float32, device=like.device) * scale
    first = source.long()
    return first, (first + 1).clamp_max(length - 1), (source - first).to(like.dtype)


def torch_bilinear(images: Tensor, size: int) -> Tensor:
    """torch's bilinear with half-pixel centres and without antialiasing, as pytorch-fid."""
    return F.interpolate(images.contiguous(), (size, size), mode="bilinear", align_corners=False)


def bicubic_antialias(images: Tensor, size: int) -> Tensor:
    """torch's antialiased bicubic on floats; overshoots are kept, images of that size untouched."""
    return _antialiased(images, size, "bicubic")


def bilinear_antialias(images: Tensor, size: int) -> Tensor:
    """torch's antialiased bilinear on floats, as DINOv3's processor; images of that size untouched."""
    return _antialiased(images, size, "bilinear")


def _antialiased(images: Tensor, size: int, mode: str) -> Tensor:
    if images.shape[2:] == (size, size):
        return images
    return F.interpolate(images.contiguous(), (size, size), mode=mode, align_corners=False, antialias=True)


def pil_bicubic_float(images: Tensor, size: int) -> Tensor:
    """Pillow's bicubic on float channels, unrounded, as clean-fid; values 0..255 in, clipped to 0..255.

    Two calls, rows first: Pillow 13 chooses the order by size, which changes float rounding.
    Raises `InputError` where a gradient is asked for, since Pillow has none.
    """
    from PIL import Image

    _refuse_gradient(images, "pil-bicubic-float")
    resized = torch.empty((*images.shape[:2], size, size), dtype=torch.float32)
    target = resized.numpy()
    source = images.detach().float().cpu().contiguous().numpy()
    for index in range(len(source)):
        for channel in range(source.shape[1]):
            image = Image.fromarray(source[index, channel])
            image = image.resize((size, image.height), Image.Resampling.BICUBIC)
            target[index, channel] = image.resize((size, size), Image.Resampling.BICUBIC)
    return resized.clamp_(0, 255)


def pil_bytes(images: Tensor, size: tuple[int, int], kernel: str) -> Tensor:
    """Pillow's resize of RGB bytes: [0, 1] in, rounded to bytes, resized to (height, width), [0, 1] out.

    `kernel` is one of `BYTE_RESIZES`. Two calls, rows first: Pillow 13 chooses the order by size, which moves grey
    levels. Raises `InputError` where a gradient is asked for.
    """
    from PIL import Image

    _refuse_gradient(images, kernel)
    source = to_bytes(images).permute(0, 2, 3, 1).cpu().contiguous().numpy()
    resample = Image.Resampling[BYTE_RESIZES[kernel]]
    height, width = size
    wide = (Image.fromarray(image).resize((width, source.shape[1]), resample) for image in source)
    resized = np.stack([np.asarray(image.resize((width, height), resample)) for image in wide])
    return torch.from_numpy(resized).permute(0, 3, 1, 2).contiguous().float().div_(255)


def to_bytes(images: Tensor) -> Tensor:
    """[0, 1] -> uint8, rounded and clamped; exact for images that were bytes."""
    return (images.detach() * 255).round_().clamp_(0, 255).to(torch.uint8)


def _refuse_gradient(images: Tensor, resize: str) -> None:
    if images.requires_grad and torch.is_grad_enabled():
        raise InputError(
            f"The resize {resize} runs in Pillow and has no gradient; for a loss use an encoder with another resize, "
            "such as inception, inception:pytorch-fid or dinov2."
        )


RESIZES: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "tf1-bilinear": tf1_bilinear,
    "torch-bilinear": torch_bilinear,
    "bicubic-antialias": bicubic_antialias,
    "bilinear-antialias": bilinear_antialias,
    "pil-bicubic-float": pil_bicubic_float,
}
BYTE_RESIZES: Mapping[str, str] = {
    "pil-bicubic": "BICUBIC",
    "pil-bilinear": "BILINEAR",
    "pil-lanczos": "LANCZOS",
    "pil-nearest": "NEAREST",
}
"""The resizes that Pillow does on bytes, and Pillow's names for them; `pil_bytes` runs them."""
HOST_RESIZES = frozenset({"pil-bicubic-float", *BYTE_RESIZES})
