"""Drawings for the demo and the tests: shapes on textures in eight modes, and ways to degrade them.

Image i depends on (seed, i) alone. Numbers measured on drawings show how metrics react, and nothing about generators of
photographs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

MODES = ("disc", "ring", "square", "triangle", "stripes", "checks", "dots", "cloud")
SIDE = 64
"""Pixels per side."""
_BLUR_SIGMA = 1.5
_NOISE_SIGMA = 20.0


def draw(seed: int, index: int, side: int = SIDE) -> np.ndarray:
    """uint8 [side, side, 3]: image `index` of the set `seed`; its mode is `index` modulo 8."""
    random = np.random.RandomState(np.array([seed, index], dtype=np.uint32))
    y, x = np.mgrid[0:side, 0:side] / side - 0.5
    background = _gradient(random, x, y)
    foreground = random.uniform(0, 255, 3)
    mask = _mask(MODES[index % len(MODES)], random, x, y)[..., None]
    texture = random.normal(0, 6, (side, side, 1))
    return np.clip(background * (1 - mask) + foreground * mask + texture, 0, 255).round().astype(np.uint8)


def draw_set(seed: int, count: int, modes: int = len(MODES), start: int = 0) -> np.ndarray:
    """uint8 [count, 64, 64, 3]: images that take turns among the first `modes` modes."""
    indices = [start + (i // modes) * len(MODES) + i % modes for i in range(count)]
    return np.stack([draw(seed, index) for index in indices])


def _gradient(random: np.random.RandomState, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    angle = random.uniform(0, 2 * np.pi)
    t = (x * np.cos(angle) + y * np.sin(angle) + 0.75) / 1.5
    first, second = random.uniform(0, 255, 3), random.uniform(0, 255, 3)
    return first * (1 - t[..., None]) + second * t[..., None]


def _mask(mode: str, random: np.random.RandomState, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The share of each pixel that the foreground covers, [H, W] in [0, 1]."""
    cx, cy = random.uniform(-0.2, 0.2, 2)
    radius, angle = random.uniform(0.12, 0.3), random.uniform(0, 2 * np.pi)
    u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
    v = -(x - cx) * np.sin(angle) + (y - cy) * np.cos(angle)
    distance = np.hypot(u, v)
    frequency = random.uniform(4, 9)
    fields: dict[str, Callable[[], np.ndarray]] = {
        "disc": lambda: radius - distance,
        "ring": lambda: radius / 3 - np.abs(distance - radius),
        "square": lambda: radius - np.maximum(np.abs(u), np.abs(v)),
        "triangle": lambda: np.minimum(radius - np.abs(u) * 1.8 - v, v + radius * 0.8),
        "stripes": lambda: np.sin(2 * np.pi * frequency * u) / 20,
        "checks": lambda: np.sin(2 * np.pi * frequency * u) * np.sin(2 * np.pi * frequency * v) / 20,
        "dots": lambda: 0.3 - np.hypot(np.mod(u * frequency, 1) - 0.5, np.mod(v * frequency, 1) - 0.5),
        "cloud": lambda: _cloud(random, x.shape[0]),
    }
    return np.clip(fields[mode]() * x.shape[0] + 0.5, 0, 1)


def _cloud(random: np.random.RandomState, side: int) -> np.ndarray:
    coarse = random.normal(0, 1, (6, 6))
    at = np.linspace(0, 4.999, side)
    low, weight = at.astype(int), at % 1
    rows = coarse[low] * (1 - weight[:, None]) + coarse[low + 1] * weight[:, None]
    return (rows[:, low] * (1 - weight) + rows[:, low + 1] * weight) / 20


def blurred(images: np.ndarray) -> np.ndarray:
    """The images without their details, by a Gaussian blur of 1.5 pixels."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(images.astype(np.float64), (0, _BLUR_SIGMA, _BLUR_SIGMA, 0), mode="nearest", radius=5)
    return smooth.round().astype(np.uint8)


def noisy(images: np.ndarray, seed: int) -> np.ndarray:
    """The images with Gaussian noise of a standard deviation of 20 (of 255)."""
    noise = np.random.RandomState(seed).normal(0, _NOISE_SIGMA, images.shape)
    return np.clip(images + noise, 0, 255).round().astype(np.uint8)
