"""Latents of an image set: encoded once into the cache, shard by shard, and read back by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fdr.encoders import AbstractRowEncoder, EncoderSpec
from fdr.errors import InputError
from fdr.features import SHARD_SIZE, Extraction, ExtractionOptions, FeatureCache, item_size
from fdr.ifid.autoencoders.base import LoadedAutoencoder
from fdr.images import BadImage, ImageSource

if TYPE_CHECKING:
    from pathlib import Path

OUTPUT = "latent"
SHARD_BYTES = 256 * 2**20
"""Most that a shard of float32 latents takes: wide latents are kept in shards of fewer images."""
MIN_SHARD_SIZE = 32
NEIGHBOUR_ROWS = 2**32
"""Added to the rows of a neighbours' set of its own, so that no neighbour shares the posterior noise of a query."""


class LatentEncoder(AbstractRowEncoder):
    """An autoencoder's encoder as an encoder: images of one size -> flattened latents, posterior noise by row.

    Latents are always kept, those of an autoencoder that cannot be told from another in a folder for the run alone.
    """

    def __init__(
        self, autoencoder: LoadedAutoencoder, size: tuple[int, int], stored_dtype: str, is_neighbours: bool = False
    ) -> None:
        self.autoencoder = autoencoder
        about = autoencoder.spec
        self.first_row = NEIGHBOUR_ROWS if is_neighbours and about.posterior == "sample" else 0
        self.size = size
        self.stored_dtype = stored_dtype
        self.device = autoencoder.device
        self.outputs = self.stored_outputs = (OUTPUT,)
        self.latent_shape = autoencoder.latent_shape(*size)
        rows = (("rows", "neighbours"),) if self.first_row else ()
        self.spec = EncoderSpec(
            name=f"latents of {about.name}",
            family="autoencoder",
            model=about.model,
            weights=about.weights,
            output=OUTPUT,
            dim=int(np.prod(self.latent_shape)),
            input_size=0,
            resize="none",
            mean=(),
            std=(),
            dtype=about.dtype,
            extra=(("autoencoder", about.hash), *rows, ("stored", stored_dtype)),
        )

    @property
    def shard_size(self) -> int:
        """Images per shard: a power of two, fewer where latents are wide."""
        fitting = SHARD_BYTES // (4 * self.spec.dim)
        return max(MIN_SHARD_SIZE, min(SHARD_SIZE, 1 << max(0, fitting.bit_length() - 1)))

    def preprocess(self, images: Tensor) -> Tensor:
        if tuple(images.shape[2:]) != self.size:
            found, wanted = (f"{width} x {height}" for height, width in (images.shape[2:], self.size))
            raise InputError(
                f"An autoencoder takes images of one size, and these are {wanted}, {found}, ...; bring them to one "
                "with --size (and --crop)."
            )
        return images

    def forward_rows(self, inputs: Tensor, outputs: Sequence[str], rows: Sequence[int]) -> dict[str, Tensor]:
        return {OUTPUT: self.autoencoder.encode(inputs, [self.first_row + row for row in rows]).flatten(1)}


@dataclass(frozen=True)
class Latents:
    """The latents of the images of one set that decoded. Satisfies `LatentRows` of the neighbour search."""

    source: ImageSource
    entry: FeatureCache
    latent_shape: tuple[int, ...]
    good: np.ndarray
    """int64 [n]: the rows of the selection that have latents."""
    pixels: np.ndarray | None
    """uint64 [num_rows]: a digest of every image's pixels, 0 for bad ones; None where it is not known."""

    @property
    def num_rows(self) -> int:
        """Rows of the selection, bad ones included."""
        return self.entry.num_rows

    @property
    def dim(self) -> int:
        """Width of a flattened latent."""
        return int(np.prod(self.latent_shape))

    def shards(self) -> Sequence[tuple[int, int]]:
        """(start, stop) of all shards."""
        return self.entry.ranges

    def read(self, start: int, stop: int) -> tuple[np.ndarray, Tensor]:
        """Rows [n] and latents [n, D] of a shard, in the dtype they are stored in."""
        return self.entry.read_tensor(start, stop, OUTPUT)


class LatentReader:
    """Latents of consecutive positions among the good rows, one shard in memory at a time."""

    def __init__(self, latents: Latents) -> None:
        self._latents = latents
        self._held: tuple[int, Tensor] | None = None

    def at(self, start: int, stop: int) -> Tensor:
        """float32 [stop - start, *latent_shape] of the good images start..stop."""
        rows = self._latents.good[start:stop]
        parts, done = [], 0
        while done < len(rows):
            first, shard = self._shard_with(int(rows[done]))
            take = min(len(rows) - done, first + len(shard) - (start + done))
            parts.append(shard[start + done - first : start + done - first + take].float())
            done += take
        return torch.cat(parts).reshape(-1, *self._latents.latent_shape)

    def _shard_with(self, row: int) -> tuple[int, Tensor]:
        """The shard that a row lies in, and the position of its first good row."""
        size = self._latents.entry.shard_size
        at = row - row % size
        first = int(np.searchsorted(self._latents.good, at))
        if self._held is None or self._held[0] != first:
            self._held = first, self._latents.read(at, min(at + size, self._latents.num_rows))[1]
        return self._held


def encode(encoder: LatentEncoder, source: ImageSource, options: ExtractionOptions, folder: Path) -> Latents:
    """Encode what is missing of `source` into the cache `folder`; every rank gets all of it."""
    options = replace(options, cache=folder, moments_only=False, shard_size=encoder.shard_size)
    extraction = Extraction(source, [encoder], options=options)
    if not extraction.is_complete:
        for _ in extraction:
            pass
    options.group.gather(None)  # what others have encoded is published
    entry = extraction.entries[encoder.spec.name]
    assert entry is not None
    entry.missing()  # and seen here
    bad = [BadImage(*image) for image in entry.bad]
    source.check_bad(bad, entry.num_rows)
    good = np.setdiff1d(np.arange(entry.num_rows), [image.row for image in bad])
    return Latents(source, entry, encoder.latent_shape, good, _pixel_digests(extraction, entry.num_rows))


def _pixel_digests(extraction: Extraction, num_rows: int) -> np.ndarray | None:
    noted = extraction.images
    if noted is None:
        return None
    digests = np.zeros(num_rows, np.uint64)
    digests[noted["row"]] = noted["digest"]
    return digests


def stored_bytes(encoder: LatentEncoder, count: int) -> int:
    """Bytes that the latents of `count` images take on disk."""
    return count * encoder.spec.dim * item_size(encoder.stored_dtype)
