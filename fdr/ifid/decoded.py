"""Decoded latents as sources of images: reconstructions, neighbours, and what lies between."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdr.autoencoders.base import LoadedAutoencoder
from fdr.errors import InputError
from fdr.ifid.latents import Latents
from fdr.images import ImageOptions
from fdr.images.base import Selected
from fdr.images.made import MadeSource

Take = Callable[[int, int], Tensor]
"""Latents [stop - start, *latent_shape] to decode, of the good images start..stop."""


class DecodedSource(MadeSource):
    """What an autoencoder decodes `take` to, one image for every query that has a latent.

    `facts` tell all that decides the latents, beside the autoencoder and the queries. Values are clamped to [0, 1] and,
    with `options.quantize`, rounded, unless `is_clamped` is false.
    """

    kind = "decoded"

    def __init__(
        self,
        name: str,
        autoencoder: LoadedAutoencoder,
        queries: Latents,
        take: Take,
        facts: Mapping[str, Any],
        *,
        batch_size: int,
        options: ImageOptions,
        is_clamped: bool = True,
    ) -> None:
        ids = Selected(queries.source.ids, queries.good)
        super().__init__(name, options, ids)
        self.autoencoder = autoencoder
        self.batch_size = batch_size
        self.is_clamped = is_clamped
        self._take = take
        self._facts_of_latents = {
            **facts,
            "autoencoder": autoencoder.spec.hash,
            "images": queries.source.digest,
            "clamp": is_clamped,
        }

    def decoded(self, start: int, stop: int) -> Tensor:
        """float32 [stop - start, 3, H, W] on the CPU, clamped if that is wanted."""
        images = self.autoencoder.decode(self._take(start, stop).to(self.autoencoder.device))
        if not bool(images.isfinite().all()):
            raise InputError(
                f"{self.name}: the autoencoder decodes to values that are not finite among {self.ids[start]} to "
                f"{self.ids[stop - 1]}; check its weights, and --dtype float32."
            )
        return (images.clamp(0, 1) if self.is_clamped else images).cpu()

    def _made(self, start: int, stop: int) -> np.ndarray:
        return self.decoded(start, stop).numpy()

    def _content_digest(self) -> str | None:
        if not self.autoencoder.is_cacheable:
            return None
        return hashlib.sha256(json.dumps(self._facts_of_latents, sort_keys=True).encode()).hexdigest()
