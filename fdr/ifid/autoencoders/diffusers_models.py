"""Autoencoders of diffusers: a repository of the hub, or a folder that `save_pretrained` wrote."""

from __future__ import annotations

from pathlib import Path

from fdr.encoders import EncoderOptions
from fdr.ifid.autoencoders.base import AutoencoderSpec, LoadedAutoencoder
from fdr.ifid.autoencoders.objects import AutoencoderOptions, wrap
from fdr.weights import load_model


def load(name: str, folder: Path | None, options: AutoencoderOptions) -> LoadedAutoencoder:
    """The model in `folder`, or of the repository `name`. Raises what `load_model` raises."""
    how = EncoderOptions(
        weights=options.weights,
        weights_dir=options.weights_dir,
        offline=options.offline,
        progress=options.progress,
    )
    found = load_model(name, folder, how)
    extra = (("config", found.config_digest),)
    return wrap(
        found.model, AutoencoderSpec(name, "diffusers", found.class_name, found.weights_digest, extra=extra), options
    )
