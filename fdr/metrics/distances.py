"""Squared distances between two sets of features as ADM's evaluator computes them, block by block.

|u - v|^2 is |u|^2 - 2 u.v + |v|^2. Memory holds a few blocks, whatever the size of the sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ADM_BLOCK = 10_000
"""Rows and columns of the blocks of ADM's evaluator: the unit in which it falls back to float32."""
ADM_ROWS = 1000
"""Rows of such a block that are computed at once; fewer take less memory, and the result is the same."""


class Block(NamedTuple):
    """Squared distances [n, m] between `rows` of the first set and `columns` of the second."""

    rows: slice
    columns: slice
    squared: Tensor


def adm_blocks(first: np.ndarray, second: np.ndarray, device: torch.device) -> Iterator[Block]:
    """Distances as ADM's evaluator computes them: float16, or float32 in a block of 10,000 x 10,000 that overflows.

    Features, squares, sums and products are each rounded to float16 once. Sums of products are formed in float32, as
    TensorFlow's half-precision kernels do on a GPU; only the order of their additions is not known.
    """
    import torch

    for outer_rows in _slices(len(first), ADM_BLOCK):
        u = torch.from_numpy(first[outer_rows]).to(device)
        for columns in _slices(len(second), ADM_BLOCK):
            v = torch.from_numpy(second[columns]).to(device)
            inner = list(_slices(len(u), ADM_ROWS))
            half_v = _Halves.of(v)
            halves = [_half_distances(_Halves.of(u[rows]), half_v) for rows in inner]
            is_finite = all(bool(torch.isfinite(half).all()) for half in halves)
            for rows in inner:
                squared = halves.pop(0).float() if is_finite else _single_distances(u[rows], v)
                yield Block(slice(outer_rows.start + rows.start, outer_rows.start + rows.stop), columns, squared)


class _Halves(NamedTuple):
    """Features rounded to float16, held as float32, where a product of two is exact; and their squared norms."""

    values: Tensor
    norms: Tensor

    @classmethod
    def of(cls, features: Tensor) -> _Halves:
        values = features.half().float()
        return cls(values, values.square().half().float().sum(1).half())


def _half_distances(u: _Halves, v: _Halves) -> Tensor:
    """float16 [n, m]"""
    return (u.norms[:, None] - 2 * (u.values @ v.values.T).half() + v.norms).clamp_(min=0)


def _single_distances(u: Tensor, v: Tensor) -> Tensor:
    """float32 [n, m]"""
    return (u.square().sum(1)[:, None] - 2 * (u @ v.T) + v.square().sum(1)).clamp_(min=0)


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def squared_radii(features: np.ndarray, k: int, device: torch.device, done: Callable[[float], None]) -> Tensor:
    """[N] squared distances to the k-th nearest neighbour in the same set, itself not counted.

    A feature is at distance 0 from itself, so entry k of the sorted distances is the k-th neighbour. `done` is
    called with the number of distances in each block.
    """
    import torch

    nearest: Tensor | None = None
    for rows, _, squared in adm_blocks(features, features, device):
        if nearest is None:
            nearest = squared.new_full((len(features), k + 1), torch.inf)
        here = squared.topk(min(k + 1, squared.shape[1]), largest=False).values
        nearest[rows] = torch.cat([nearest[rows], here], 1).topk(k + 1, largest=False).values
        done(squared.numel())
    assert nearest is not None
    return nearest.max(1).values
