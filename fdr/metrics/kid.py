"""KID: the Kernel Inception Distance (Bińkowski et al. 2018), the squared maximum mean discrepancy of two sets.

`kid` and its variants are means over random subsets, as torch-fidelity computes them; `kid:all` takes all pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from fdr.errors import InputError
from fdr.metrics.base import CollectedFeatures, Context, Metric, Score
from fdr.metrics.kernels import (
    Gaussian,
    Kernel,
    PairAdder,
    Points,
    Totals,
    blocks,
    diagonal,
    mmd_of_all_pairs,
    mmd_variance,
    pair_sums,
    paired,
    points,
    polynomial,
    variance_components,
)
from fdr.runtime import faithful_products

if TYPE_CHECKING:
    from torch import Tensor

Subset = tuple["Tensor", "Tensor"]
"""The rows of both sets."""
SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020
RBF_SIGMA = 10.0
WORTH = 0.75
"""All pairs are computed if they are at most this share of those of the subsets, since sums over subsets take time."""
ESTIMATES: Mapping[str, Callable[[Totals], float]] = {
    "": lambda totals: totals.unbiased,
    "biased": lambda totals: totals.biased,
    "ustat": lambda totals: totals.u_statistic,
}
"""The estimates of a subset, by the end of the metric's name."""


def kid(samples: np.ndarray, reference: np.ndarray, context: Context, *, kernel: Kernel) -> dict[str, Score]:
    """The mean of MMD² over subsets of features [N, D] and [M, D], for each estimate in `context.names`.

    The standard error is that of the mean: √(V + s² / 100), where V is the variance of MMD² over all pairs, and s the
    standard deviation over the subsets, which share images. torch-fidelity prints s; it is `subset_std` in the details.
    """
    for side, features in (("samples", samples), ("reference images", reference)):
        if len(features) < SUBSET_SIZE:
            raise InputError(
                f"{context.names[0]} draws subsets of {SUBSET_SIZE:,} images, and there are only {len(features)} "
                f"{side}: measure more of them, or ask for {_all_pairs(kernel)}, which takes all pairs of any number."
            )
    x, y = points(samples, context), points(reference, context)
    with faithful_products(), context.progress.task(", ".join(context.names), SUBSETS, "subsets") as task:
        subsets, components = _subset_totals(kernel, x, y, "ustat" in map(_estimate, context.names), task.advance)
    full = mmd_variance(components, len(x), len(y))
    found = {}
    for name in context.names:
        values = np.array([ESTIMATES[_estimate(name)](totals) for totals in subsets])
        stderr = math.sqrt(full + values.var(ddof=1) / SUBSETS)
        details = {"subset_std": float(values.std()), "subsets": SUBSETS, "subset_size": SUBSET_SIZE}
        found[name] = Score(float(values.mean()), stderr, details=details)
    return found


def _estimate(name: str) -> str:
    return name.rpartition(":")[2].replace("rbf", "").replace("kid", "").strip("_")


def _all_pairs(kernel: Kernel) -> str:
    return "kid:all" if kernel is polynomial else "kid:rbf_all"


def _draw(num_samples: int, num_reference: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The rows of all subsets of both sets, as torch-fidelity draws them."""
    random = np.random.RandomState(SEED)
    return [
        (
            random.choice(num_samples, SUBSET_SIZE, replace=False),
            random.choice(num_reference, SUBSET_SIZE, replace=False),
        )
        for _ in range(SUBSETS)
    ]


def _subset_totals(
    kernel: Kernel, x: Points, y: Points, has_pairs: bool, done: Callable[[float], None]
) -> tuple[list[Totals], np.ndarray]:
    """The sums of every subset, with those of k(x_i, y_i) if `has_pairs`, and the variance components.

    Small sets share most pairs among the subsets; then all pairs of the sets are computed once.
    """
    drawn = [(_index(rows, x), _index(columns, y)) for rows, columns in _draw(len(x), len(y))]
    if (len(x) + len(y)) ** 2 <= WORTH * SUBSETS * (2 * SUBSET_SIZE) ** 2:
        sums, components = _from_all_pairs(kernel, x, y, drawn, done)
    else:
        sums, components = _one_by_one(kernel, x, y, drawn, done)
    own_x, own_y = diagonal(kernel, x), diagonal(kernel, y)
    found = []
    for (rows, columns), xx, yy, xy in zip(drawn, *sums, strict=True):
        own = float(own_x[rows].sum()), float(own_y[columns].sum())
        pairs = float(paired(kernel, x.of(rows), y.of(columns)).sum()) if has_pairs else 0.0
        found.append(Totals(len(rows), len(columns), xx, yy, xy, *own, pairs))
    return found, components


def _one_by_one(
    kernel: Kernel, x: Points, y: Points, drawn: Sequence[Subset], done: Callable[[float], None]
) -> tuple[list[list[float]], np.ndarray]:
    """The sums of k over the pairs xx, yy and xy of every subset, and the mean of their variance components."""
    sums: list[list[float]] = [[], [], []]
    components = []
    for rows, columns in drawn:
        u, v = x.of(rows), y.of(columns)
        found = pair_sums(kernel, u), pair_sums(kernel, v), pair_sums(kernel, u, v)
        components.append(variance_components(*found))
        for kind, pairs in zip(sums, found, strict=True):
            kind.append(float(pairs.rows.sum()))
        done(1)
    return sums, np.mean(components, axis=0)


def _from_all_pairs(
    kernel: Kernel, x: Points, y: Points, drawn: Sequence[Subset], done: Callable[[float], None]
) -> tuple[list[list[float]], np.ndarray]:
    """The same from all pairs: a subset has the sum wᵀ K w, where w [N] is 1 in the subset and 0 elsewhere."""
    in_x, in_y = (_membership([subset[side] for subset in drawn], of) for side, of in enumerate((x, y)))
    sums, found = [], []
    share = len(drawn) / (len(x) + len(y)) ** 2
    for first, second, left, right in ((x, None, in_x, in_x), (y, None, in_y, in_y), (x, y, in_x, in_y)):
        adder, total = PairAdder(first, second), x.features.new_zeros(len(drawn)).double()
        for block in blocks(kernel, first, second):
            times = 2 if block.is_mirrored else 1
            total += times * ((block.values @ right[block.columns]) * left[block.rows]).double().sum(0)
            done(share * block.values.numel() * (times if second is None else 2))
            adder.add(block)
        found.append(adder.sums())
        sums.append(total.tolist())
    return sums, variance_components(*found)


def _membership(subsets: Sequence[Tensor], of: Points) -> Tensor:
    """float32 [N, number of subsets]: 1 where a row is in a subset."""
    found = of.features.new_zeros(len(of), len(subsets))
    for subset, rows in enumerate(subsets):
        found[rows, subset] = 1
    return found


def _index(rows: np.ndarray, of: Points) -> Tensor:
    import torch

    return torch.from_numpy(rows).to(of.features.device)


def kid_of_all_pairs(samples: np.ndarray, reference: np.ndarray, context: Context, *, kernel: Kernel) -> Score:
    """The unbiased MMD² over all pairs of features [N, D] and [M, D], with its standard error."""
    totals, variance = mmd_of_all_pairs(kernel, samples, reference, context)
    return Score(totals.unbiased, math.sqrt(variance))


_DRAWN = {"subsets": f"{SUBSETS}x{SUBSET_SIZE}", "seed": str(SEED)}
_POLYNOMIAL, _RBF = {"kernel": "poly3"}, {"kernel": f"rbf{RBF_SIGMA:g}"}
KID = Metric(partial(kid, kernel=polynomial), CollectedFeatures, settings=_POLYNOMIAL | _DRAWN)
KID_RBF = Metric(partial(kid, kernel=Gaussian(RBF_SIGMA)), CollectedFeatures, settings=_RBF | _DRAWN)
KID_ALL = Metric(partial(kid_of_all_pairs, kernel=polynomial), CollectedFeatures, settings=_POLYNOMIAL)
KID_RBF_ALL = Metric(partial(kid_of_all_pairs, kernel=Gaussian(RBF_SIGMA)), CollectedFeatures, settings=_RBF)
"""The names that a user asks for are in the registry; the estimate of a subset is the end of the name."""
