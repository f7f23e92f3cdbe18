"""The networks of `fd_loss_cifar.py`: two generators and a classifier, for images of 32 x 32; no script."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from post_training import MIN_TIME, WARMUP_STEPS, cosine
from torch import Tensor, nn

LATENTS = 128


class Classifier(nn.Module):
    """Images [B, 3, 32, 32] in [0, 1] -> logits [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        stages = []
        for before, after in ((3, 32), (32, 64), (64, 128)):
            stages += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(8, after), nn.SiLU(), nn.AvgPool2d(2)]
        self.stages = nn.Sequential(*stages, nn.Conv2d(128, 128, 3, padding=1), nn.SiLU())
        self.last = nn.Linear(128, 10)

    def features(self, images: Tensor) -> Tensor:
        return self.stages(2 * images - 1).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.features(images))


def fit_classifier(network: Classifier, images: Tensor, labels: Tensor, epochs: int = 5) -> None:
    """In place: AdamW with a cosine, images mirrored at random."""
    steps = epochs * (len(images) // 64)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * cosine(step / steps)
        chosen = torch.randint(len(images), (64,))
        batch = images[chosen]
        batch = torch.where(torch.rand(64, 1, 1, 1) < 0.5, batch, batch.flip(3))
        optimizer.zero_grad()
        F.cross_entropy(network(batch), labels[chosen]).backward()
        optimizer.step()


class Decoder(nn.Module):
    """The one-step generator: noise [B, 128] -> images [B, 3, 32, 32] in [0, 1]."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        half = width // 2
        self.first = nn.Linear(LATENTS, 16 * width)
        self.ups = nn.ModuleList(
            [
                nn.ConvTranspose2d(width, width, 4, 2, 1),
                nn.Conv2d(width, width, 3, padding=1),
                nn.ConvTranspose2d(width, half, 4, 2, 1),
                nn.Conv2d(half, half, 3, padding=1),
            ]
        )
        self.last = nn.Conv2d(half, 12, 3, padding=1)

    def forward(self, noise: Tensor) -> Tensor:
        h = F.silu(self.first(noise)).view(len(noise), -1, 4, 4)
        for up, mix in zip(self.ups[::2], self.ups[1::2], strict=True):
            h = F.silu(up(h))
            h = h + F.silu(mix(h))
        return torch.sigmoid(F.pixel_shuffle(self.last(h), 2))


class Vae(nn.Module):
    """A variational autoencoder of images [B, 3, 32, 32] in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, 48, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(48, 96, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(96, 96, 4, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(16 * 96, 2 * LATENTS),
        )
        self.decoder = Decoder()

    def loss(self, images: Tensor) -> Tensor:
        """Minus the evidence bound, a constant apart, for pixels of standard deviation 0.1."""
        mean, log_variance = self.encoder(2 * images - 1).chunk(2, 1)
        shown = self.decoder(mean + torch.randn_like(mean) * (log_variance / 2).exp())
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return (shown - images).square().sum((1, 2, 3)).mean() / (2 * 0.1**2) + divergence


def fit_vae(network: Vae, images: Tensor, steps: int) -> None:
    """In place."""
    optimizer = torch.optim.AdamW(network.parameters())
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min(1, (step + 1) / WARMUP_STEPS) * cosine(step / steps)
        loss = network.loss(images[torch.randint(len(images), (64,))])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class Block(nn.Module):
    """A residual block that time scales and shifts."""

    def __init__(self, width: int, time_width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(2))
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(time_width, 2 * width)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.modulation(time)[:, :, None, None].chunk(2, dim=1)
        h = self.first(F.silu(self.norms[0](x)))
        return x + self.last(F.silu(self.norms[1](h) * (1 + scale) + shift))


class UNet(nn.Module):
    """A velocity network for images [B, 3, 32, 32] in [-1, 1], of x and t, that predicts the image within.

    It works on 2 x 2 patches at 16 x 16 and 8 x 8. Used once at t = 1, it returns the image that it predicts.
    """

    def __init__(self, width: int = 32, time_width: int = 128) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(64, time_width), nn.SiLU(), nn.Linear(time_width, time_width), nn.SiLU())
        self.first = nn.Conv2d(12, width, 3, padding=1)
        self.fine = nn.ModuleList(Block(width, time_width) for _ in range(2))
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.coarse = nn.ModuleList(Block(2 * width, time_width) for _ in range(4))
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join = nn.Conv2d(2 * width, width, 1)
        self.finer = nn.ModuleList(Block(width, time_width) for _ in range(2))
        self.norm = nn.GroupNorm(8, width)
        self.last = nn.Conv2d(width, 12, 3, padding=1)

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """The image within x."""
        angles = t[:, None] * torch.exp(torch.linspace(0, math.log(100), 32))
        time = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        h = self.first(F.pixel_unshuffle(x, 2))
        for block in self.fine:
            h = block(h, time)
        kept = h
        h = self.down(h)
        for block in self.coarse:
            h = block(h, time)
        h = self.join(torch.cat([self.up(h), kept], dim=1))
        for block in self.finer:
            h = block(h, time)
        return F.pixel_shuffle(self.last(F.silu(self.norm(h))), 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return (x - self.predict(x, t)) / t.clamp_min(MIN_TIME).view(-1, 1, 1, 1)
