"""The latents of the drawn neighbours, gathered into one file in the order of the images that they belong to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fdr.features import item_size
from fdr.ifid.latents import Latents
from fdr.runtime import Progress, atomic_path


@dataclass(frozen=True)
class DrawnLatents:
    """A file of latents [Q, D], one for each query, in the dtype of the cache."""

    path: Path
    count: int
    latent_shape: tuple[int, ...]
    dtype: str
    """The dtype of the stored latents, as the name of a torch dtype."""

    def at(self, start: int, stop: int) -> Tensor:
        """Read the latents of the queries start..stop, float32 [stop - start, *latent_shape]."""
        with open(self.path, "rb") as file:
            file.seek(start * self._row_bytes)
            data = bytearray(file.read((stop - start) * self._row_bytes))
        return torch.frombuffer(data, dtype=getattr(torch, self.dtype)).float().reshape(-1, *self.latent_shape)

    @property
    def num_bytes(self) -> int:
        """The size of the file."""
        return self.count * self._row_bytes

    @property
    def _row_bytes(self) -> int:
        return math.prod(self.latent_shape) * item_size(self.dtype)


def gather(latents: Latents, rows: np.ndarray, drawn: DrawnLatents, progress: Progress) -> None:
    """Write the latents of the rows `rows` [Q], which may repeat, to the file of `drawn` in one pass over the shards.

    A complete file is kept. Raises `RunError` if the disk is full.
    """
    if drawn.path.exists() and drawn.path.stat().st_size == drawn.num_bytes:
        return
    shards, title = latents.shards(), "gathering neighbours"
    with (
        atomic_path(drawn.path) as temporary,
        open(temporary, "wb") as file,
        progress.task(title, len(shards), "shards") as task,
    ):
        for picked in _picked(latents, rows, shards):
            for query, latent in picked:
                file.seek(query * latent.nbytes)
                file.write(latent.contiguous().view(torch.uint8).numpy().tobytes())
            task.advance()


def _picked(
    latents: Latents, rows: np.ndarray, shards: Sequence[tuple[int, int]]
) -> Iterator[Iterator[tuple[int, Tensor]]]:
    """For each shard, yield the pairs (query, latent of its neighbour); shards without neighbours are not read."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    for start, stop in shards:
        low, high = np.searchsorted(ordered, (start, stop))
        if low == high:
            yield iter(())
            continue
        there, values = latents.read(start, stop)
        places = np.searchsorted(there, ordered[low:high])
        yield ((int(query), values[int(place)]) for query, place in zip(order[low:high], places, strict=True))


def gathered(latents: Latents, rows: np.ndarray) -> Tensor:
    """The latents of a few rows in memory, float32 [len(rows), *latent_shape]."""
    out = torch.empty(len(rows), latents.dim)
    for picked in _picked(latents, rows, latents.shards()):
        for place, latent in picked:
            out[place] = latent.float()
    return out.reshape(-1, *latents.latent_shape)
