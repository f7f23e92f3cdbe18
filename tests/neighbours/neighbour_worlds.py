"""Latents of every kind, brute force over them, and the least memory a search takes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fdr.errors import InputError
from fdr.neighbours import LatentRows, Neighbours, SearchOptions, plan_search, sizes_of
from fdr.neighbours.exact_distances import pair_distances, squared_norms

Pair = tuple[np.ndarray, np.ndarray]


class ArrayRows:
    """Latents [N, D] in memory, `shard_size` to a shard."""

    def __init__(self, values: Tensor, shard_size: int = 1024) -> None:
        self.values, self.shard_size = values, shard_size
        self.num_rows, self.dim = values.shape
        self.item_size = values.dtype.itemsize
        self.rows = np.arange(self.num_rows)

    def shards(self) -> list[tuple[int, int]]:
        size, count = self.shard_size, self.num_rows
        return [(start, min(start + size, count)) for start in range(0, count, size)]

    def read(self, start: int, stop: int) -> tuple[np.ndarray, Tensor]:
        return np.arange(start, stop), self.values[start:stop]


class HoledRows(ArrayRows):
    """The images `missing` did not decode."""

    def __init__(self, values: Tensor, shard_size: int, missing: set[int]) -> None:
        super().__init__(values, shard_size)
        self.missing = missing
        self.rows = np.setdiff1d(self.rows, list(missing))

    def read(self, start: int, stop: int) -> tuple[np.ndarray, Tensor]:
        rows, values = super().read(start, stop)
        here = np.array([row not in self.missing for row in rows], bool)
        return rows[here], values[torch.from_numpy(here)]


class CountedRows(ArrayRows):
    """Remembers which shards were read."""

    def __init__(self, values: Tensor, shard_size: int) -> None:
        super().__init__(values, shard_size)
        self.reads: list[tuple[int, int]] = []

    def read(self, start: int, stop: int) -> tuple[np.ndarray, Tensor]:
        self.reads.append((start, stop))
        return super().read(start, stop)


def drawn(kind: str, count: int, dim: int, seed: int) -> Tensor:
    """float32 [count, dim]"""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, dim))
    if kind == "offset":
        x += 20
    elif kind == "whole":  # many equal distances, many equal latents, some of them zero
        x = random.integers(-1, 2, (count, dim)) * (random.random((count, 1)) > 0.2)
    elif kind == "crowd":  # nearer to each other than any low precision can tell
        x = np.random.default_rng(0).normal(size=dim) + 1e-4 * x
    elif kind == "outliers":
        x *= 10.0 ** random.integers(-18, 18, (count, 1))
    return torch.from_numpy(x.astype(np.float32))


def brute_force(
    queries: Tensor,
    references: Tensor,
    top_k: int,
    metric: str,
    identities: Pair | None = None,
    labels: Pair | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """rows, distances, squared [Q, K] from all distances; rows beyond those that count are at infinity."""
    i, j = (
        grid.reshape(-1)
        for grid in torch.meshgrid(torch.arange(len(queries)), torch.arange(len(references)), indexing="ij")
    )
    norms = squared_norms(queries, torch.arange(len(queries)), 7)
    distances, squared = (
        each.view(len(queries), -1).numpy() for each in pair_distances(metric, queries, norms, i, references, j, 10_000)
    )
    if identities is not None:
        distances = np.where(identities[0][:, None] == identities[1], np.inf, distances)
    if labels is not None:
        distances = np.where(labels[0][:, None] != labels[1], np.inf, distances)
    order = np.argsort(distances, axis=1, kind="stable")[:, :top_k]
    return order, np.take_along_axis(distances, order, 1), np.take_along_axis(squared, order, 1)


def assert_is(found: Neighbours, expected: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """Bit for bit."""
    np.testing.assert_array_equal(found.distances, expected[1])
    np.testing.assert_array_equal(found.rows, expected[0])
    np.testing.assert_array_equal(found.squared, expected[2])


def least_memory(queries: LatentRows, references: LatentRows, options: SearchOptions, count: int = 1) -> int:
    """The smallest number of bytes with which `count` queries fit into a block."""
    low, high = 0, 2**34
    while high - low > 1:
        middle = (low + high) // 2
        try:
            asked = SearchOptions(options.top_k, options.metric, middle, "cpu", options.precision)
            fits = plan_search(sizes_of(queries), sizes_of(references), asked).query_rows >= count
        except InputError:
            fits = False
        low, high = (low, middle) if fits else (middle, high)
    return high
