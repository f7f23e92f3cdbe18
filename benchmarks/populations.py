"""Populations of features with exact moments, from which any number of rows can be drawn.

Kinds, all with a covariance whose spectrum falls as 1 / k^p: `gauss`; `heavy`, independent sign(z) |z|^1.3; `ellip`,
multivariate Student t with 10 degrees of freedom; `mix`, 50 Gaussian classes whose means hold 40 % of the variance; and
`relu`, max(0, z) of a Gaussian z, whose moments are those of the arc-cosine kernel (Cho & Saul 2009).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fdr.frechet import Moments

Draw = Callable[[int, np.random.Generator], np.ndarray]
POWER, FREEDOM, CLASSES, BETWEEN = 1.3, 10, 50, 0.4
CASES = {"same": (0.0, 0.0), "near": (0.1, 0.005), "far": (1.0, 0.2)}
"""How far the reference is from the samples: the size of a random linear map, and |m - m_ref|^2 / tr S."""


@dataclass(frozen=True)
class Population:
    """Exact moments, and a way to draw rows [N, D]."""

    mean: np.ndarray
    covariance: np.ndarray
    draw: Draw

    @property
    def moments(self) -> Moments:
        """Moments without a count, which estimators take as exact."""
        return Moments(self.mean, self.covariance)

    def mapped(self, matrix: np.ndarray, shift: np.ndarray) -> Population:
        """The population of matrix x + shift."""
        return Population(
            matrix @ self.mean + shift,
            matrix @ self.covariance @ matrix.T,
            lambda count, random: self.draw(count, random) @ matrix.T + shift,
        )


def population(kind: str, dim: int, power: float) -> Population:
    """A population of one of `KINDS`, always the same for the same arguments."""
    scale = np.arange(1, dim + 1) ** (-power / 2)
    return KINDS[kind](scale, np.random.default_rng((dim, len(kind))))


def reference_of(samples: Population, case: str) -> Population:
    """The population of the reference: that of the samples, mapped as `CASES` says."""
    size, shift = CASES[case]
    if size == 0:
        return samples
    random, dim = np.random.default_rng(7), len(samples.mean)
    noise = random.standard_normal((dim, dim)) / math.sqrt(dim)
    matrix = np.linalg.qr(noise)[0] if size == 1 else np.eye(dim) + size * (noise + noise.T) / math.sqrt(2)
    direction = random.standard_normal(dim)
    direction *= math.sqrt(shift * np.trace(samples.covariance)) / np.linalg.norm(direction)
    return samples.mapped(matrix, direction + samples.mean - matrix @ samples.mean)


def _independent(scale: np.ndarray, noise: Draw) -> Population:
    """Rows scale * noise, where noise [N, D] has mean 0 and the unit matrix as covariance."""
    return Population(np.zeros(len(scale)), np.diag(scale**2), lambda count, random: noise(count, random) * scale)


def gauss(scale: np.ndarray, _: np.random.Generator) -> Population:
    return _independent(scale, lambda count, random: random.standard_normal((count, len(scale))))


def heavy(scale: np.ndarray, _: np.random.Generator) -> Population:
    variance = 2**POWER * math.gamma(POWER + 0.5) / math.sqrt(math.pi)  # E |z|^(2 POWER)

    def noise(count: int, random: np.random.Generator) -> np.ndarray:
        z = random.standard_normal((count, len(scale)))
        return np.sign(z) * np.abs(z) ** POWER / math.sqrt(variance)

    return _independent(scale, noise)


def ellip(scale: np.ndarray, _: np.random.Generator) -> Population:
    def noise(count: int, random: np.random.Generator) -> np.ndarray:
        radius = np.sqrt((FREEDOM - 2) / random.chisquare(FREEDOM, (count, 1)))
        return random.standard_normal((count, len(scale))) * radius

    return _independent(scale, noise)


def mix(scale: np.ndarray, random: np.random.Generator) -> Population:
    means = math.sqrt(BETWEEN) * scale * random.standard_normal((CLASSES, len(scale)))
    inner = math.sqrt(1 - BETWEEN) * scale

    def draw(count: int, random: np.random.Generator) -> np.ndarray:
        return means[random.integers(CLASSES, size=count)] + random.standard_normal((count, len(scale))) * inner

    return Population(means.mean(0), np.cov(means.T, ddof=0) + np.diag(inner**2), draw)


def relu(scale: np.ndarray, random: np.random.Generator) -> Population:
    rotated = np.linalg.qr(random.standard_normal((len(scale), len(scale))))[0] * scale
    sigma = np.linalg.norm(rotated, axis=1)
    cosine = np.clip(rotated @ rotated.T / np.outer(sigma, sigma), -1, 1)
    angle = np.arccos(cosine)
    second = np.outer(sigma, sigma) / (2 * math.pi) * (np.sin(angle) + (math.pi - angle) * cosine)
    mean = sigma / math.sqrt(2 * math.pi)
    return Population(
        mean,
        second - np.outer(mean, mean),
        lambda count, random: np.maximum(random.standard_normal((count, len(scale))) @ rotated.T, 0),
    )


KINDS: dict[str, Callable[[np.ndarray, np.random.Generator], Population]] = {
    "gauss": gauss,
    "heavy": heavy,
    "ellip": ellip,
    "mix": mix,
    "relu": relu,
}
