"""The networks that the commands of `recipes.py` name: generators as `--arch`, encoders as `--reps py:...`.

The encoders read their weights from the folder that the environment variable FDR_RECIPE_WEIGHTS names.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from gan_networks import CLASSES, LATENT, cdcgan_layers, dcgan_layers, efficientnet
from squeezenet import SqueezeNetEncoder
from torch import Tensor, nn


class Faces(nn.Module):
    """A DCGAN: noise [B, 100] -> faces [B, 3, 64, 64]."""

    noise_shape, value_range = (LATENT,), (-1.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.main = dcgan_layers()

    def forward(self, noise: Tensor) -> Tensor:
        return self.main(noise[:, :, None, None])


class Eyes(nn.Module):
    """A conditional DCGAN: noise [B, 100] and labels [B] -> eyes [B, 3, 128, 128] of 8 classes."""

    noise_shape, num_classes, value_range = (LATENT,), CLASSES, (-1.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.main = cdcgan_layers()

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return self.main(torch.cat([noise, F.one_hot(labels, CLASSES)], 1)[:, :, None, None])


def _weights(name: str) -> Path:
    return Path(os.environ["FDR_RECIPE_WEIGHTS"]) / name


def squeezenet() -> nn.Module:
    """SqueezeNet at 64 px, which two cores bear: 512 features."""
    return SqueezeNetEncoder(_weights("squeezenet1_1.safetensors"), side=64)


class _At64(nn.Module):
    name = "efficientnet"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(F.interpolate(images, (64, 64), mode="bilinear", align_corners=False, antialias=True))


def held_out() -> nn.Module:
    """EfficientNet-Lite0 at 64 px: 1,280 features."""
    return _At64(efficientnet(_weights("efficientnet_lite0.safetensors")).requires_grad_(False))
