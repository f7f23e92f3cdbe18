"""Decoded latents as image sources: reconstructions, decoded neighbours, and interpolated images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from fdr.encoders import AbstractEncoder
from fdr.errors import InputError
from fdr.features import Extraction, ExtractionOptions
from fdr.ifid.autoencoders.base import LoadedAutoencoder
from fdr.ifid.interpolation import interpolate
from fdr.ifid.latents import LatentReader, Latents
from fdr.ifid.options import IfidOptions
from fdr.ifid.pairs import Paired, digest_of
from fdr.images import ImageOptions, ImageSource, MadeSource, Selected
from fdr.runtime import Group, Progress

Take = Callable[[int, int], Tensor]
"""A function (start, stop) -> latents [stop - start, *latent_shape] to decode, by position among readable images."""
RECONSTRUCTIONS, NEIGHBOURS = "reconstructions", "neighbours"


def between(alpha: float) -> str:
    """The name of the images interpolated at `alpha`."""
    return f"interpolated {alpha:g}"


class DecodedSource(MadeSource):
    """The images that an autoencoder decodes from the latents of `take`, one for each query that has a latent.

    `settings` holds all that decides the latents besides the autoencoder and the queries. Values are clamped to [0, 1]
    unless `is_clamped` is false, and rounded as `options.quantize` says.
    """

    kind = "decoded"

    def __init__(
        self,
        name: str,
        autoencoder: LoadedAutoencoder,
        queries: Latents,
        take: Take,
        settings: Mapping[str, Any],
        *,
        batch_size: int,
        options: ImageOptions,
        is_clamped: bool = True,
    ) -> None:
        ids = Selected(queries.source.ids, queries.rows)
        super().__init__(name, options, ids)
        self.autoencoder = autoencoder
        self.batch_size = batch_size
        self.is_clamped = is_clamped
        self._take = take
        self._identity = {
            **settings,
            "autoencoder": autoencoder.spec.hash,
            "images": queries.source.digest,
            "clamp": is_clamped,
        }

    def decoded(self, start: int, stop: int) -> Tensor:
        """Decode the images start..stop: float32 [stop - start, 3, H, W] on the CPU, clamped if `is_clamped`."""
        images = self.autoencoder.decode(self._take(start, stop).to(self.autoencoder.device))
        if not bool(images.isfinite().all()):
            raise InputError(
                f"{self.name}: the autoencoder decodes to values that are not finite among {self.ids[start]} to "
                f"{self.ids[stop - 1]}; check its weights, and --dtype float32."
            )
        return (images.clamp(0, 1) if self.is_clamped else images).cpu()

    def _made(self, start: int, stop: int) -> np.ndarray:
        return self.decoded(start, stop).numpy()

    def _content_digest(self, group: Group, progress: Progress) -> str | None:
        if not self.autoencoder.is_cacheable:
            return None
        return digest_of(self._identity)


def extraction_of(source: ImageSource, encoders: Sequence[AbstractEncoder], options: ExtractionOptions) -> Extraction:
    """A pass over given or decoded images; what an autoencoder without an identity decodes is not cached."""
    if isinstance(source, DecodedSource) and not source.autoencoder.is_cacheable:
        options = replace(options, cache=None)
    return Extraction(source, encoders, options=replace(options, moments_only=False))


def decoded_sources(
    autoencoder: LoadedAutoencoder,
    paired: Paired,
    neighbours_at: Take,
    options: IfidOptions,
    stored: str,
    batch_size: int,
) -> dict[str, DecodedSource]:
    """The sources of reconstructions, decoded neighbours, and interpolated images at each alpha above 0, by name.

    `neighbours_at` gives the latents of the drawn neighbours; `stored` identifies how they were encoded and stored.
    """
    own = LatentReader(paired.queries).at
    pairing = {"drawn": paired.drawn_digest, "references": paired.references.source.digest, "stored": stored}
    takes: dict[str, tuple[Take, dict[str, Any]]] = {
        RECONSTRUCTIONS: (own, {}),
        NEIGHBOURS: (neighbours_at, {**pairing, "mode": "neighbours"}),
    }
    for alpha in options.decoded_alphas:
        used = options.used_alpha(alpha)
        rows = {"rows": "floor"} if options.mode == "mask" else {}
        settings = {**pairing, "mode": options.mode, "alpha": used, **rows}
        takes[between(alpha)] = _mixed(own, neighbours_at, options.mode, used), settings
    made = partial(
        DecodedSource,
        autoencoder=autoencoder,
        queries=paired.queries,
        batch_size=batch_size,
        options=ImageOptions(quantize=options.quantize),
        is_clamped=options.clamp,
    )
    name = paired.queries.source.name
    return {kind: made(f"{name} ({kind})", take=take, settings=settings) for kind, (take, settings) in takes.items()}


def reconstructions(autoencoder: LoadedAutoencoder, latents: Latents, batch_size: int) -> DecodedSource:
    """What the autoencoder decodes from the latents of images, clamped and quantised as these."""
    name, take = f"{latents.source.name} ({RECONSTRUCTIONS})", LatentReader(latents).at
    options = ImageOptions(quantize=latents.source.options.quantize)
    return DecodedSource(name, autoencoder, latents, take, {}, batch_size=batch_size, options=options)


def _mixed(own: Take, neighbours_at: Take, mode: str, alpha: float) -> Take:
    return lambda start, stop: interpolate(mode, own(start, stop), neighbours_at(start, stop), alpha)
