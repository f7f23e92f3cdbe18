"""`LatentRows`: the latents of an image set, which the search reads in shards, cheaply and more than once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


class LatentRows(Protocol):
    """One latent [D] for each selected image; images that did not decode have none.

    `read` is called from one thread at a time, which may be another than the caller's.
    """

    @property
    def num_rows(self) -> int:
        """The number of selected images, with or without a latent."""

    @property
    def dim(self) -> int:
        """D, the number of values of a latent."""

    def shards(self) -> Sequence[tuple[int, int]]:
        """(start, stop) of all shards, which cover the rows from 0 to `num_rows` in order."""

    def read(self, start: int, stop: int) -> tuple[np.ndarray, Tensor]:
        """Read one of `shards()`: the row numbers int64 [n], ascending, and the latents [n, D] on the CPU.

        The latents are float32, float16 or bfloat16, the same in all shards. The caller does not write to them.
        """


class ArrayRows:
    """An array or tensor [N, D] in memory as `LatentRows`; its dtype is float32, float16 or bfloat16."""

    def __init__(self, values: np.ndarray | Tensor, shard_size: int = 1024) -> None:
        import torch

        self._values = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
        if self._values.ndim != 2 or self._values.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(
                f"expected [N, D] of float32, float16 or bfloat16, not {tuple(values.shape)} of {values.dtype}"
            )
        self._shard_size = shard_size

    @property
    def num_rows(self) -> int:
        return len(self._values)

    @property
    def dim(self) -> int:
        return self._values.shape[1]

    def shards(self) -> Sequence[tuple[int, int]]:
        size, count = self._shard_size, self.num_rows
        return [(start, min(start + size, count)) for start in range(0, count, size)]

    def read(self, start: int, stop: int) -> tuple[np.ndarray, Tensor]:
        return np.arange(start, stop), self._values[start:stop]


def largest_shard(rows: LatentRows) -> int:
    """The number of rows of the largest shard."""
    return max((stop - start for start, stop in rows.shards()), default=0)


def read_shards(
    rows: LatentRows, spans: Sequence[tuple[int, int]], is_ahead: bool
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Read the shards `spans` in order; with `is_ahead` a thread reads the next while the caller works on one."""
    if not is_ahead:
        for span in spans:
            yield rows.read(*span)
        return
    with ThreadPoolExecutor(1) as pool:
        futures = [pool.submit(rows.read, *span) for span in spans[:1]]
        for following in range(1, len(spans) + 1):
            shard = futures.pop().result()
            futures += [pool.submit(rows.read, *span) for span in spans[following : following + 1]]
            yield shard
            del shard  # frees its memory while the next is awaited


def read_between(rows: LatentRows, start: int, stop: int) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield the row numbers and latents between the rows `start` and `stop`, one shard at a time."""
    for span in rows.shards():
        if span[0] < stop and span[1] > start:
            numbers, values = rows.read(*span)
            first, last = np.searchsorted(numbers, (start, stop))
            yield numbers[first:last], values[first:last]
