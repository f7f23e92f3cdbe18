"""What the calls of this room are given beside their images: how networks are loaded, and how features are kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fdr.encoders import AbstractEncoder, EncoderOptions, load_encoders
from fdr.features import ExtractionOptions
from fdr.ifid.autoencoders.base import LoadedAutoencoder
from fdr.ifid.autoencoders.loading import open_autoencoder
from fdr.ifid.autoencoders.objects import AutoencoderOptions
from fdr.metrics import Lpips, load_lpips
from fdr.runtime import SOLO, Group, Progress, as_path, as_progress

Encoders = str | AbstractEncoder | Any


@dataclass(frozen=True)
class Setup:
    """How the encoders, the autoencoder and LPIPS of a call are loaded, and how features are kept."""

    networks: EncoderOptions
    extraction: ExtractionOptions

    @classmethod
    def of(
        cls,
        encoder_options: EncoderOptions | None,
        cache: str | os.PathLike[str] | None,
        batch_size: int | None,
        num_workers: int | None,
        progress: Progress | bool | None,
        group: Group = SOLO,
    ) -> Setup:
        """From the arguments of a call."""
        shown = as_progress(progress)
        folder = None if cache is None else as_path(cache, "the cache")
        extraction = ExtractionOptions(folder, batch_size, num_workers, shown, group=group)
        return cls((encoder_options or EncoderOptions()).shown_by(shown), extraction)

    def encoders(self, given: Encoders | Sequence[Encoders]) -> list[AbstractEncoder]:
        return load_encoders(list(given) if isinstance(given, list | tuple) else given, self.networks, None)

    def autoencoder(self, given: Any, **more: Any) -> LoadedAutoencoder:
        return open_autoencoder(given, like_encoders(self.networks, **more))

    def lpips(self, is_wanted: bool) -> Lpips | None:
        if not is_wanted:
            return None
        return load_lpips(self.networks, device=self.networks.device, tf32=self.networks.tf32)


def like_encoders(options: EncoderOptions, **more: Any) -> AutoencoderOptions:
    """Options of an autoencoder that is searched for, and runs, like the encoders; `more` are options of its own."""
    names = ("weights_dir", "offline", "progress", "device", "dtype", "tf32")
    return AutoencoderOptions(**{name: getattr(options, name) for name in names}, **more)
