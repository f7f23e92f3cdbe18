"""`load_autoencoder` and `as_autoencoder`: names, files, folders and objects become `LoadedAutoencoder`s."""

from __future__ import annotations

import os
from typing import Any

import torch

from fdr import runtime
from fdr.autoencoders import weight_free
from fdr.autoencoders.base import AutoencoderSpec, LoadedAutoencoder
from fdr.autoencoders.objects import AutoencoderOptions, wrap, wrap_object
from fdr.errors import unknown


def load_autoencoder(
    name: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    posterior: str | None = None,
    seed: int = 0,
    value_range: tuple[float, float] | None = None,
    dtype: str = "float32",
    tf32: bool = False,
) -> LoadedAutoencoder:
    """The autoencoder `name`, in eval mode on `device`."""
    return _load(os.fspath(name), AutoencoderOptions(device, posterior, seed, value_range, dtype, tf32))


def as_autoencoder(
    item: Any,
    *,
    device: str | torch.device | None = None,
    posterior: str | None = None,
    seed: int = 0,
    value_range: tuple[float, float] | None = None,
    dtype: str = "float32",
    tf32: bool = False,
) -> LoadedAutoencoder:
    """Whatever there is as an autoencoder: a name, a path, an object with `encode` and `decode`, or a loaded one.

    `encode` takes images [B, 3, H, W] in the value range and returns latents or a distribution over them, `decode`
    takes latents and returns images, each in one of the forms that `posterior.py` reads. A module is switched to eval
    mode and moved to `device` (None: it stays); its latents may be cached under a digest of its weights and source.
    Those of another object may not, unless it carries an `AutoencoderSpec` as its attribute `spec`. A loaded
    autoencoder is returned as it is: its options were given when it was loaded.

    Raises `InputError` for an object of another kind, and what `load_autoencoder` raises.
    """
    if isinstance(item, LoadedAutoencoder):
        return item
    options = AutoencoderOptions(device, posterior, seed, value_range, dtype, tf32)
    if isinstance(item, str | os.PathLike):
        return _load(os.fspath(item), options)
    return wrap_object(item, options)


def _load(name: str, options: AutoencoderOptions) -> LoadedAutoencoder:
    if options.device is None:
        options = AutoencoderOptions(**{**vars(options), "device": runtime.resolve_device(None)})
    if weight_free.is_weight_free(name):
        full_name, transform = weight_free.make_transform(name)
        spec = AutoencoderSpec(name=name, family="weight-free", model=full_name, weights="none")
        return wrap(transform, spec, options)
    raise unknown("autoencoder", name, weight_free.TRANSFORMS)
