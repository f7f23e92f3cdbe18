"""Architectures known by name, for the published checkpoints of pMF, iMF and JiT: `--arch pmf-b-256`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

_WIDTHS = {"b": (768, 12, 128), "l": (1024, 16, 128), "h": (1280, 16, 256)}
"""Width, heads, bottleneck."""
_PMF_DEPTHS = {"b": 16, "l": 32, "h": 48}
_PMF_GUIDANCE = {
    "b-256": (8.5, (0.1, 0.7), 1.0),
    "l-256": (7.0, (0.2, 0.7), 1.0),
    "h-256": (7.0, (0.2, 0.6), 2.0),
    "b-512": (6.5, (0.1, 0.7), 2.0),
    "l-512": (7.5, (0.2, 0.6), 4.0),
    "h-512": (5.5, (0.1, 0.6), 4.0),
}
"""Strength of guidance, its interval, scale of the noise."""
_IMF = {
    "b": (12, 768, 12, 8.0, (0.4, 0.65)),
    "l": (32, 1024, 16, 10.5, (0.4, 0.6)),
    "xl": (48, 1024, 16, 8.0, (0.42, 0.62)),
}
"""Depth, width, heads, strength of guidance, its interval."""
_JIT = {"b": (12, 4, 3.0), "l": (24, 8, 2.4), "h": (32, 10, 2.2)}
"""Depth, block at which the class joins the patches, strength of guidance."""
PUBLISHED_VAE = "stabilityai/sd-vae-ft-mse"
"""The autoencoder whose latents iMF was trained on."""


def _make_pmf(name: str, **sampling: Any) -> nn.Module:
    from fdr.generators.published.mean_flow import PixelMeanFlow
    from fdr.generators.published.transformer import Sampler, Sizes

    width, heads, bottleneck = _WIDTHS[name[0]]
    omega, interval, noise_scale = _PMF_GUIDANCE[name]
    size = int(name[2:])
    sizes = Sizes(_PMF_DEPTHS[name[0]], width, heads, patch=size // 16, size=size, bottleneck=bottleneck)
    return PixelMeanFlow(
        sizes, Sampler(**{"omega": omega, "interval": interval, "noise_scale": noise_scale, **sampling})
    )


def _make_imf(name: str, vae: str = PUBLISHED_VAE, **sampling: Any) -> nn.Module:
    from fdr.generators.published.mean_flow import LATENT_CHANNELS, LatentMeanFlow
    from fdr.generators.published.transformer import Sampler, Sizes
    from fdr.generators.published.vae import load_decoder

    depth, width, heads, omega, interval = _IMF[name]
    sampler = Sampler(**{"omega": omega, "interval": interval, **sampling})
    return LatentMeanFlow(
        Sizes(depth, width, heads, patch=2, size=32), sampler, load_decoder(vae, channels=LATENT_CHANNELS)
    )


def _make_jit(name: str, **sampling: Any) -> nn.Module:
    from fdr.generators.published.jit import JustImageTransformer
    from fdr.generators.published.transformer import Sampler, Sizes

    width, heads, bottleneck = _WIDTHS[name]
    depth, context_start, omega = _JIT[name]
    sampler = Sampler(**{"omega": omega, "interval": (0.0, 0.9), **sampling})
    return JustImageTransformer(
        Sizes(depth, width, heads, patch=16, size=256, bottleneck=bottleneck), sampler, context_start
    )


def _make_one_step(**arguments: Any) -> nn.Module:
    from fdr.generators.one_step import make_one_step

    return make_one_step(**arguments)


PRESETS: dict[str, Callable[..., nn.Module]] = {
    **{f"pmf-{name}": partial(_make_pmf, name) for name in _PMF_GUIDANCE},
    **{f"imf-{name}": partial(_make_imf, name) for name in _IMF},
    **{f"jit-{name}-256": partial(_make_jit, name) for name in _JIT},
    "diffusers": partial(_make_one_step),
}
"""Called with `steps`, `omega`, `interval`, `noise_scale` where they shall differ from the preset's, iMF with `vae`;
"diffusers" with what `make_one_step` takes."""
