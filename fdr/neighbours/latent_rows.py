"""`LatentRows`: the latents of an image set, which the search reads in shards, cheaply and more than once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fdr.runtime import read_ahead

if TYPE_CHECKING:
    from torch import Tensor

Span = tuple[int, int]
"""(start, stop) of consecutive rows."""


class Shards(Protocol):
    """Latents [D] of images, in shards; an image that did not decode has none."""

    def shards(self) -> Sequence[Span]:
        """All shards, which cover the rows from 0 to the number of images in order."""

    def read(self, start: int, stop: int) -> tuple[np.ndarray, Tensor]:
        """Read one of `shards()`: the row numbers int64 [n], ascending, and the latents [n, D] on the CPU.

        The latents are float32, float16 or bfloat16, the same in all shards. The caller does not write to them. `read`
        is called from one thread at a time, which may be another than the caller's.
        """


class LatentRows(Shards, Protocol):
    """Latents that can be searched."""

    @property
    def num_rows(self) -> int:
        """The number of selected images, with or without a latent."""

    @property
    def rows(self) -> np.ndarray:
        """int64 [n]: the rows that have a latent, ascending."""

    @property
    def dim(self) -> int:
        """D, the number of values of a latent."""

    @property
    def item_size(self) -> int:
        """Bytes of one stored value."""


def read_shards(rows: Shards, spans: Sequence[Span]) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Read the shards `spans` in order; a thread reads the next one while the caller works on one."""
    return read_ahead((rows.read(*span) for span in spans), 2)


def read_between(rows: Shards, start: int, stop: int) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield the row numbers and latents between the rows `start` and `stop`, one shard at a time."""
    for span in rows.shards():
        if span[0] < stop and span[1] > start:
            numbers, values = rows.read(*span)
            first, last = np.searchsorted(numbers, (start, stop))
            yield numbers[first:last], values[first:last]
