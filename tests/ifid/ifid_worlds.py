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
from fdr.ifid.interpolation import draw
from fdr.ifid.neighbours import Neighbours
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


def as_float(array: np.ndarray) -> Tensor:
    """uint8 NHWC -> float32 NCHW in [0, 1]."""
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255


def quantised(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round() / 255


def brute_force(queries: Tensor, references: Tensor, metric: str, top_k: int, excluded: np.ndarray) -> Neighbours:
    """All distances in float64; `excluded` [Q, N] pairs do not count."""
    q, r = (x.flatten(1).double() for x in (queries, references))
    squared = (q[:, None] - r[None]).square().sum(2)
    cosine = 1 - (q @ r.T) / (q.norm(dim=1)[:, None] * r.norm(dim=1))
    distances = (squared if metric == "l2" else cosine).clone()
    distances[torch.from_numpy(excluded)] = torch.inf
    order = distances.argsort(dim=1, stable=True)[:, :top_k]
    return Neighbours(
        order.numpy(), distances.gather(1, order).numpy(), squared.gather(1, order).numpy(), np.arange(len(q))
    )


def slerp_of(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """By the textbook, one pair of vectors."""
    angle = np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def mixed_of(mode: str, z: Tensor, w: Tensor, alpha: float) -> Tensor:
    """Latents [B, C, h, w] between z and w; mask at 0.5 only."""
    if mode == "linear":
        return (1 - alpha) * z + alpha * w
    if mode == "mask":
        half = z.shape[2] // 2
        return torch.cat([w[:, :, :half], z[:, :, half:]], 2)
    pairs = zip(*(v.flatten(1).double().numpy() for v in (z, w)), strict=True)
    return torch.from_numpy(np.stack([slerp_of(*pair, alpha) for pair in pairs])).float().reshape(z.shape)


def expected(
    images: np.ndarray, neighbours: np.ndarray | None, mode: str, alpha: float, top_k: int, seed: int
) -> dict[str, float]:
    """FD of interpolants, reconstructions and decoded neighbours, step by step."""
    model, encoder = fdr.load_autoencoder(autoencoder()), TinyEncoder()
    x = as_float(images)
    y = x if neighbours is None else as_float(neighbours)
    z, w = model.encode(x, range(len(x))), model.encode(y, range(len(y)))
    own = np.eye(len(x), dtype=bool) if neighbours is None else np.zeros((len(x), len(y)), bool)
    found = brute_force(z, w, "l2" if mode == "linear" else "cosine", top_k, own)
    drawn = w[torch.from_numpy(draw(found, z[0].numel(), seed).rows)]
    real = encoder(x)["features"].numpy()
    decoded = {"ifd": mixed_of(mode, z, drawn, alpha), "rfd": z, "nfd": drawn}
    return {
        name: fdr.frechet_distance(encoder(quantised(model.decode(latents)))["features"].numpy(), real)
        for name, latents in decoded.items()
    }
