"""SqueezeNet 1.1, a small ImageNet network that runs on any machine, as an encoder for benchmarks.

Its weights are a file under torchvision's key names, `squeezenet1_1.safetensors`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SqueezeNet(torch.nn.Module):
    """SqueezeNet 1.1 up to the last fire module, under torchvision's key names; images [B, 3, H, W] -> [B, 512]."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        widths = [(64, 16, 64), (128, 16, 64), None, (128, 32, 128), (256, 32, 128), None]
        widths += [(256, 48, 192), (384, 48, 192), (384, 64, 256), (512, 64, 256)]
        layers: list[torch.nn.Module] = [torch.nn.Conv2d(3, 64, 3, 2), torch.nn.ReLU(), _pool()]
        layers += [_pool() if width is None else Fire(*width) for width in widths]
        self.features = torch.nn.Sequential(*layers)
        state = load_file(weights)
        self.load_state_dict({name: value for name, value in state.items() if name.startswith("features.")})
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.features(images).float().mean((2, 3))


class Fire(torch.nn.Module):
    """Squeeze by 1 x 1, expand by 1 x 1 and 3 x 3 (Iandola et al. 2016)."""

    def __init__(self, width: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = torch.nn.Conv2d(width, squeezed, 1)
        self.expand1x1 = torch.nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = torch.nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], 1)


def _pool() -> torch.nn.Module:
    return torch.nn.MaxPool2d(3, 2, ceil_mode=True)


class SqueezeNetEncoder(torch.nn.Module):
    """Images [B, 3, H, W] in [0, 1], resized to `side` -> [B, 512]; differentiable, its weights are not trained."""

    name = "squeezenet"

    def __init__(self, weights: Path, side: int = 224) -> None:
        super().__init__()
        self.network = SqueezeNet(weights).requires_grad_(False).to(memory_format=torch.channels_last)
        self.side = side
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def extra_repr(self) -> str:
        return f"side={self.side}"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        size = (self.side, self.side)
        resized = torch.nn.functional.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        normalised = (resized - self.mean) / self.std
        return self.network(normalised.contiguous(memory_format=torch.channels_last))
