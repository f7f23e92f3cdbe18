"""LPIPS (Zhang et al. 2018): the distance of images in the features of AlexNet, as version 0.1 of the package lpips.

It needs two files: the weights of AlexNet that torchvision publishes, and the linear heads, which the package lpips
brings. Neither torchvision nor that package is imported.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fdr import runtime, weights
from fdr.errors import WeightsError
from fdr.metrics.image_quality import checked_pair
from fdr.weights import FoundWeights, WeightOptions, WeightsFile, lpips_files

NAME = "lpips"
MIN_LPIPS_SIDE = 31
"""Smallest side of an image: in smaller ones a pooling window of AlexNet does not fit."""

WIDTHS = (64, 192, 384, 256, 256)
"""Channels of the five layers that are compared, each after its ReLU."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's normalisation for images in [-1, 1], as LPIPS rounds it."""
EPSILON = 1e-10
"""Added to the length of a feature vector before it is divided by it."""


class AlexNetDistance(nn.Module):
    """Two batches in [-1, 1] -> [B]: squared differences of unit-length features, weighed by the heads, averaged."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        one, two, three, four, five = WIDTHS
        self.features = nn.Sequential(  # names and positions are torchvision's
            *(nn.Conv2d(3, one, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(one, two, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(two, three, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(three, four, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(four, five, 3, padding=1), nn.ReLU()),
        )
        self.heads = nn.ParameterList(torch.empty(1, width, 1, 1) for width in WIDTHS)
        self.register_buffer("shift", torch.tensor(SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        both = (torch.cat([x, y]) - self.shift) / self.scale
        distance = torch.zeros(len(x), device=x.device, dtype=torch.float64)
        heads = iter(self.heads)
        for layer in self.features:
            both = layer(both)
            if isinstance(layer, nn.ReLU):
                first, second = (both / (both.square().sum(1, keepdim=True).sqrt() + EPSILON)).chunk(2)
                distance += ((first - second).square() * next(heads)).sum(1).mean(dim=(1, 2))
        return distance


class Lpips:
    """A function of two batches of images, which `load_lpips` makes."""

    def __init__(self, network: AlexNetDistance, device: torch.device, digests: tuple[str, str] = ("", "")) -> None:
        self.device = device
        self.weights, self.heads = digests
        """sha256 of the two files."""
        self._network = network.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def __call__(self, images: Tensor, others: Tensor, any_range: bool = False) -> Tensor:
        """LPIPS of float images [B, 3, H, W] in [0, 1], float64 [B] on `device`; the network gets 2x - 1 in float32.

        Raises `InputError` as `fdr.metrics.image_quality.psnr` does, and for images below `MIN_LPIPS_SIDE`.
        """
        checked_pair(images, others, "LPIPS", MIN_LPIPS_SIDE, any_range=any_range)
        x, y = (2 * one.detach().to(self.device, torch.float32) - 1 for one in (images, others))
        return self._network(x, y)


def load_lpips(options: WeightOptions | None = None, *, device: str | None = None, tf32: bool = False) -> Lpips:
    """LPIPS with its published weights, on `device`.

    `options.weights` is the file of AlexNet. Files are found and fetched like those of encoders, and the heads are also
    found in an installed package lpips. Raises `WeightsError` that says what is missing and where to get it.
    """
    options = options or WeightOptions()
    runtime.set_tf32(tf32)
    alexnet_file, heads_file = lpips_files()
    heads = _find_heads(heads_file, options)  # the small file first: it fails before 244 MB are fetched
    alexnet = weights.resolve(alexnet_file, options, NAME)
    network = AlexNetDistance()
    _load(network, alexnet.path, heads.path)
    return Lpips(network, runtime.resolve_device(device), (alexnet.sha256, heads.sha256))


def _find_heads(file: WeightsFile, options: WeightOptions) -> FoundWeights:
    try:
        return weights.resolve(file, replace(options, weights=None), NAME)
    except WeightsError as error:
        raise WeightsError(f"{str(error).removesuffix('.')}; `pip install lpips` brings it too.") from error


def _load(network: AlexNetDistance, alexnet: Path, heads: Path) -> None:
    """Copy both files into `network`, which must fit exactly; the classifier of AlexNet is left out."""
    state = weights.load_state_dict(alexnet)
    layers = {name.removeprefix("features."): tensor for name, tensor in state.items() if "classifier." not in name}
    weights.load_into(network.features, layers, alexnet, NAME)
    state = weights.load_state_dict(heads)
    linear = {name.removeprefix("lin").removesuffix(".model.1.weight"): tensor for name, tensor in state.items()}
    weights.load_into(network.heads, linear, heads, NAME)
