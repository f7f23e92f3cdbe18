"""Sliced Wasserstein distances: MIND (arXiv 2605.06797), the sliced 2-Wasserstein distance, and its closed form.

The features of both sets are projected onto random directions u of unit length. The squared 2-Wasserstein distance of
two sets of numbers is the mean squared difference of their quantiles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fdr.errors import InputError
from fdr.frechet import Moments
from fdr.metrics.base import CollectedFeatures, Context, Metric, Score
from fdr.metrics.resampling import influence_stderr
from fdr.runtime import faithful_products, resolve_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DIRECTIONS, SEED = 1000, 2020
PROJECTIONS = 4_000_000
"""Projections of one set that are held at once: raising it takes more memory, about 100 bytes for each."""
CHUNK = 4096
"""Rows that are converted to float64 at once."""


def mind_score(
    samples: np.ndarray,
    reference: np.ndarray,
    context: Context,
    *,
    directions: int | None = None,
    seed: int | None = None,
) -> Score:
    """3 D times the mean over the directions of the squared 2-Wasserstein distance of features [N, D] and [M, D].

    Of the larger set a random subset of the size of the smaller one is taken. Subset and directions are those of
    torch-fidelity, unless another number of `directions` or another `seed` is given.
    """
    import torch

    _check(context, samples, reference)
    generator = torch.Generator().manual_seed(SEED if seed is None else seed)
    size = min(len(samples), len(reference))
    taken = [
        side if len(side) == size else side[torch.randperm(len(side), generator=generator)[:size].numpy()]
        for side in (samples, reference)
    ]
    found = _sliced(taken[0], taken[1], generator, context, directions or DIRECTIONS)
    scale = 3 * samples.shape[1]
    notes: tuple[str, ...] = ()
    if len(samples) != len(reference):
        notes = (f"MIND compares sets of one size: {size} of {max(len(samples), len(reference))} images were drawn",)
    details = {
        "directions": directions or DIRECTIONS,
        "images": size,
        "direction_stderr": scale * found.direction_stderr,
    }
    stderr = None if found.stderr is None else scale * found.stderr
    return Score(scale * found.squared, stderr, details=details, notes=notes)


def sw2(samples: np.ndarray, reference: np.ndarray, context: Context) -> Score:
    """The square root of the mean over the directions of the squared 2-Wasserstein distance, between all images."""
    import torch

    _check(context, samples, reference)
    found = _sliced(samples, reference, torch.Generator().manual_seed(SEED), context, DIRECTIONS)
    root = math.sqrt(found.squared)
    stderr = found.stderr / (2 * root) if found.stderr is not None and root > 0 else None
    details = {"directions": DIRECTIONS, "direction_stderr": found.direction_stderr / (2 * root) if root > 0 else 0.0}
    return Score(root, stderr, details=details)


@dataclass(frozen=True)
class SlicedDistance:
    """The mean of W₂² over the directions."""

    squared: float
    direction_stderr: float
    """The standard error from the choice of the directions, for these images."""
    stderr: float | None
    """The standard error from the images, for these directions; None if it was not wanted."""


def _sliced(
    samples: np.ndarray, reference: np.ndarray, generator: torch.Generator, context: Context, count: int
) -> SlicedDistance:
    """W₂² over `count` directions that `generator` draws."""
    import torch

    directions = torch.randn(count, samples.shape[1], generator=generator)
    directions = directions / directions.norm(dim=1, keepdim=True)
    device = resolve_device(context.device or "cpu")
    shift = torch.from_numpy(reference.mean(0, dtype=np.float64)).float()
    sides = [(torch.from_numpy(side) - shift).to(device) for side in (samples, reference)]
    coupling = Coupling(len(samples), len(reference), device)
    squared, influences = [], [torch.zeros(len(side), dtype=torch.float64, device=device) for side in sides]
    size = max(1, PROJECTIONS // max(map(len, sides)))
    with faithful_products(), context.progress.task(", ".join(context.names), count, "directions") as task:
        for chunk in directions.to(device).split(size):
            x, y = (_sorted(chunk, side) for side in sides)
            squared.append(coupling.squared_distance(x.values, y.values))
            if context.stderr:
                _add_potential(influences[0], x, coupling.partners_of_x(y.values))
                _add_potential(influences[1], y, coupling.partners_of_y(x.values))
            task.advance(len(chunk))
    values = torch.cat(squared).cpu().numpy()
    stderr = influence_stderr(*(found.cpu().numpy() / count for found in influences)) if context.stderr else None
    return SlicedDistance(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(count), stderr)


@dataclass(frozen=True)
class Projections:
    """Sorted projections [number of directions, N], float64, and the image of each."""

    values: Tensor
    images: Tensor


def _sorted(directions: Tensor, features: Tensor) -> Projections:
    values, images = (directions @ features.T).sort(dim=1)
    return Projections(values.double(), images)


class Coupling:
    """The optimal coupling of n sorted numbers x and m sorted numbers y: pairs of ranks, and weights of sum 1."""

    def __init__(self, n: int, m: int, device: torch.device) -> None:
        import torch

        ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # in units of 1 / nm
        self._n, self._m = n, m
        ranks, weights = ((ends - 1) // m, (ends - 1) // n), np.diff(ends, prepend=0) / (n * m)
        self._x, self._y = (torch.from_numpy(rank).to(device) for rank in ranks)
        self._weights = torch.from_numpy(weights).to(device)

    def squared_distance(self, x: Tensor, y: Tensor) -> Tensor:
        """W₂² [...] of x [..., n] and y [..., m]."""
        if self._n == self._m:
            return (x - y).square().mean(-1)
        return (x[..., self._x] - y[..., self._y]).square() @ self._weights

    def partners_of_x(self, y: Tensor) -> Tensor:
        """[..., n] the mean of the y that each x is coupled with."""
        return self._partners(self._x, self._n, y, self._y)

    def partners_of_y(self, x: Tensor) -> Tensor:
        """[..., m] the mean of the x that each y is coupled with."""
        return self._partners(self._y, self._m, x, self._x)

    def _partners(self, of: Tensor, count: int, values: Tensor, ranks: Tensor) -> Tensor:
        if self._n == self._m:
            return values
        found = values.new_zeros(*values.shape[:-1], count)
        return found.index_add_(-1, of, values[..., ranks] * (self._weights * count))


def _add_potential(influence: Tensor, points: Projections, partners: Tensor) -> None:
    """Add the influence of each image on W₂², which is the potential φ of the optimal transport: φ' = 2 (x − T(x)).

    `partners` are the values T(x). φ at the sorted points is the sum of its steps by the trapezoid rule.
    """
    gaps = points.values - partners
    steps = (gaps[:, 1:] + gaps[:, :-1]) * points.values.diff(dim=1)
    potential = steps.cumsum(1)
    influence.scatter_add_(0, points.images[:, 1:].reshape(-1), potential.reshape(-1))


def sw_approx(samples: Moments, reference: Moments, context: Context) -> Score:
    """√(|m₁ − m₂|² / D + (√(v₁ / D) − √(v₂ / D))²), with v the trace of the covariance divided by N, not N − 1.

    An approximation of the sliced 2-Wasserstein distance for high dimension (Nadjahi et al. 2021). The standard error
    needs features; a reference without them counts as exact.
    """
    shift, dim = samples.mu - reference.mu, samples.dim
    s1, s2 = _deviation(samples), _deviation(reference)
    value = math.sqrt(float(shift @ shift) / dim + (s1 - s2) ** 2)
    if samples.rows is None or not context.stderr or value == 0 or s1 == 0 or s2 == 0:
        return Score(value)
    influences = [_influence(samples, samples.rows, shift, 1 - s2 / s1)]
    if reference.rows is not None:
        influences.append(_influence(reference, reference.rows, -shift, 1 - s1 / s2))
    return Score(value, influence_stderr(*influences) / (2 * value))


def _deviation(moments: Moments) -> float:
    """√(v / D)"""
    share = 1.0 if moments.count is None or moments.ddof == 0 else (moments.count - 1) / moments.count
    return math.sqrt(share * float(np.trace(moments.sigma)) / moments.dim)


def _influence(moments: Moments, rows: np.ndarray, shift: np.ndarray, spread: float) -> np.ndarray:
    """[N] the influence of each image on the squared value."""
    found = np.empty(len(rows))
    for start in range(0, len(rows), CHUNK):
        centred = rows[start : start + CHUNK] - moments.mu
        norms = np.einsum("nd,nd->n", centred, centred)
        found[start : start + CHUNK] = (2 * centred @ shift + spread * norms) / moments.dim
    return found


def _check(context: Context, *sides: np.ndarray) -> None:
    if min(map(len, sides)) < 2:
        raise InputError(f"{context.names[0]} needs at least 2 images of either side; got {min(map(len, sides))}.")


MIND = Metric(mind_score, CollectedFeatures, settings={"directions": str(DIRECTIONS), "seed": str(SEED)})
SW2 = Metric(sw2, CollectedFeatures, settings={"directions": str(DIRECTIONS), "seed": str(SEED)})
SW_APPROX = Metric(sw_approx, rows="wanted")
