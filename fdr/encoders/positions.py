"""Position embeddings of another grid, resampled as the DINOv2 code does."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

OFFSET = 0.1
"""What the DINOv2 code adds to the grid before it divides. It changes which points are sampled, not only how many."""


def as_dinov2(state: Mapping[str, Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
    """`state` with "pos_embed" [1, 1 + M^2, D] resampled to [1, 1 + grid, D]; untouched when it needs or has none.

    The released ViT/14 hold 37 x 37 positions (518 px). At 224 px their own code samples them bicubically (a = -0.75,
    no antialias) at (i + 1/2) M / (grid + 0.1) - 1/2, in float32; timm antialiases and leaves the 0.1 out.
    """
    positions = state.get("pos_embed")
    if positions is None or positions.ndim != 3 or positions.shape[1] == 1 + math.prod(grid):
        return dict(state)
    side = math.isqrt(positions.shape[1] - 1)
    if side * side != positions.shape[1] - 1:
        return dict(state)  # of another model; the loader says so
    patches = positions[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    scale = [(length + OFFSET) / side for length in grid]
    patches = F.interpolate(patches, scale_factor=scale, mode="bicubic", recompute_scale_factor=False)
    return {**state, "pos_embed": torch.cat([positions[:, :1].float(), patches.flatten(2).mT], 1)}
