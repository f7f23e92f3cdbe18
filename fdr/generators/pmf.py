"""pMF, the pixel mean flow transformer: noise and a class -> an image in one step or several.

Written from the layout of its published checkpoints, whose names the modules have. The network estimates the image x;
(z - x) / t is the mean velocity over a step, which ends where the next begins.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fdr.errors import InputError
from fdr.generators.transformer import (
    TIME_FLOOR,
    BottleneckPatches,
    RMSNorm,
    attend,
    rotary_table,
    sinusoid,
    unpatchify,
)

NUM_HEAD_BLOCKS = 8
PREFIX = {"class": 8, "omega": 4, "t_min": 2, "t_max": 2, "time": 4}
"""Tokens before the patches, in order."""


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


class FinalLayer(nn.Module):
    """Tokens -> pixels of their patches."""

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.norm, self.linear = RMSNorm(dim), _linear(dim, 3 * patch * patch, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))


class PixelMeanFlow(nn.Module):
    """`network(noise, labels)` -> images [B, 3, S, S] around [-1, 1], in `steps` steps from t = 1 to 0.

    `omega` is the strength of guidance and `interval` the times of it, which the network was trained to take as inputs.
    """

    value_range = (-1.0, 1.0)
    num_classes = 1000

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        heads: int,
        bottleneck: int,
        patch: int,
        size: int,
        omega: float,
        interval: tuple[float, float],
        noise_scale: float,
        steps: int = 1,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise InputError(f"A sampler takes at least 1 step; got steps={steps}.")
        self.noise_shape = (3, size, size)
        self.patch, self.side, self.head_dim = patch, size // patch, width // heads
        self.omega, self.interval, self.noise_scale, self.steps = omega, interval, noise_scale, steps
        for name, count in PREFIX.items():
            self.register_parameter(f"{name}_tokens", nn.Parameter(torch.zeros(count, width)))
        self.num_prefix = sum(PREFIX.values())
        self.pos_embed = nn.Parameter(torch.zeros(1, self.num_prefix + self.side**2, width))
        self.x_embedder = BottleneckPatches(patch, bottleneck, width, bias=True)
        self.h_embedder, self.omega_embedder = ScalarEmbedder(width), ScalarEmbedder(width)
        self.cfg_t_start_embedder, self.cfg_t_end_embedder = ScalarEmbedder(width), ScalarEmbedder(width)
        self.y_embedder = Named("embedding_table", Named("embedding", nn.Embedding(self.num_classes + 1, width)))
        self.shared_blocks = nn.ModuleList(Block(width, heads) for _ in range(depth - NUM_HEAD_BLOCKS))
        self.u_heads = nn.ModuleList(Block(width, heads) for _ in range(NUM_HEAD_BLOCKS))
        self.u_final_layer = FinalLayer(width, patch)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        z, step = noise * self.noise_scale, 1 / self.steps
        for index in range(self.steps):
            time = 1 - index * step
            velocity = (z - self.estimate(z, step, labels)) / max(time, TIME_FLOOR)
            z = z - step * velocity
        return z

    def estimate(self, z: Tensor, step: float, labels: Tensor) -> Tensor:
        """The image x that a noisy z [B, 3, S, S] is of, by a network that is told the length of the step."""
        x = torch.cat([self._prefix(step, labels), self.x_embedder(z)], dim=1) + self.pos_embed
        table = rotary_table(self.num_prefix, self.side, self.head_dim, z.device)
        for block in (*self.shared_blocks, *self.u_heads):
            x = block(x, table)
        return unpatchify(self.u_final_layer(x[:, self.num_prefix :]), self.patch)

    def _prefix(self, step: float, labels: Tensor) -> Tensor:
        def embedded(embedder: nn.Module, value: float) -> Tensor:
            return embedder(torch.full(labels.shape, value, device=labels.device, dtype=torch.float32))

        conditions = {
            "class": self.y_embedder(labels),
            "omega": embedded(self.omega_embedder, 1 - 1 / self.omega),
            "t_min": embedded(self.cfg_t_start_embedder, self.interval[0]),
            "t_max": embedded(self.cfg_t_end_embedder, self.interval[1]),
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
