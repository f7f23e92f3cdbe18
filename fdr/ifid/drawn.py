"""The latents of the drawn neighbours, gathered into one file in the order of the images that they belong to."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fdr.features import item_size
from fdr.ifid.latents import Latents
from fdr.runtime import Progress, write_atomically, write_error


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

    def remove(self) -> None:
        """Delete the file and what an unfinished run left of it."""
        for path in (self.path, _part(self.path), _progress(self.path)):
            path.unlink(missing_ok=True)


def gather(latents: Latents, rows: np.ndarray, drawn: DrawnLatents, progress: Progress) -> None:
    """Write the latents of the rows `rows` [Q], which may repeat, to the file of `drawn` in one pass over the shards.

    An unfinished file is continued: a killed run loses the work of one shard. Raises `RunError` if the disk is full.
    """
    path = drawn.path
    if path.exists() and path.stat().st_size == drawn.num_bytes:
        return
    part, done, title = _part(path), _done(path), "gathering neighbours"
    shards = latents.shards()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "r+b" if done else "wb") as file, progress.task(title, len(shards), "shards") as task:
            task.resume(done)
            for number, picked in enumerate(_picked(latents, rows, shards[done:]), done + 1):
                for query, latent in picked:
                    file.seek(query * latent.nbytes)
                    file.write(latent.contiguous().view(torch.uint8).numpy().tobytes())
                file.flush()
                os.fsync(file.fileno())
                write_atomically(_progress(path), json.dumps({"shards": number}).encode())
                task.advance()
        part.replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    _progress(path).unlink(missing_ok=True)


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


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _progress(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _done(path: Path) -> int:
    """The number of shards that an earlier run has gathered; 0 if its file is gone."""
    try:
        return int(json.loads(_progress(path).read_text())["shards"]) if _part(path).exists() else 0
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return 0


def gathered(latents: Latents, rows: np.ndarray) -> Tensor:
    """The latents of a few rows in memory, float32 [len(rows), *latent_shape]."""
    out = torch.empty(len(rows), latents.dim)
    for picked in _picked(latents, rows, latents.shards()):
        for place, latent in picked:
            out[place] = latent.float()
    return out.reshape(-1, *latents.latent_shape)
