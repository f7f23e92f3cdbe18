"""Parts of the transformers pMF, iMF and JiT: settings, normalisation, rotary positions, embeddings, patches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fdr.errors import InputError

EPS = 1e-6
THETA = 10_000.0
TIME_FLOOR = 0.05
"""The smallest t that velocities (z - x) / t are divided by. Lowering it makes the last steps noisier."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a transformer over a square image or its latents."""

    depth: int
    """Number of blocks."""
    width: int
    """Channels of a token."""
    heads: int
    patch: int
    """Side of a patch."""
    size: int
    """Side of the image or of its latents."""
    bottleneck: int = 0
    """Channels of the narrow layer between pixels and tokens; 0 for none."""

    @property
    def side(self) -> int:
        """Patches in a row."""
        return self.size // self.patch

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True)
class Sampler:
    """The steps from noise, at t = 1, to the image, at t = 0."""

    omega: float
    """Strength of guidance."""
    interval: tuple[float, float]
    """The times, low and high, between which guidance is applied."""
    noise_scale: float = 1.0
    steps: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"A sampler takes at least 1 step; got steps={self.steps}.")


class RMSNorm(nn.Module):
    """x / rms(x) times a weight, in float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + EPS)
        return (y * self.weight).to(x.dtype)


class BottleneckPatches(nn.Module):
    """Images [B, 3, H, W] -> row-major tokens [B, N, dim] of p x p pixels, through a narrow layer."""

    def __init__(self, patch: int, bottleneck: int, dim: int, bias: bool) -> None:
        super().__init__()
        self.proj1 = nn.Conv2d(3, bottleneck, patch, patch, bias=bias)
        self.proj2 = nn.Conv2d(bottleneck, dim, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj2(self.proj1(images)).flatten(2).transpose(1, 2)


def unpatchify(tokens: Tensor, patch: int) -> Tensor:
    """Tokens [B, N, p p C] of a square grid -> images [B, C, H, W]; a token is (pixel row, pixel column, channel)."""
    side = math.isqrt(tokens.shape[1])
    x = tokens.unflatten(2, (patch, patch, -1)).unflatten(1, (side, side))
    return x.permute(0, 5, 1, 3, 2, 4).flatten(2, 3).flatten(3, 4)


def sinusoid(values: Tensor) -> Tensor:
    """Scalars [B] -> [B, 256]: cosines, then sines, of 128 frequencies from 1 to 1 / 10000."""
    frequencies = torch.exp(-math.log(THETA) * torch.arange(128, device=values.device) / 128)
    angles = values.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def grid_table(num_prefix: int, side: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [N, head_dim / 2] for `num_prefix` tokens that do not turn and side x side patches.

    The first half of the pairs turns with the row, the second with the column.
    """
    frequencies = THETA ** (-4 * torch.arange(head_dim // 4, device=device) / head_dim)
    steps = torch.arange(side, device=device)[:, None] * frequencies  # [side, head_dim / 4]
    rows = steps[:, None].expand(-1, side, -1)
    angles = torch.cat([rows, rows.transpose(0, 1)], dim=2).reshape(side * side, head_dim // 2)
    angles = F.pad(angles, (0, 0, num_prefix, 0))
    return angles.cos(), angles.sin()


def sequence_table(num_tokens: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [N, head_dim / 2] for tokens that turn with their place in the sequence."""
    frequencies = THETA ** (-2 * torch.arange(head_dim // 2, device=device) / head_dim)
    angles = torch.arange(num_tokens, device=device)[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (2i, 2i + 1) of x [B, heads, N, head_dim] by their angles."""
    cos, sin = table
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Attention of q, k, v [B, heads, N, head_dim], q and k turned; [B, N, heads head_dim]."""
    return F.scaled_dot_product_attention(rotate(q, table), rotate(k, table), v).transpose(1, 2).flatten(2)
