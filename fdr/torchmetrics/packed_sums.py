"""Count, mean and scatter of features in one float64 tensor [D + 2, D], which torchmetrics can copy, move and gather.

Row 0 begins with the count, row 1 is the mean, and the others are the scatter: the sum of centred outer products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fdr.errors import InputError
from fdr.frechet import Moments, as_numpy, chan_update


def no_sums(dim: int) -> Tensor:
    """The sums of no features of width `dim`."""
    return torch.zeros(dim + 2, dim, dtype=torch.float64)


def add_features(sums: Tensor, features: Tensor) -> None:
    """Add features [B, D] in place. Raises `InputError` for another width, and for features that are not finite."""
    if features.shape[1] != sums.shape[1]:
        raise InputError(f"The encoder gives features of width {features.shape[1]}; {sums.shape[1]} was expected.")
    rows = features.to(sums.device, torch.float64)
    mean = rows.mean(0)
    if not bool(mean.isfinite().all()):
        bad = int((~rows.isfinite().all(1)).sum())
        raise InputError(
            f"The encoder gives NaN or infinity for {bad} of {len(rows)} images; an image is broken, or it overflows."
        )
    rows = rows - mean
    _add(sums, len(rows), mean, rows.T @ rows)


def merged(parts: Tensor) -> Tensor:
    """The sums of all features behind `parts` [R, D + 2, D], in their order; exact up to rounding in float64."""
    total = torch.zeros_like(parts[0])
    for part in parts:
        _add(total, int(part[0, 0]), part[1], part[2:])
    return total


def moments_of(sums: Tensor) -> Moments:
    """The moments of the features, with the unbiased covariance. They are 2 or more."""
    count = int(sums[0, 0])
    return Moments(as_numpy(sums[1]), as_numpy(sums[2:]) / (count - 1), count)


def _add(sums: Tensor, count: int, mean: Tensor, scatter: Tensor) -> None:
    if count == 0:
        return
    total, sums[1] = chan_update(int(sums[0, 0]), sums[1], sums[2:], count, mean, scatter)
    sums[0, 0] = total
