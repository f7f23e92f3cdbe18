"""A small latent world: an autoencoder of diffusers, an iMF over its latents, checkpoints as they are published."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fdr.generators.published.mean_flow import LatentMeanFlow
from fdr.generators.published.transformer import Sampler, Sizes
from fdr.generators.published.vae import load_decoder

SIDE = 16
"""Of the images; latents are 4 x 4."""


def tiny_vae(seed: int = 0, **config: Any) -> nn.Module:
    """A seeded AutoencoderKL, with images that mostly stay inside of [-1, 1]."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    blocks: dict[str, Any] = {
        "block_out_channels": (8, 8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "norm_num_groups": 4,
    }
    vae = AutoencoderKL(**{**blocks, **config}).eval()
    with torch.no_grad():
        vae.decoder.conv_out.weight *= 0.5
    return vae


@functools.cache
def _saved(seed: int, config: tuple[tuple[str, Any], ...]) -> nn.Module:
    return tiny_vae(seed, **dict(config))


def save_vae(folder: Path, seed: int = 0, **config: Any) -> Path:
    """The folder, with such an autoencoder as save_pretrained writes it."""
    _saved(seed, tuple(config.items())).save_pretrained(folder)
    return folder


def tiny_imf(vae: str, steps: int = 1) -> LatentMeanFlow:
    """As the presets make them, of four patches."""
    sizes = Sizes(depth=9, width=16, heads=2, patch=2, size=4)
    return LatentMeanFlow(sizes, Sampler(8.0, (0.4, 0.65), steps=steps), load_decoder(vae, channels=4))


def original_names(network: nn.Module, wraps_tokens: bool) -> dict[str, Tensor]:
    """The state of a mean flow as base checkpoints spell it, with the second head that sampling drops."""
    state = {}
    for name, tensor in network.state_dict().items():
        name = name.replace(".linear.w", "._flax_linear.w").replace(".linear.b", "._flax_linear.b")
        name = name.replace(".embedding.weight", "._flax_embedding.weight")
        state[f"net.{name}"] = (tensor[None] if wraps_tokens and name.endswith("_tokens") else tensor).clone()
    state |= {"net.v_heads.0.norm1.weight": torch.ones(16), "net.v_final_layer.norm.weight": torch.ones(16)}
    if wraps_tokens:
        state["net.rope_freqs"] = torch.ones(3)
    assert {
        "net.u_heads.0.attn.q_proj._flax_linear.weight",
        "net.u_final_layer.linear._flax_linear.bias",
    } <= state.keys()
    return state
