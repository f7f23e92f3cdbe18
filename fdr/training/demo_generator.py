"""The generator of `fdr demo --train`: a small one-step network, its pretraining, and an encoder that sees pixels only.

The pretraining is that of a variational autoencoder (Kingma and Welling 2013, arXiv 1312.6114), stopped early, whose
decoder is kept. Such a decoder is a weak generator on purpose: blurred and pale, with something left to post-train.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdr.runtime import Progress

SIDE = 32
"""Pixels per side of its images."""
LATENT = 64
"""Numbers that say what is on the image; the rest of the noise is grain, one number a pixel."""
CELLS = 8
"""Cells per side that `Pixels` averages over."""
GRAIN_GAIN = 8.0
"""Of the weights of grain: AdamW moves all parameters alike, and a short run shall reach texture that can be seen."""
_WIDTHS = (64, 48, 32, 16)
"""Channels at 4, 8, 16 and 32 px."""


class Decoder(nn.Module):
    """Noise [B, 64 + 32 * 32] -> images [B, 3, 32, 32] in (0, 1), in one pass."""

    def __init__(self) -> None:
        super().__init__()
        self.noise_shape = (LATENT + SIDE * SIDE,)
        self.first = nn.Linear(LATENT, _WIDTHS[0] * 16)
        pairs = list(itertools.pairwise(_WIDTHS))
        self.convs = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairs)
        self.grain = nn.ParameterList(torch.zeros(after, 1, 1) for _, after in pairs)
        self.last = nn.Conv2d(_WIDTHS[-1], 3, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # 1.5 times as fast on a CPU  # type: ignore[call-overload]

    def forward(self, noise: Tensor) -> Tensor:
        latent, grain = noise.split([LATENT, SIDE * SIDE], 1)
        grain = grain.unflatten(1, (1, SIDE, SIDE))
        x = F.silu(self.first(latent)).unflatten(1, (-1, 4, 4))
        for conv, weight in zip(self.convs, self.grain, strict=True):
            x = conv(F.interpolate(x, scale_factor=2))
            cell = SIDE // x.shape[-1]
            coarse = cell * F.avg_pool2d(grain, cell)  # of variance 1, as grain itself
            x = F.silu(x + GRAIN_GAIN * weight * coarse)
        return torch.sigmoid(self.last(x))


class _Encoder(nn.Module):
    """Images [B, 3, 32, 32] -> mean and log variance [B, 64] of their latents."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 24), (24, 48), (48, 96)):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 16, 2 * LATENT))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.layers(2 * images - 1).chunk(2, 1)
        return mean, log_variance


class Pixels(nn.Module):
    """Images [B, 3, H, W] -> the mean colours [B, 192] of 8 x 8 cells: no network, layout and colour alone."""

    def forward(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, CELLS).flatten(1)


def pixels() -> Pixels:
    """The encoder `py:fdr.training.demo_generator:pixels`."""
    return Pixels()


@dataclass(frozen=True)
class Pretraining:
    """How the autoencoder is trained: Adam on the squared error of an image plus the divergence of its latents."""

    steps: int
    batch_size: int = 64
    lr: float = 2e-3
    divergence_weight: float = 1.0
    seed: int = 0


def pretrain(images: np.ndarray, options: Pretraining, device: torch.device, progress: Progress) -> Decoder:
    """The decoder of an autoencoder of uint8 images [N, 32, 32, 3], on the CPU. The same options give the same one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        encoder, decoder = _Encoder().to(device), Decoder().to(device)
    draw = torch.Generator().manual_seed(options.seed)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=options.lr)
    warmup = max(1, options.steps // 10)
    with progress.task("Pretraining", options.steps, "steps") as task:
        for step in range(options.steps):
            optimizer.param_groups[0]["lr"] = options.lr * min(1.0, (step + 1) / warmup)
            rows = torch.randint(len(images), (options.batch_size,), generator=draw)
            noise = torch.randn(options.batch_size, *decoder.noise_shape, generator=draw).to(device)
            loss = _bound(encoder, decoder, pixels[rows].to(device) / 255, noise, options.divergence_weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            task.advance()
    return decoder.cpu().eval()


def _bound(encoder: _Encoder, decoder: Decoder, images: Tensor, noise: Tensor, divergence_weight: float) -> Tensor:
    """Squared error + weight * KL(N(mean, variance) || N(0, 1)), summed over an image, averaged over the batch."""
    mean, log_variance = encoder(images)
    latent = mean + (log_variance / 2).exp() * noise[:, :LATENT]
    error = (decoder(torch.cat([latent, noise[:, LATENT:]], 1)) - images).square().sum((1, 2, 3))
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
    return (error + divergence_weight * divergence).mean()
