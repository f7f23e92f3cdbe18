"""The networks of CAS: the residual networks for small images of He et al. (2016), and ResNet-50 of torchvision."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fdr.errors import InputError, first_line


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut without parameters (option A): subsampled, and padded with zeros."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.stride = 1 if width == width_in else 2
        self.conv1 = nn.Conv2d(width_in, width, 3, self.stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.added = width - width_in

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        shortcut = pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return (y + shortcut).relu()


class SmallResNet(nn.Module):
    """Depth 6 n + 2: a convolution, three stages of n blocks with 16, 32 and 64 channels, the mean over the pixels, and
    a linear layer (He et al. 2016, section 4.2). n = 9 is ResNet-56 with 0.85 M parameters.
    """

    def __init__(self, depth: int, num_classes: int) -> None:
        super().__init__()
        n, rest = divmod(depth - 2, 6)
        if rest or n < 1:
            raise InputError(f"A residual network for small images has 8, 14, 20, ... layers; got {depth}.")
        widths = [16] * (n + 1) + [32] * n + [64] * n
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in itertools.pairwise(widths)))
        self.last = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(self.norm(self.conv(x)).relu()).mean((2, 3)))


def build_network(name: str, num_classes: int, seed: int) -> nn.Module:
    """The network of a recipe, with initial weights of `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if name != "resnet50":
            return SmallResNet(int(name.removeprefix("resnet-")), num_classes)
        try:
            from torchvision.models import resnet50
        except Exception as error:  # a torchvision of another torch raises anything
            raise InputError(
                f"The recipe trains torchvision's ResNet-50, and torchvision failed to import: {first_line(error)}; "
                "install the torchvision that belongs to this torch."
            ) from error
        return resnet50(weights=None, num_classes=num_classes)
