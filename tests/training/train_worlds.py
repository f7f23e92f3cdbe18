"""A small world to train in: a generator of 16 x 16 images with a factory, its weights, and reference moments."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from worlds import TinyEncoder, images

from fdr.frechet import Moments


class Net(nn.Module):
    """Noise [B, 6] -> images [B, 3, 16, 16] in (0, 1); with dropout, so that the run's own randomness matters."""

    def __init__(self, width: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.noise_shape = (6,)
        self.first = nn.Linear(6, width)
        self.drop = nn.Dropout(dropout)
        self.last = nn.Linear(width, 3 * 8 * 8)

    def forward(self, noise: Tensor) -> Tensor:
        small = torch.sigmoid(self.last(self.drop(torch.tanh(self.first(noise))))).unflatten(1, (3, 8, 8))
        return nn.functional.interpolate(small, scale_factor=2)


def tiny() -> TinyEncoder:
    """An encoder that `py:train_worlds:tiny` names."""
    return TinyEncoder("py:train_worlds:tiny")


def other() -> TinyEncoder:
    """Another one, to be watched."""
    return TinyEncoder("py:train_worlds:other", weights="seed:11")


def weights(folder: Path, **arguments: float) -> Path:
    """Weights of a seeded `Net`, in a file."""
    torch.manual_seed(0)
    path = folder / "weights.safetensors"
    save_file(Net(**arguments).state_dict(), path)  # type: ignore[arg-type]
    return path


def reference(folder: Path) -> Path:
    """Moments of drawn images under `tiny`."""
    path = folder / "moments.npz"
    features = tiny()(torch.from_numpy(images(80)).permute(0, 3, 1, 2) / 255)["features"]
    Moments.from_features(features).save(path)
    return path


class ClassNet(nn.Module):
    """Noise [B, 4] and labels of 5 classes -> one channel in (-1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.noise_shape, self.num_classes, self.value_range = (4,), 5, (-1.0, 1.0)
        self.table = nn.Embedding(5, 4)
        self.last = nn.Linear(4, 256)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return torch.tanh(self.last(noise + self.table(labels))).unflatten(1, (1, 16, 16))


class DriftingNet(Net):
    """A `Net` that collapses onto a drifting mode after `healthy` training steps.

    All images of a step are then near one that `Net` makes, another one at every step, so that the images of many steps
    are those of a healthy network.
    """

    def __init__(self, healthy: int = 10) -> None:
        super().__init__()
        self.healthy = healthy
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, noise: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.steps += 1
        step = int(self.steps)
        if step <= self.healthy:
            return super().forward(noise)
        mode = torch.randn(1, 6, generator=torch.Generator().manual_seed(step))
        return super().forward(mode + 0.05 * noise)


def own_reference(folder: Path) -> Path:
    """Moments of what `Net` makes with `weights`, so that it has nothing left to learn."""
    path = folder / "own.npz"
    torch.manual_seed(0)
    with torch.no_grad():
        features = tiny()(Net()(torch.randn(4000, 6, generator=torch.Generator().manual_seed(3))))["features"]
    Moments.from_features(features).save(path)
    return path
