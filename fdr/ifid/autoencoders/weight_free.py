"""Autoencoders without weights: orthonormal transforms of blocks of pixels, whose decoding inverts their encoding.

They reconstruct images up to rounding (rFID is zero), and distances between latents equal distances between images.
They show what a metric of latents measures without any trained model.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdr.errors import InputError, unknown


class BlockTransform(nn.Module, ABC):
    """Images [B, 3, H, W] in [-1, 1] -> latents [B, 3 block^2, H / block, W / block], orthonormal, and back."""

    def __init__(self, block: int) -> None:
        super().__init__()
        self.block = block

    def encode(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if height % self.block or width % self.block:
            raise InputError(
                f"Images of {height}x{width} px cannot be cut into blocks of {self.block}x{self.block}; resize or crop "
                f"them to multiples of {self.block}, or name another block."
            )
        with torch.autocast(images.device.type, enabled=False):
            return self.forward_transform(images.float())

    def decode(self, latents: Tensor) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):
            return self.inverse_transform(latents.float())

    @abstractmethod
    def forward_transform(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> latents [B, 3 block^2, H / block, W / block]."""

    @abstractmethod
    def inverse_transform(self, latents: Tensor) -> Tensor:
        """The inverse."""


class PixelUnshuffle(BlockTransform):
    """Pixels as they are: channel (c, y, x) is pixel (y, x) of each block of colour c."""

    def forward_transform(self, images: Tensor) -> Tensor:
        return F.pixel_unshuffle(images, self.block)

    def inverse_transform(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(latents, self.block)


class BlockCosine(BlockTransform):
    """The orthonormal DCT-II of every block: channel (c, u, v) is frequency (u, v) of colour c, as in JPEG."""

    basis: Tensor

    def __init__(self, block: int) -> None:
        super().__init__(block)
        self.register_buffer("basis", cosine_basis(block).float())

    def forward_transform(self, images: Tensor) -> Tensor:
        return self._of_blocks(F.pixel_unshuffle(images, self.block), self.basis)

    def inverse_transform(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(self._of_blocks(latents, self.basis.T), self.block)

    def _of_blocks(self, packed: Tensor, basis: Tensor) -> Tensor:
        """D X D^T of the blocks X in the channels of `packed`."""
        blocks = packed.unflatten(1, (3, self.block, self.block))  # [B, 3, y, x, h, w]
        rows = torch.einsum("uy,bcyxhw->bcuxhw", basis, blocks)
        return torch.einsum("vx,bcuxhw->bcuvhw", basis, rows).flatten(1, 3)


class Haar(BlockTransform):
    """The Haar wavelet of `levels` levels: of each, averages go on to the next, three kinds of details stay.

    Channels: the last averages (3), then the details from coarse to fine, those of finer levels as blocks of pixels.
    """

    basis: Tensor

    def __init__(self, levels: int) -> None:
        super().__init__(2**levels)
        self.levels = levels
        signs = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
        self.register_buffer("basis", signs.float() / 2)  # over the pixels (0, 0), (0, 1), (1, 0), (1, 1)

    def forward_transform(self, images: Tensor) -> Tensor:
        averages, details = images, []
        for level in range(1, self.levels + 1):
            bands = F.pixel_unshuffle(averages, 2).unflatten(1, (3, 4))
            bands = torch.einsum("kp,bcphw->bkchw", self.basis, bands)
            averages = bands[:, 0]
            details.append(F.pixel_unshuffle(bands[:, 1:].flatten(1, 2), 2 ** (self.levels - level)))
        return torch.cat([averages, *reversed(details)], dim=1)

    def inverse_transform(self, latents: Tensor) -> Tensor:
        counts = [3, *(9 * 4**finer for finer in range(self.levels))]
        averages, *details = latents.split(counts, dim=1)
        for finer, detail in enumerate(details):
            bands = F.pixel_shuffle(detail, 2**finer).unflatten(1, (3, 3))
            bands = torch.cat([averages[:, None], bands], dim=1)
            averages = F.pixel_shuffle(torch.einsum("kp,bkchw->bcphw", self.basis, bands).flatten(1, 2), 2)
        return averages


def cosine_basis(size: int) -> Tensor:
    """The orthonormal DCT-II, float64 [size, size]: row u is the basis vector of frequency u."""
    u, x = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    basis = math.sqrt(2 / size) * torch.cos(math.pi * (2 * x + 1) * u / (2 * size))
    basis[0] /= math.sqrt(2)
    return basis


TRANSFORMS: dict[str, tuple[Callable[[int], BlockTransform], int, str]] = {
    "pixel-unshuffle": (PixelUnshuffle, 16, "side of a block"),
    "dct": (BlockCosine, 16, "side of a block"),
    "haar": (Haar, 4, "number of levels"),
}
"""By name: the constructor, the default of the number after the colon, and what that number is."""
_MOST = 64
"""The largest side of a block. Useful latents need far smaller ones; a larger limit costs memory for the DCT."""


def is_weight_free(name: str) -> bool:
    return name.partition(":")[0] in TRANSFORMS


def make_transform(name: str) -> tuple[str, BlockTransform]:
    """The full name and the transform of "dct", "dct:8", "haar:3", ...; raises `InputError` for other names."""
    kind, colon, number = name.partition(":")
    if kind not in TRANSFORMS:
        raise unknown("autoencoder", name, TRANSFORMS)
    make, usual, meaning = TRANSFORMS[kind]
    most = _MOST if kind != "haar" else int(math.log2(_MOST))
    if colon and not (number.isascii() and number.isdigit() and 1 <= int(number) <= most):
        raise InputError(
            f"Autoencoder {name!r}: the {meaning} is a whole number from 1 to {most}, as in {kind}:{usual}; "
            f"got {number!r}."
        )
    size = int(number) if colon else usual
    return f"{kind}:{size}", make(size)
