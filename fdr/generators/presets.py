"""Architectures known by name, for the published checkpoints of pMF and JiT: `--arch pmf-b-256`."""

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
_JIT = {"b": (12, 4, 3.0), "l": (24, 8, 2.4), "h": (32, 10, 2.2)}
"""Depth, block at which the class joins the patches, strength of guidance."""


def _make_pmf(name: str, **more: Any) -> nn.Module:
    from fdr.generators.pmf import PixelMeanFlow

    width, heads, bottleneck = _WIDTHS[name[0]]
    omega, interval, noise_scale = _PMF_GUIDANCE[name]
    size = int(name[2:])
    settings = {"omega": omega, "interval": interval, "noise_scale": noise_scale, **more}
    depth, patch = _PMF_DEPTHS[name[0]], size // 16
    return PixelMeanFlow(
        depth=depth, width=width, heads=heads, bottleneck=bottleneck, patch=patch, size=size, **settings
    )


def _make_jit(name: str, **more: Any) -> nn.Module:
    from fdr.generators.jit import JustImageTransformer

    width, heads, bottleneck = _WIDTHS[name[0]]
    depth, context_start, omega = _JIT[name[0]]
    settings = {"omega": omega, "interval": (0.0, 0.9), "noise_scale": 1.0, "context_start": context_start, **more}
    return JustImageTransformer(
        depth=depth, width=width, heads=heads, bottleneck=bottleneck, patch=16, size=256, **settings
    )


PRESETS: dict[str, Callable[..., nn.Module]] = {
    **{f"pmf-{name}": partial(_make_pmf, name) for name in _PMF_GUIDANCE},
    **{f"jit-{name}-256": partial(_make_jit, f"{name}-256") for name in _JIT},
}
"""Called with `steps`, `omega`, `interval`, `noise_scale` where they shall differ from the preset's."""
