"""Models with unusual latents: video models with a time axis, and latents that are packed for a transformer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdr.errors import InputError
from fdr.ifid.autoencoders.base import SIGNED, UNIT, Codec
from fdr.ifid.autoencoders.posterior import Posterior, read_images, read_posterior


@dataclass(frozen=True)
class Layout:
    """How the images and latents of a model are laid out, and how it is usually used."""

    codec: Codec
    value_range: tuple[float, float] = SIGNED
    """Black and white, unless the model declares other values."""
    posterior: str = "sample"
    """The posterior if the user asks for none: "sample" or "mean"."""
    name: str = ""
    """"time-axis" or "packed"; empty for the usual layout."""


class OneFrame:
    """A video autoencoder: an image is a video of one frame, [B, 3, 1, H, W]."""

    def __init__(self, model: Codec) -> None:
        self._model = model

    def encode(self, images: Tensor) -> Posterior:
        posterior = read_posterior(self._model.encode(images.unsqueeze(2)), "the video autoencoder")
        std = None if posterior.std is None else _one_frame(posterior.std, "latents")
        return Posterior(_one_frame(posterior.mean, "latents"), std)

    def decode(self, latents: Tensor) -> Tensor:
        return _one_frame(read_images(self._model.decode(latents.unsqueeze(2)), "the video autoencoder"), "images")


class Packed:
    """FLUX.2: latents in blocks of 2x2 as channels, normalised by the running statistics of a batch norm.

    Channel (c, y, x) of a packed latent is entry (y, x) of each block of channel c; mean and standard deviation of it
    are sqrt(running_var + eps) and running_mean of `model.bn`.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def encode(self, images: Tensor) -> Posterior:
        posterior = read_posterior(self._model.encode(images), "AutoencoderKLFlux2")
        mean, std = self._statistics()
        packed_std = None if posterior.std is None else F.pixel_unshuffle(posterior.std.float(), 2) / std
        return Posterior((F.pixel_unshuffle(posterior.mean.float(), 2) - mean) / std, packed_std)

    def decode(self, latents: Tensor) -> Any:
        mean, std = self._statistics()
        return self._model.decode(F.pixel_shuffle(latents * std + mean, 2))

    def _statistics(self) -> tuple[Tensor, Tensor]:
        norm = self._model.bn
        return norm.running_mean[:, None, None], torch.sqrt(norm.running_var[:, None, None] + norm.eps)


def layout_of(model: Any) -> Layout:
    """The layout of a model, by its class, its attribute `value_range`, and its weights.

    A model with the weights of a convolution over three axes takes videos.
    """
    classes = {kind.__name__ for kind in type(model).__mro__}
    known = next((make(model) for name, make in _BY_CLASS.items() if name in classes), None)
    if known is None and _takes_videos(model):
        known = Layout(OneFrame(model), name="time-axis")
    return known or Layout(model)


_BY_CLASS: dict[str, Callable[[Any], Layout]] = {
    "AutoencoderKLFlux2": lambda model: Layout(Packed(model), posterior="mean", name="packed"),
    "AutoencoderRAE": lambda model: Layout(model, value_range=UNIT),
}
"""Layouts by the class name of diffusers, so that diffusers is not imported."""


def _takes_videos(model: Any) -> bool:
    return isinstance(model, nn.Module) and any(parameter.ndim == 5 for parameter in model.parameters())


def _one_frame(values: Tensor, what: str) -> Tensor:
    if values.ndim != 5 or values.shape[2] != 1:
        raise InputError(
            f"A video autoencoder, which takes images as videos of one frame, made {what} of shape {list(values.shape)}"
            "; expected one frame, [B, C, 1, h, w]."
        )
    return values.squeeze(2)
