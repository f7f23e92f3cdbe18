"""Sheets of images to look at: the same latents at every step, and reference images beside them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fdr.runtime import atomic_path

MARGIN = 2
"""White pixels between images."""


def as_bytes(images: Tensor) -> np.ndarray:
    """Images [N, 3, H, W] in [0, 1] -> uint8 [N, H, W, 3], rounded as saving to PNG does; values outside are cut."""
    rounded = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return rounded.permute(0, 2, 3, 1).cpu().numpy()


def sheet(images: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, 3] -> one image of about as many rows as columns, row by row."""
    count, height, width, _ = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    whole = np.full((rows * (height + MARGIN) - MARGIN, columns * (width + MARGIN) - MARGIN, 3), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + MARGIN), index % columns * (width + MARGIN)
        whole[top : top + height, left : left + width] = image
    return whole


def save_sheet(path: Path, images: np.ndarray) -> None:
    """`sheet` of uint8 [N, H, W, 3] as a PNG."""
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(sheet(images)).save(temporary, format="PNG")
