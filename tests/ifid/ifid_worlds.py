"""Small image sets, an autoencoder that counts, and an independent account of what an interpolated FID is."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import torch
from autoencoder_worlds import Plain, seeded
from torch import Tensor
from worlds import TinyEncoder, images

import fdr
from fdr.reports import Report

QUERIES, OTHERS = images(40, seed=1), images(70, seed=2)
OPTIONS = {field.name for field in fields(fdr.IfidOptions)}


def measured(autoencoder: Any, images: Any = QUERIES, neighbours: Any = OTHERS, **options: Any) -> Report:
    """Under the tiny encoder; fields of `IfidOptions` are named like other arguments, a single alpha too."""
    own = {name: options.pop(name) for name in OPTIONS & options.keys()}
    if "alpha" in options:
        own["alphas"] = (options.pop("alpha"),)
    return fdr.interpolated_fid(
        autoencoder, images, neighbours, TinyEncoder(), ifid_options=fdr.IfidOptions(**own), **options
    )


class Counting(Plain):
    """Counts the images that it encodes and decodes."""

    def __init__(self) -> None:
        super().__init__()
        self.num_encoded = self.num_decoded = 0

    def encode(self, images: Tensor) -> Any:
        self.num_encoded += len(images)
        return super().encode(images)

    def decode(self, latents: Tensor) -> Any:
        self.num_decoded += len(latents)
        return super().decode(latents)


def autoencoder() -> Counting:
    return seeded(Counting)


def spread(network: Counting) -> Counting:
    """`network` with latents six times as large, whose distances differ enough for the softmax to matter."""
    with torch.no_grad():
        network.down.weight *= 6
        network.up.weight /= 6
    return network


def as_float(array: np.ndarray) -> Tensor:
    """uint8 NHWC -> float32 NCHW in [0, 1]."""
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255


def quantised(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round() / 255


# What an interpolated FID is, in NumPy and float64, with nothing of fdr but the drawn images


def parameters(network: Plain, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of a convolution of blocks of 4 x 4 pixels."""
    layer = getattr(network, name)
    return layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()


def encoded(network: Plain, images: np.ndarray, layer: str = "down") -> np.ndarray:
    """uint8 [N, H, W, 3] -> float64 [N, 4, H/4, W/4]."""
    n, height, width, _ = images.shape
    blocks = (images / 127.5 - 1).reshape(n, height // 4, 4, width // 4, 4, 3)
    weight, bias = parameters(network, layer)
    return np.einsum("nhywxc,kcyx->nkhw", blocks, weight) + bias[:, None, None]


def decoded(network: Plain, latents: np.ndarray) -> np.ndarray:
    """float64 [N, 4, h, w] -> [N, 4h, 4w, 3], black 0, white 1, clamped and rounded to 8 bits."""
    n, _, height, width = latents.shape
    weight, bias = parameters(network, "up")
    blocks = np.einsum("nkhw,kcyx->nhywxc", latents, weight) + bias
    images = (np.tanh(blocks.reshape(n, 4 * height, 4 * width, 3)) + 1) / 2
    return np.rint(images * 255) / 255


def features_of(images: np.ndarray) -> np.ndarray:
    """What the tiny encoder gives for images [N, H, W, 3] in [0, 1]: means of 4 x 4 parts, times its matrix."""
    n, height, width, _ = images.shape
    parts = images.reshape(n, 4, height // 4, 4, width // 4, 3).mean((2, 4))
    return parts.transpose(0, 3, 1, 2).reshape(n, -1) @ TinyEncoder().matrix.numpy()


def distance_of(x: np.ndarray, y: np.ndarray) -> float:
    """|mu - mu'|^2 + tr(S + S' - 2 (S S')^(1/2))."""
    first, second = np.cov(x.T), np.cov(y.T)
    roots = np.sqrt(np.linalg.eigvals(first @ second).real.clip(0))
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(first + second) - 2 * roots.sum())


def uniform_draw(seed: int, row: int) -> float:
    """In [0, 1): the first 53 bits of SFC64, seeded by the seed, purpose 4 (the choice of a neighbour) and the row."""
    return int(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(4, row))).random_raw() >> 11) / 2**53


def picked(squared: np.ndarray, dim: int, seed: int, row: int) -> tuple[int, float]:
    """Which of K candidates the query in `row` takes, by the softmax of -|z - z_k|^2 / D, and its entropy."""
    shares = np.exp(-(squared - squared.min()) / dim)
    shares /= shares.sum()
    place = int(np.searchsorted(np.cumsum(shares), uniform_draw(seed, row), side="right"))
    return min(place, len(shares) - 1), float(-(shares * np.log(shares)).sum())


def slerp_of(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """By the textbook, one pair of vectors."""
    angle = np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def mixed_of(mode: str, z: np.ndarray, w: np.ndarray, alpha: float) -> np.ndarray:
    """Latents [N, C, h, w] between z and w; mask at 0.5 only."""
    if mode == "linear":
        return (1 - alpha) * z + alpha * w
    if mode == "mask":
        half = z.shape[2] // 2
        return np.concatenate([w[:, :, :half], z[:, :, half:]], 2)
    return np.stack([slerp_of(a.ravel(), b.ravel(), alpha).reshape(a.shape) for a, b in zip(z, w, strict=True)])


def nearest_of(
    z: np.ndarray, w: np.ndarray, metric: str, top_k: int, is_one_set: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The K nearest rows of w for each of z, and their squared distances [N, K]."""
    q, r = z.reshape(len(z), -1), w.reshape(len(w), -1)
    squared = ((q[:, None] - r) ** 2).sum(2)
    cosine = 1 - q @ r.T / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(r, axis=1)
    distances = squared.copy() if metric == "l2" else cosine
    if is_one_set:
        np.fill_diagonal(distances, np.inf)
    rows = np.argsort(distances, axis=1, kind="stable")[:, :top_k]
    return rows, np.take_along_axis(squared, rows, 1)


def expected(
    images: np.ndarray,
    neighbours: np.ndarray | None,
    mode: str,
    alpha: float,
    top_k: int,
    seed: int,
    network: Plain | None = None,
) -> dict[str, float]:
    """FD of interpolants, reconstructions and decoded neighbours, step by step, and the entropy of the draws."""
    network = network or autoencoder()
    z = encoded(network, images)
    w = z if neighbours is None else encoded(network, neighbours)
    rows, squared = nearest_of(z, w, "l2" if mode == "linear" else "cosine", top_k, neighbours is None)
    picks = [picked(squared[row], z[0].size, seed, row) for row in range(len(z))]
    drawn = w[[rows[row, place] for row, (place, _) in enumerate(picks)]]
    real = features_of(images / 255)
    latents = {"ifd": mixed_of(mode, z, drawn, alpha), "rfd": z, "nfd": drawn}
    found = {name: distance_of(features_of(decoded(network, each)), real) for name, each in latents.items()}
    return {**found, "entropy": float(np.mean([entropy for _, entropy in picks]))}
