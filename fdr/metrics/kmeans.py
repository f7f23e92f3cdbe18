"""Mini-batch k-means (Sculley 2010) with k-means++ (Arthur & Vassilvitskii 2007), seeded, in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BATCH = 1024
"""Features per step, and those that the first centres are drawn from."""
NUM_STEPS = 30
"""Steps at least; there are more if one pass over the features takes more."""
NUM_STARTS = 10
"""Draws of first centres, of which the best is taken."""
ROWS = 8192
"""Features whose cells are found at once. Raising it takes more memory."""


def fit_centres(features: np.ndarray, num_cells: int, seed: int, device: torch.device) -> Tensor:
    """Centres [k, D] float32 of clusters of `features` [N, D] float32.

    The first centres are the best of 10 draws by k-means++ from 1,024 features, by the mean squared distance of these.
    Then every centre moves to the running mean of the features nearest to it, 1,024 at a time in random order.
    """
    import torch

    random = np.random.default_rng(seed)
    first = _rows(features, random.permutation(len(features))[:BATCH], device)
    starts = [_plus_plus(first, num_cells, random) for _ in range(NUM_STARTS)]
    centres = min(starts, key=lambda start: float(_squared(first, start).amin(1).mean()))
    counts = torch.zeros(num_cells, device=device)
    steps = 0
    while steps < NUM_STEPS:
        order = random.permutation(len(features))
        for start in range(0, len(features), BATCH):
            _step(centres, counts, _rows(features, order[start : start + BATCH], device))
            steps += 1
    return centres


def cells_of(features: np.ndarray, centres: Tensor) -> np.ndarray:
    """The cell of each of `features` [N, D], int64 [N]: its nearest centre."""
    parts = (features[start : start + ROWS] for start in range(0, len(features), ROWS))
    found = [_squared(_rows(part, slice(None), centres.device), centres).argmin(1).cpu().numpy() for part in parts]
    return np.concatenate(found)


def _rows(features: np.ndarray, rows: np.ndarray | slice, device: torch.device) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(features[rows], np.float32)).to(device)


def _squared(x: Tensor, centres: Tensor) -> Tensor:
    """|c|² − 2 x.c + |x|² [n, k], without cancellation for features far from the origin."""
    shift = centres.mean(0)
    x, centres = x - shift, centres - shift
    return (x.square().sum(1)[:, None] + centres.square().sum(1) - 2 * x @ centres.T).clamp(min=0)


def _plus_plus(x: Tensor, num_cells: int, random: np.random.Generator) -> Tensor:
    """Features drawn one after the other in proportion to the squared distance to those that were drawn."""
    chosen = [int(random.integers(len(x)))]
    nearest = _squared(x, x[chosen])[:, 0]
    while len(chosen) < num_cells:
        weights = nearest.double().cpu().numpy()
        total = weights.sum()
        draw = random.random() * total
        chosen.append(min(int(np.searchsorted(weights.cumsum(), draw, side="right")), len(x) - 1))
        nearest = nearest.minimum(_squared(x, x[chosen[-1:]])[:, 0])
    return x[chosen].clone()


def _step(centres: Tensor, counts: Tensor, batch: Tensor) -> None:
    """Move every centre to the mean of all features that it has had."""
    import torch

    cells = _squared(batch, centres).argmin(1)
    sums = torch.zeros_like(centres).index_add_(0, cells, batch)
    here = torch.bincount(cells, minlength=len(centres)).to(counts.dtype)
    counts += here
    has_some = here > 0
    centres[has_some] += (sums[has_some] - here[has_some, None] * centres[has_some]) / counts[has_some, None]
