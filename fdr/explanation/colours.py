"""The colours of heat-maps, and heat-maps laid over images.

The scale runs from dark violet over red to light yellow in OKLCh (Ottosson 2020, bottosson.github.io/posts/oklab):
lightness rises evenly from 0.20 to 0.95, so that the order of the values survives in print and for the colour-blind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fdr.explanation.results import HeatMap

if TYPE_CHECKING:
    from PIL import Image

LIGHTNESS = 0.20, 0.95
HUE = 285.0, 465.0
"""Degrees at both ends, over magenta (330), red (390) and orange (420) to yellow (465)."""
CHROMA = 0.11, 0.16
"""Chroma at both ends, as far as sRGB has it; in the middle it is 0.06 larger."""
OPACITY = 0.40, 0.75
"""How much the colour covers the grey image, for the smallest and the largest value."""
_TO_LMS = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def coloured(values: np.ndarray) -> np.ndarray:
    """uint8 [..., 3]: the colours of values in [0, 1]."""
    place = np.clip(np.nan_to_num(values) * 255, 0, 255).round().astype(np.int64)
    return _scale()[place]


def overlay(image: np.ndarray, heat: HeatMap, least_side: int) -> np.ndarray:
    """uint8 [H, W, 3]: the grey image below the colours of its heat-map, and bare where no position of the map lies.

    An image smaller than `least_side` is enlarged by a whole factor first, so that the map is smooth.
    """
    from PIL import Image

    factor = max(1, least_side // max(image.shape[:2]))
    grey = Image.fromarray(np.ascontiguousarray(image)).convert("L")
    grey = grey.resize((grey.width * factor, grey.height * factor), Image.Resampling.NEAREST)
    values = _placed(heat, grey)
    covered = np.isfinite(values)
    low, high = OPACITY
    opacity = np.where(covered, low + (high - low) * np.nan_to_num(values), 0)[..., None]
    mixed = (1 - opacity) * np.asarray(grey, np.float64)[..., None] + opacity * coloured(values)
    return np.rint(mixed).astype(np.uint8)


def _placed(heat: HeatMap, image: Image.Image) -> np.ndarray:
    """The map at the size of the image, float32 [H, W] in [0, 1]; NaN outside of its box."""
    from PIL import Image

    left, top, right, bottom = (
        round(share * side) for share, side in zip(heat.box, (image.width, image.height) * 2, strict=True)
    )
    size = (max(1, right - left), max(1, bottom - top))
    large = Image.fromarray(heat.values.astype(np.float32)).resize(size, Image.Resampling.LANCZOS)
    canvas = Image.fromarray(np.full((image.height, image.width), np.nan, np.float32))
    canvas.paste(large, (left, top))
    return np.clip(np.asarray(canvas), 0, 1)


def _scale() -> np.ndarray:
    """uint8 [256, 3]."""
    place = np.linspace(0, 1, 256)
    lightness = LIGHTNESS[0] + (LIGHTNESS[1] - LIGHTNESS[0]) * place
    chroma = CHROMA[0] + (CHROMA[1] - CHROMA[0]) * place + 0.06 * np.sin(np.pi * place)
    hue = np.radians(HUE[0] + (HUE[1] - HUE[0]) * place)
    linear = _linear(lightness, chroma, hue)
    for _ in range(200):  # less chroma where sRGB ends
        outside = (linear.min(1) < 0) | (linear.max(1) > 1)
        chroma = np.where(outside, 0.99 * chroma, chroma)
        linear = _linear(lightness, chroma, hue)
    linear = linear.clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)


def _linear(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """Linear sRGB [n, 3] of OKLCh."""
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], 1)
    return (lab @ _TO_LMS.T) ** 3 @ _TO_RGB.T
