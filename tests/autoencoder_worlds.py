"""Small autoencoders of every kind of output, as objects and as factories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class Plain(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] -> latents [B, 4, H/4, W/4]; deterministic."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, width, 4, stride=4)
        self.up = nn.ConvTranspose2d(width, 3, 4, stride=4)

    def encode(self, images: Tensor) -> Any:
        return self.down(images)

    def decode(self, latents: Tensor) -> Any:
        return torch.tanh(self.up(latents))


class Gaussian(Plain):
    """The same with a posterior, in the form that `form` names."""

    def __init__(self, form: str = "dict", width: int = 4) -> None:
        super().__init__(width)
        self.form = form
        self.logvar = nn.Conv2d(3, width, 4, stride=4)

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.down(images), self.logvar(images)

    def encode(self, images: Tensor) -> Any:
        return FORMS[self.form](*self.moments(images))


@dataclass
class Distribution:
    """As CompVis has it."""

    mean: Tensor
    logvar: Tensor

    @property
    def std(self) -> Tensor:
        return torch.exp(0.5 * self.logvar)

    def sample(self) -> Tensor:
        raise AssertionError("noise is ours")

    def mode(self) -> Tensor:
        return self.mean


@dataclass
class Output:
    """As diffusers has it."""

    latent_dist: Any


FORMS: dict[str, Any] = {
    "dict": lambda mean, logvar: {"mean": mean, "logvar": logvar},
    "dict of std": lambda mean, logvar: {"mean": mean, "std": torch.exp(0.5 * logvar)},
    "distribution": Distribution,
    "torch": lambda mean, logvar: torch.distributions.Normal(mean, torch.exp(0.5 * logvar)),
    "output": lambda mean, logvar: Output(Distribution(mean, logvar)),
    "tuple": lambda mean, logvar: (Distribution(mean, logvar), "rest"),
    "output in a tuple": lambda mean, logvar: (Output(Distribution(mean, logvar)),),
}


def seeded(kind: type[nn.Module] = Plain, *arguments: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return kind(*arguments)


class ScriptedGaussian(nn.Module):
    """What TorchScript takes, in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.value_range = (0.0, 1.0)
        self.down = nn.Conv2d(3, 8, 4, stride=4)
        self.up = nn.ConvTranspose2d(4, 3, 4, stride=4)

    @torch.jit.export
    def encode(self, images: Tensor) -> dict[str, Tensor]:
        mean, logvar = self.down(images).chunk(2, dim=1)
        return {"mean": mean, "logvar": logvar}

    @torch.jit.export
    def decode(self, latents: Tensor) -> Tensor:
        return torch.sigmoid(self.up(latents))


class Halving:
    """No module: half the image, twice the latent."""

    def encode(self, images: Tensor) -> Tensor:
        return images / 2

    def decode(self, latents: Tensor) -> Tensor:
        return 2 * latents


def build(width: int = 4) -> Gaussian:
    return Gaussian("dict", width)


def make_codec():
    return Halving()


def broken():
    raise RuntimeError("no luck")


def no_model():
    return 3


def already():
    from fdr import load_autoencoder

    return load_autoencoder(Halving())
