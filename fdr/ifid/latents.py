"""The latents of an image set, which are encoded once into the cache and read back shard by shard."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fdr.encoders import AbstractRowEncoder, EncoderSpec
from fdr.errors import InputError
from fdr.features import SHARD_SIZE, Extraction, ExtractionOptions, FeatureCache, item_size
from fdr.ifid.autoencoders.base import LoadedAutoencoder
from fdr.images import BadImage, ImageSource
from fdr.neighbours import SetSizes, read_between

OUTPUT = "latent"
SHARD_BYTES = 256 * 2**20
"""The largest shard in float32. If latents are wide, shards hold fewer images, down to `MIN_SHARD_SIZE`."""
MIN_SHARD_SIZE = 32
NEIGHBOUR_ROWS = 2**32
"""Added to the row numbers of a separate set of neighbours, so that none shares its posterior noise with an image."""


class LatentEncoder(AbstractRowEncoder):
    """The encoder of an autoencoder as an `fdr` encoder: images of one size -> flattened latents.

    Posterior noise depends on the row of the image. Latents are always kept on disk; if nothing identifies the
    autoencoder, they are kept in a folder for this run alone.
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
        """Images per shard: a power of two, smaller if latents are wide."""
        fitting = SHARD_BYTES // (4 * self.spec.dim)
        return max(MIN_SHARD_SIZE, min(SHARD_SIZE, 1 << max(0, fitting.bit_length() - 1)))

    def sizes(self, count: int) -> SetSizes:
        """The sizes of the latents of `count` images, which a plan of the neighbour search needs."""
        return SetSizes(count, self.spec.dim, min(self.shard_size, count), item_size(self.stored_dtype))

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


def latents_folder(stack: ExitStack, autoencoder: LoadedAutoencoder, options: ExtractionOptions) -> Path:
    """The folder for latents: the cache, or a temporary one that is deleted when `stack` closes."""
    if options.cache is not None and autoencoder.is_cacheable:
        return options.cache
    name = stack.enter_context(tempfile.TemporaryDirectory(prefix="fdr-latents-")) if options.group.rank == 0 else ""
    return Path(options.group.broadcast(name))


@dataclass(frozen=True)
class Latents:
    """The latents of one image set, as `LatentRows` of the neighbour search; unreadable images have none."""

    source: ImageSource
    entry: FeatureCache
    latent_shape: tuple[int, ...]
    rows: np.ndarray
    """int64 [n]: the rows that have latents, ascending."""
    pixels: np.ndarray | None
    """uint64 [num_rows]: a digest of the pixels of each image, 0 for unreadable ones; None if not known."""
    item_size: int
    """Bytes of one stored value."""

    @property
    def num_rows(self) -> int:
        """The number of selected images, unreadable ones included."""
        return self.entry.num_rows

    @property
    def dim(self) -> int:
        """The number of values of a latent."""
        return int(np.prod(self.latent_shape))

    def shards(self) -> Sequence[tuple[int, int]]:
        """(start, stop) of all shards."""
        return self.entry.ranges

    def read(self, start: int, stop: int) -> tuple[np.ndarray, Tensor]:
        """Rows [n] and latents [n, D] of a shard, in the dtype they are stored in."""
        return self.entry.read_tensor(start, stop, OUTPUT)


class LatentReader:
    """Reads latents by position among the images that have one, with one shard in memory at a time."""

    def __init__(self, latents: Latents) -> None:
        self._latents = latents
        self.shards, self.read = latents.shards, lru_cache(maxsize=1)(latents.read)

    def at(self, start: int, stop: int) -> Tensor:
        """float32 [stop - start, *latent_shape] of the images start..stop that have a latent."""
        first, last = self._latents.rows[[start, stop - 1]]
        parts = [values.float() for _, values in read_between(self, int(first), int(last) + 1)]
        return torch.cat(parts).reshape(-1, *self._latents.latent_shape)


def encode(encoder: LatentEncoder, source: ImageSource, options: ExtractionOptions, folder: Path) -> Latents:
    """Encode the images of `source` that the cache `folder` lacks; every rank gets all latents."""
    options = replace(options, cache=folder, moments_only=False, shard_size=encoder.shard_size)
    extraction = Extraction(source, [encoder], options=options)
    if not extraction.is_complete:
        for _ in extraction:  # a pass ends on all ranks together, when all shards are published
            pass
    entry = extraction.entries[encoder.spec.name]
    assert entry is not None
    entry.missing()  # look at the folder again, so that this rank sees them
    bad = [BadImage(*image) for image in entry.bad]
    source.check_bad(bad, entry.num_rows)
    rows = np.setdiff1d(np.arange(entry.num_rows), [image.row for image in bad])
    pixels = _pixel_digests(extraction, entry.num_rows)
    return Latents(source, entry, encoder.latent_shape, rows, pixels, item_size(encoder.stored_dtype))


def _pixel_digests(extraction: Extraction, num_rows: int) -> np.ndarray | None:
    records = extraction.images
    if records is None:
        return None
    digests = np.zeros(num_rows, np.uint64)
    digests[records["row"]] = records["digest"]
    return digests
