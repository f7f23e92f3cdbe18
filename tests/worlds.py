"""Small worlds for the tests of the whole path: drawn images, and a tiny encoder with two outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fdr.encoders import AbstractEncoder, EncoderSpec
from fdr.images import procedural

DIM = 12


class TinyEncoder(AbstractEncoder):
    """Pooled colours and their products; `logits` for the Inception Score. Counts the images it has seen."""

    def __init__(self, name: str = "tiny", dim: int = DIM, weights: str = "seed:0") -> None:
        self.spec = EncoderSpec(name, "tiny", "tiny", weights, "features", dim, 8, "none", (0.0,) * 3, (1.0,) * 3)
        self.device = torch.device("cpu")
        self.outputs = self.stored_outputs = ("features", "logits")
        self.num_seen = 0
        self.matrix = torch.randn(48, dim, generator=torch.Generator().manual_seed(len(weights)), dtype=torch.float64)

    def preprocess(self, images: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 4)

    def forward(self, inputs: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        self.num_seen += len(inputs)
        features = (inputs.flatten(1).double() @ self.matrix).float()
        results = {"features": features, "logits": features[:, :10] * 3}
        return {name: results[name] for name in outputs}


def images(count: int = 60, seed: int = 0, side: int = 16) -> np.ndarray:
    """uint8 [count, side, side, 3]."""
    return np.stack([procedural.draw(seed, i, side) for i in range(count)])


def npz(path: Path, array: np.ndarray, **more: np.ndarray) -> Path:
    """An ADM-style file."""
    np.savez(path, arr_0=array, **more)
    return path


def folder(path: Path, array: np.ndarray) -> Path:
    """PNG files, in order."""
    path.mkdir()
    for index, image in enumerate(array):
        Image.fromarray(image).save(path / f"{index:04d}.png")
    return path
