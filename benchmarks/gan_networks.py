"""Trained networks of benchmarks whose weights are files: two GANs, and two encoders of 1,280 and 2,048 features.

It is no script. `squeezenet.py` has a third encoder.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

LATENT = 100
CLASSES = 8
"""Of the conditional generator."""


def dcgan(weights: Path) -> nn.Module:
    """A DCGAN: z [B, 100, 1, 1] -> images [B, 3, 64, 64] in [-1, 1], for `dcgan_faces64.safetensors`."""
    return load_weights_of(dcgan_layers(), weights)


def dcgan_layers() -> nn.Sequential:
    """The network of `dcgan`, with random weights."""
    return _upsampling((LATENT, 512, 256, 128, 64))


def cdcgan(weights: Path) -> nn.Module:
    """A conditional DCGAN: z and a one-hot class, [B, 100 + 8, 1, 1] -> images [B, 3, 128, 128] in [-1, 1].

    It is for `cdcgan_eyes128_f16.safetensors`; its weights become float32.
    """
    return load_weights_of(cdcgan_layers(), weights)


def cdcgan_layers() -> nn.Sequential:
    """The network of `cdcgan`, with random weights."""
    return _upsampling((LATENT + CLASSES, 1024, 512, 256, 128, 64), nn.Dropout(0.2))


def load_weights_of(network: nn.Module, weights: Path) -> nn.Module:
    """Load the weights of a GAN, as float32; the network is then in eval mode."""
    network.load_state_dict({name.removeprefix("main."): value.float() for name, value in load_file(weights).items()})
    return network.eval()


def _upsampling(widths: tuple[int, ...], *after_first: nn.Module) -> nn.Sequential:
    """Transposed convolutions from 1 x 1 to 4 x 4 and then to twice the side each."""
    layers: list[nn.Module] = []
    for number, (width, wider) in enumerate(itertools.pairwise(widths)):
        stride, padding = (1, 0) if number == 0 else (2, 1)
        layers += [nn.ConvTranspose2d(width, wider, 4, stride, padding, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
        layers += after_first if number == 0 else ()
    return nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1, bias=False), nn.Tanh())


def efficientnet(weights: Path) -> nn.Module:
    """EfficientNet-Lite0 under timm's names: images [B, 3, H, W] in [0, 1] -> [B, 1280]."""
    import timm

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    network.load_state_dict(load_file(weights), strict=False)
    network.reset_classifier(0)
    return nn.Sequential(_Affine(), network).eval()


def inception(weights: Path) -> nn.Module:
    """A Keras Inception-v3 under torchvision's names: images [B, 3, H, W] in [0, 1] -> [B, 2048].

    It was fine-tuned for another task: it is not the network of FID.
    """
    from torchvision.models import inception_v3

    network = inception_v3(weights=None, aux_logits=False, transform_input=False, init_weights=False)
    network.fc = nn.Identity()
    network.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    for block in network.children():
        if hasattr(block, "branch_pool"):
            block.branch_pool = nn.Sequential(_PaddingLeftOut(), block.branch_pool)
    return network.eval()


class _Affine(nn.Module):
    """[0, 1] to [-1, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        return 2 * images - 1


class _PaddingLeftOut(nn.Module):
    """Means of 3 x 3 that counted the padding's zeros, turned into means of what lies inside the image."""

    def forward(self, means: Tensor) -> Tensor:
        return means / F.avg_pool2d(torch.ones_like(means[:1, :1]), 3, stride=1, padding=1)
