"""The mean flow transformers pMF (of pixels) and iMF (of latents): noise and a class become an image in a few steps.

They were written from the layout of the published checkpoints, and their modules have their names. Both are one network
whose inputs include the length of a step and the guidance. Its result gives the mean velocity over the step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

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
    sequence_table,
    sinusoid,
    unpatchify,
)

NUM_HEAD_BLOCKS = 8
PREFIX = {"class": 8, "omega": 4, "t_min": 2, "t_max": 2, "time": 4}
"""Tokens before the patches, in order."""
NUM_PREFIX = sum(PREFIX.values())
LATENT_CHANNELS = 4
LATENT_MEAN = (0.86488, -0.27787343, 0.21616915, 0.3738409)
LATENT_STD = (4.85503674, 5.31922414, 3.93725398, 3.9870003)
"""By channel: iMF works on latents of mean 0 and deviation 1."""


class Named(nn.Module):
    """A layer under a name of its own, as in the checkpoints."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.name)(x)


def _linear(inputs: int, outputs: int, bias: bool = False) -> Named:
    return Named("linear", nn.Linear(inputs, outputs, bias=bias))


class ScalarEmbedder(nn.Module):
    """Scalars [B] -> [B, dim]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(_linear(256, dim, bias=True), nn.SiLU(), _linear(dim, dim, bias=True))

    def forward(self, values: Tensor) -> Tensor:
        return self.mlp(sinusoid(values))


class Attention(nn.Module):
    """Self-attention with normalised q and k."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj = _linear(dim, dim), _linear(dim, dim)
        self.v_proj, self.out_proj = _linear(dim, dim), _linear(dim, dim)
        self.q_norm, self.k_norm = RMSNorm(dim // num_heads), RMSNorm(dim // num_heads)

    def forward(self, x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = (
            project(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(attend(self.q_norm(q), self.k_norm(k), v, table))


class SwiGLU(nn.Module):
    """w2(silu(w1 x) w3 x)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner = 8 * dim // 3
        if dim > 1024:
            inner = -(-inner // 8) * 8
        self.w1, self.w3, self.w2 = _linear(dim, inner), _linear(dim, inner), _linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """Attention and MLP, each with a learned scale per channel."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(dim), RMSNorm(dim)
        self.attn, self.mlp = Attention(dim, num_heads), SwiGLU(dim)
        self.attn_scale, self.mlp_scale = (nn.Parameter(torch.ones(dim)) for _ in range(2))

    def forward(self, x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attn(self.norm1(x), table) * self.attn_scale
        return x + self.mlp(self.norm2(x)) * self.mlp_scale


class Patches(nn.Module):
    """Latents [B, 4, H, W] -> row-major tokens [B, N, dim] of p x p places."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(LATENT_CHANNELS, dim, patch, patch)

    def forward(self, latents: Tensor) -> Tensor:
        return self.proj(latents).flatten(2).transpose(1, 2)


class FinalLayer(nn.Module):
    """Tokens -> all values of their patches."""

    def __init__(self, dim: int, num_values: int) -> None:
        super().__init__()
        self.norm, self.linear = RMSNorm(dim), _linear(dim, num_values, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))


class MeanFlow(nn.Module, ABC):
    """`network(noise, labels)` -> images [B, 3, H, W] around [-1, 1], in the sampler's steps from t = 1 to 0.

    The guidance is an input of the network. A subclass says how noise [B, C, S, S] becomes tokens, where a token is,
    what velocity the network's result stands for, and how the end of the flow becomes images.
    """

    value_range = (-1.0, 1.0)
    num_classes = 1000

    def __init__(self, sizes: Sizes, sampler: Sampler, channels: int, x_embedder: nn.Module) -> None:
        super().__init__()
        self.sizes, self.sampler = sizes, sampler
        self.noise_shape, width = (channels, sizes.size, sizes.size), sizes.width
        for name, count in PREFIX.items():
            self.register_parameter(f"{name}_tokens", nn.Parameter(torch.zeros(count, width)))
        self.x_embedder = x_embedder
        self.h_embedder, self.omega_embedder = ScalarEmbedder(width), ScalarEmbedder(width)
        self.cfg_t_start_embedder, self.cfg_t_end_embedder = ScalarEmbedder(width), ScalarEmbedder(width)
        self.y_embedder = Named("embedding_table", Named("embedding", nn.Embedding(self.num_classes + 1, width)))
        self.shared_blocks = nn.ModuleList(Block(width, sizes.heads) for _ in range(sizes.depth - NUM_HEAD_BLOCKS))
        self.u_heads = nn.ModuleList(Block(width, sizes.heads) for _ in range(NUM_HEAD_BLOCKS))
        self.u_final_layer = FinalLayer(width, channels * sizes.patch**2)

    @abstractmethod
    def place(self, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Prefix and patches [B, N, width] with what tells their places: added to them, and angles of rotation."""

    @abstractmethod
    def velocity(self, z: Tensor, time: float, step: float, labels: Tensor) -> Tensor:
        """The mean of dz/dt over the step that begins at `time` and goes `step` towards 0."""

    @abstractmethod
    def finish(self, z: Tensor) -> Tensor:
        """Images of what the flow has come to at t = 0."""

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        z, step = noise * self.sampler.noise_scale, 1 / self.sampler.steps
        for index in range(self.sampler.steps):
            z = z - step * self.velocity(z, 1 - index * step, step, labels)
        return self.finish(z)

    def estimate(self, z: Tensor, step: float, labels: Tensor) -> Tensor:
        """The network's result [B, C, S, S] at z, when told the length of the step."""
        x, table = self.place(torch.cat([self._prefix(step, labels), self.x_embedder(z)], dim=1))
        for block in (*self.shared_blocks, *self.u_heads):
            x = block(x, table)
        return unpatchify(self.u_final_layer(x[:, NUM_PREFIX:]), self.sizes.patch)

    def _prefix(self, step: float, labels: Tensor) -> Tensor:
        def embedded(embedder: nn.Module, value: float) -> Tensor:
            return embedder(torch.full(labels.shape, value, device=labels.device, dtype=torch.float32))

        conditions = {
            "class": self.y_embedder(labels),
            "omega": embedded(self.omega_embedder, 1 - 1 / self.sampler.omega),
            "t_min": embedded(self.cfg_t_start_embedder, self.sampler.interval[0]),
            "t_max": embedded(self.cfg_t_end_embedder, self.sampler.interval[1]),
            "time": embedded(self.h_embedder, step),
        }
        return torch.cat([getattr(self, f"{name}_tokens") + conditions[name][:, None] for name in PREFIX], dim=1)

    def adapt_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The names and shapes of this network for those of the original checkpoints; the second head is dropped."""
        adapted = {}
        for name, tensor in state.items():
            if name.startswith(("v_heads.", "v_final_layer.")) or name.endswith("rope_freqs"):
                continue
            name = name.replace("._flax_linear.", ".linear.").replace("._flax_embedding.", ".embedding.")
            adapted[name] = tensor[0] if name.endswith("_tokens") and tensor.ndim == 3 else tensor
        return adapted


class PixelMeanFlow(MeanFlow):
    """pMF: the network estimates the image x, and (z - x) / t is the velocity. Patches have a row and a column."""

    def __init__(self, sizes: Sizes, sampler: Sampler) -> None:
        embedder = BottleneckPatches(sizes.patch, sizes.bottleneck, sizes.width, bias=True)
        super().__init__(sizes, sampler, 3, embedder)
        self.pos_embed = nn.Parameter(torch.zeros(1, NUM_PREFIX + sizes.side**2, sizes.width))

    def place(self, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        table = grid_table(NUM_PREFIX, self.sizes.side, self.sizes.head_dim, tokens.device)
        return tokens + self.pos_embed, table

    def velocity(self, z: Tensor, time: float, step: float, labels: Tensor) -> Tensor:
        return (z - self.estimate(z, step, labels)) / max(time, TIME_FLOOR)

    def finish(self, z: Tensor) -> Tensor:
        return z


class LatentMeanFlow(MeanFlow):
    """iMF: the network estimates the velocity of normalised latents [B, 4, S, S]; a fixed decoder makes images of them.

    Prefix and patches have one place each, in a row.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, sizes: Sizes, sampler: Sampler, decoder: nn.Module) -> None:
        super().__init__(sizes, sampler, LATENT_CHANNELS, Patches(sizes.patch, sizes.width))
        self.decoder = decoder
        for name, values in (("latent_mean", LATENT_MEAN), ("latent_std", LATENT_STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def place(self, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return tokens, sequence_table(tokens.shape[1], self.sizes.head_dim, tokens.device)

    def velocity(self, z: Tensor, time: float, step: float, labels: Tensor) -> Tensor:
        return self.estimate(z, step, labels)

    def finish(self, z: Tensor) -> Tensor:
        return self.decoder(z * self.latent_std + self.latent_mean)
