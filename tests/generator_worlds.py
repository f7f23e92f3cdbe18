"""Small generators: unconditional and conditional, as classes, factories and files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from fdr.generators import Generator
from fdr.generators.base import GeneratorSpec


class Plain(nn.Module):
    """Noise [B, 8] -> one channel in (0, 1)."""

    def __init__(self, width: int = 6, side: int = 8) -> None:
        super().__init__()
        self.noise_shape, self.side = (8,), side
        self.first = nn.Linear(8, width)
        self.last = nn.Linear(width, side * side)

    def forward(self, noise: Tensor) -> Tensor:
        return torch.sigmoid(self.last(torch.tanh(self.first(noise)))).unflatten(1, (1, self.side, self.side))


class Classes(nn.Module):
    """Noise [B, 2, 4, 4] and labels -> three channels in (-1, 1); a class has a colour."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.noise_shape, self.num_classes, self.value_range = (2, 4, 4), num_classes, (-1.0, 1.0)
        self.colour = nn.Embedding(num_classes, 3)
        self.conv = nn.Conv2d(2, 3, 3, padding=1)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return torch.tanh(self.conv(noise) + self.colour(labels)[:, :, None, None])


class Scripted(nn.Module):
    """A conditional generator that TorchScript can take, with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.noise_shape, self.num_classes = (2, 3), 4
        self.table = nn.Embedding(4, 6)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return torch.sigmoid(noise.flatten(1) * self.table(labels)).reshape(-1, 1, 2, 3)


def build(**arguments: int):  # no annotation: what a user writes
    return Plain(**arguments)


def build_annotated(width: int = 6) -> Plain:
    return Plain(width)


def broken() -> Plain:
    raise RuntimeError("no luck")


def no_network() -> int:
    return 3


def seeded(kind: type[nn.Module] = Plain, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return kind()


def generator(kind: type[nn.Module] = Plain, seed: int = 0) -> Generator:
    """A generator in memory."""
    spec = GeneratorSpec((8,)) if kind is Plain else GeneratorSpec((2, 4, 4), 5, (-1.0, 1.0))
    return Generator(seeded(kind, seed).eval(), spec)


def weights(path: Path, kind: type[nn.Module] = Plain, seed: int = 0) -> Path:
    """A .safetensors file of a seeded network."""
    from safetensors.torch import save_file

    save_file(seeded(kind, seed).state_dict(), path)
    return path
