"""The decoder of an AutoencoderKL (diffusers) as a fixed part of a latent generator."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fdr.errors import InputError
from fdr.weights import WeightOptions, digest_state, folder_of, is_repository, load_model

CLASS = "AutoencoderKL"


class LatentDecoder(nn.Module):
    """Latents [B, C, h, w], as the autoencoder itself makes them, -> images [B, 3, H, W] around [-1, 1].

    Its weights are constants, buffers that no state dict holds: they move with the generator, are neither trained nor
    averaged, and neither checkpoints nor run folders repeat them. What tells two decoders apart is the digest that
    `repr` shows, which makes it a part of the generator's own. With `has_scale`, latents come as diffusion models of
    diffusers make them: shifted and scaled by the factors of the autoencoder's configuration.
    """

    def __init__(self, autoencoder: Any, has_scale: bool = False) -> None:
        super().__init__()
        config = autoencoder.config
        self.scale = float(config.scaling_factor or 1.0) if has_scale else 1.0
        self.shift = float(getattr(config, "shift_factor", None) or 0.0) if has_scale else 0.0
        self.post_quant_conv = autoencoder.post_quant_conv or nn.Identity()
        self.decoder = autoencoder.decoder
        digest = hashlib.sha256()
        digest_state(self, digest)
        self.digest = digest.hexdigest()
        """sha256 over the weights."""
        _freeze(self)
        self.train(False)

    def forward(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents / self.scale + self.shift))

    def train(self, mode: bool = True) -> LatentDecoder:
        """It stays as it samples, whatever is trained around it."""
        return super().train(False)

    def extra_repr(self) -> str:
        scaled = "" if (self.scale, self.shift) == (1.0, 0.0) else f", scale={self.scale!r}, shift={self.shift!r}"
        return f"sha256={self.digest}{scaled}"


def load_decoder(source: str, channels: int, *, has_scale: bool = False) -> LatentDecoder:
    """The decoder of the autoencoder in a folder that `save_pretrained` wrote, or of a repository of the hub.

    `source` is a path, "owner/name" or "owner/name/folder"; a repository may end in "@revision". Its files are searched
    like those of encoders. Raises `InputError` if diffusers is not installed, if there is no such autoencoder, and if
    its latents do not have `channels` channels; `WeightsError` for files that are missing, damaged or do not fit.
    """
    place = Path(source).expanduser()
    folder = folder_of(place) if place.is_dir() else None
    if folder is None and (place.exists() or not is_repository(source)):
        raise InputError(
            f"There is no autoencoder {source!r}; name a folder that its save_pretrained wrote, or a repository of the "
            "hub as OWNER/NAME, with --arch-args vae=."
        )
    with torch.device("cpu"):
        found = load_model(source, folder, WeightOptions())
    config: Any = found.model.config
    if found.class_name != CLASS or config.latent_channels != channels:
        raise InputError(
            f"The autoencoder {source!r} is an {found.class_name} with latents of {config.latent_channels} channels; "
            f"the generator makes those of an {CLASS} with {channels}."
        )
    return LatentDecoder(found.model, has_scale)


def _freeze(module: nn.Module) -> None:
    """Make all parameters and buffers constants, without gradient and outside of state dicts."""
    for part in module.modules():
        for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            delattr(part, name)
            part.register_buffer(name, tensor.detach().clone(), persistent=False)  # off the mapped file
