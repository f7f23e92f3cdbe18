"""JiT ("just image transformers"), a plain transformer of pixels that turns noise and a class into an image.

It was written from the layout of the published checkpoints, and its modules have their names. Time t runs from 1, which
is noise, to 0; the input of the network is 1 - t.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fdr.generators.published.transformer import (
    TIME_FLOOR,
    BottleneckPatches,
    RMSNorm,
    Sampler,
    Sizes,
    attend,
    grid_table,
    sinusoid,
    unpatchify,
)

NUM_CONTEXT = 32
"""Tokens of the class that join the patches at `context_start`."""


class TimeEmbedder(nn.Module):
    """Times [B] -> [B, dim]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, times: Tensor) -> Tensor:
        return self.mlp(sinusoid(times))


class LabelEmbedder(nn.Module):
    """Labels [B] -> [B, dim]; the last row is that of no class."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, dim)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding_table(labels)


class Attention(nn.Module):
    """Self-attention with normalised q and k."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.q_norm, self.k_norm = RMSNorm(dim // num_heads), RMSNorm(dim // num_heads)

    def forward(self, x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(attend(self.q_norm(q), self.k_norm(k), v, table))


class SwiGLU(nn.Module):
    """w3(silu(a) b) with [a, b] = w12 x."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner = 8 * dim // 3
        self.w12, self.w3 = nn.Linear(dim, 2 * inner), nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(a) * b)


class Block(nn.Module):
    """Attention and MLP, shifted, scaled and gated by the condition."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(dim), RMSNorm(dim)
        self.attn, self.mlp = Attention(dim, num_heads), SwiGLU(dim)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, condition: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1, table)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class FinalLayer(nn.Module):
    """Tokens -> pixels of their patches."""

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.norm_final, self.linear = RMSNorm(dim), nn.Linear(dim, 3 * patch * patch)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, dim=-1)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)


class JustImageTransformer(nn.Module):
    """`network(noise, labels)` -> images [B, 3, S, S] around [-1, 1].

    One step has no guidance. More are Heun's from t = 1 to 0, the last one Euler's, with guidance at the times inside
    of the interval (of t). The class joins the patches before the block of number `context_start`.
    """

    value_range = (-1.0, 1.0)
    num_classes = 1000

    def __init__(self, sizes: Sizes, sampler: Sampler, context_start: int) -> None:
        super().__init__()
        self.sizes, self.sampler, self.context_start = sizes, sampler, context_start
        self.noise_shape, width = (3, sizes.size, sizes.size), sizes.width
        self.t_embedder, self.y_embedder = TimeEmbedder(width), LabelEmbedder(self.num_classes, width)
        self.x_embedder = BottleneckPatches(sizes.patch, sizes.bottleneck, width, bias=False)
        self.pos_embed = nn.Parameter(torch.zeros(1, sizes.side**2, width))
        self.in_context_posemb = nn.Parameter(torch.zeros(1, NUM_CONTEXT, width))
        self.blocks = nn.ModuleList(Block(width, sizes.heads) for _ in range(sizes.depth))
        self.final_layer = FinalLayer(width, sizes.patch)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        z = noise * self.sampler.noise_scale
        steps = self.sampler.steps
        times = [1 - index / steps for index in range(steps)] + [0.0]
        for time, following in itertools.pairwise(times):
            step = following - time
            velocity = self._velocity(z, time, labels)
            if following > 0:
                velocity = (velocity + self._velocity(z + step * velocity, following, labels)) / 2
            z = z + step * velocity
        return z

    def _velocity(self, z: Tensor, time: float, labels: Tensor) -> Tensor:
        """dz/dt, guided where that is due."""
        low, high = self.sampler.interval
        floored = max(time, TIME_FLOOR)
        guided = (z - self.estimate(z, time, labels)) / floored
        if self.sampler.steps == 1 or not low < time < high:
            return guided
        free = (z - self.estimate(z, time, torch.full_like(labels, self.num_classes))) / floored
        return free + self.sampler.omega * (guided - free)

    def estimate(self, z: Tensor, time: float, labels: Tensor) -> Tensor:
        """The image x that z [B, 3, S, S] at the time t is of."""
        label = self.y_embedder(labels)
        told = torch.full(labels.shape, 1 - time, device=z.device, dtype=torch.float32)
        condition = self.t_embedder(told) + label
        x = self.x_embedder(z) + self.pos_embed
        side, head_dim = self.sizes.side, self.sizes.head_dim
        table = grid_table(0, side, head_dim, z.device)
        for index, block in enumerate(self.blocks):
            if index == self.context_start:
                x = torch.cat([label[:, None] + self.in_context_posemb, x], dim=1)
                table = grid_table(NUM_CONTEXT, side, head_dim, z.device)
            x = block(x, condition, table)
        return unpatchify(self.final_layer(x[:, NUM_CONTEXT:], condition), self.sizes.patch)
