"""The options that name an autoencoder, for the commands that measure one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fdr.cli import _options

if TYPE_CHECKING:
    from fdr.cli import _computing
    from fdr.ifid import LoadedAutoencoder
    from fdr.metrics import Lpips


@dataclass(frozen=True)
class Autoencoder:
    """Which autoencoder is measured, and how it is used."""

    vae: str | None
    vae_weights: Path | None
    vae_args: Mapping[str, object]
    posterior: str | None
    value_range: tuple[float, float] | None

    def load(self, setup: _computing.Setup, seed: int) -> LoadedAutoencoder:
        """Load the autoencoder. `seed` is for posterior samples."""
        from fdr.ifid import like_encoders, open_autoencoder

        assert self.vae is not None
        options = like_encoders(
            setup.encoder_options,
            weights=self.vae_weights,
            arguments=self.vae_args,
            posterior=self.posterior,
            seed=seed,
            value_range=self.value_range,
        )
        return open_autoencoder(self.vae, options)


def autoencoder(*, required: bool) -> _options.Decorator:
    """The options of `Autoencoder`, as the argument `autoencoder` of a command."""
    return _options.theme(
        "autoencoder",
        Autoencoder,
        _options.option(
            "--vae NAME|PATH|MODULE:FACTORY",
            "The autoencoder: haar, dct or pixel-unshuffle (they need no weights), a diffusers folder or hub name, a "
            "TorchScript or torch.export file, or a function that returns an object with encode and decode.",
            required=required,
        ),
        _options.option(
            "--vae-weights FILE",
            "Weights to load into the autoencoder of MODULE:FACTORY.",
            type=click.Path(path_type=Path),
        ),
        _options.option(
            "--vae-args KEY=VALUE",
            "Arguments for MODULE:FACTORY; values are JSON or text. May be repeated, or several given in quotes.",
            multiple=True,
            callback=_options.key_values,
        ),
        _options.option(
            "--posterior",
            "For an autoencoder that encodes to a distribution: take a sample of it (fixed by the seed and the index "
            "of the image) or its mean.  [default: what the autoencoder declares; sample for a KL autoencoder]",
            type=click.Choice(["sample", "mean"]),
        ),
        _options.value_range("-1:1", "autoencoder"),
    )


def lpips_of(setup: _computing.Setup) -> Lpips:
    from fdr.metrics import load_lpips

    options = setup.encoder_options
    return load_lpips(options, device=options.device, tf32=options.tf32)
