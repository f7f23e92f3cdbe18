"""The noise and labels of a run. Those of a sample depend only on the seed, the use and the sample's number."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fdr.generators import labels_of, noise_of
from fdr.runtime import SOLO_TENSORS, TensorGroup
from fdr.training.options import TrainOptions


@dataclass(frozen=True)
class Draws:
    """Noise [n, *noise_shape] and labels [n] (None without classes) of any samples, on `device`."""

    seed: int
    noise_shape: tuple[int, ...]
    num_classes: int | None
    device: torch.device

    def of(self, use: str, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """Samples `start` to `stop` of one use: "train", "fill", "grid"."""
        seed, indices = stream_seed(self.seed, use), range(start, stop)
        noise = noise_of(seed, indices, self.noise_shape, self.device)
        if self.num_classes is None:
            return noise, None
        return noise, labels_of("random", seed, indices, self.num_classes, self.device)

    def of_step(self, step: int, options: TrainOptions, ranks: TensorGroup, chunk: int) -> tuple[Tensor, Tensor | None]:
        """A chunk of this rank's part of the batch of a step."""
        start, stop = rows_of(ranks, options.batch_size)
        length, first = stop - start, step * options.batch_size + start
        chunks = options.chunks
        return self.of("train", first + length * chunk // chunks, first + length * (chunk + 1) // chunks)

    def batches(
        self, use: str, count: int, size: int, ranks: TensorGroup = SOLO_TENSORS
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """This rank's part of each batch of at most `size`, over the first `count` samples of a use."""
        for first in range(0, count, size):
            start, stop = rows_of(ranks, min(size, count - first))
            yield self.of(use, first + start, first + stop)


def rows_of(ranks: TensorGroup, count: int) -> tuple[int, int]:
    """This rank's contiguous part of `count` rows; those of all ranks differ by one row at most."""
    return count * ranks.rank // ranks.size, count * (ranks.rank + 1) // ranks.size


def stream_seed(seed: int, stream: str) -> int:
    """A seed in [0, 2^63) for one use of randomness, so that no two uses share their noise."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:8], "big") >> 1
