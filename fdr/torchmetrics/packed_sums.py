"""Count, mean and scatter of features in one float64 tensor [D + 2, D], which torchmetrics can copy, move and gather.

Row 0 begins with the count, row 1 is the mean, and the others are the scatter: the sum of centred outer products.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fdr.errors import InputError
from fdr.frechet import Moments, as_numpy, chan_update


def no_sums(dim: int) -> Tensor:
    """The sums of no features of width `dim`."""
    return torch.zeros(dim + 2, dim, dtype=torch.float64)


def check_features(features: Tensor, width: int | None) -> None:
    """Raise `InputError` for features [B, D] of another width than `width`, and for those that are not finite."""
    if width is not None and features.shape[1] != width:
        raise InputError(f"The encoder gives features of width {features.shape[1]}; {width} was expected.")
    if not bool(features.isfinite().all()):
        bad = int((~features.isfinite().all(1)).sum())
        raise InputError(
            f"The encoder gives NaN or infinity for {bad} of {len(features)} images; an image is broken, or it "
            "overflows."
        )


def add_features(sums: Tensor, features: Tensor) -> None:
    """Add features [B, D] in place.

    With the mean m and the scatter S of n rows, and the mean b of B new rows X, the scatter of all is
    S + (X - b)ᵀ(X - b) + nB / (n + B) (b - m)(b - m)ᵀ (Chan, Golub and LeVeque 1979). The last term is the product of
    one more row, so S [D, D] is read and written only once.
    """
    rows, count = len(features), int(sums[0, 0])
    centred = torch.empty(rows + 1, sums.shape[1], dtype=torch.float64, device=sums.device)
    centred[:rows] = features
    mean = centred[:rows].mean(0)
    delta = mean - sums[1]
    centred[:rows] -= mean
    centred[rows] = delta * math.sqrt(count * rows / (count + rows))
    sums[2:].addmm_(centred.T, centred)
    sums[1] += delta * (rows / (count + rows))
    sums[0, 0] = count + rows


def merged(parts: Tensor) -> Tensor:
    """The sums of all features behind `parts` [R, D + 2, D], in their order; exact up to rounding in float64."""
    total = torch.zeros_like(parts[0])
    for part in parts:
        count = int(part[0, 0])
        if count:
            number, total[1] = chan_update(int(total[0, 0]), total[1], total[2:], count, part[1], part[2:])
            total[0, 0] = number
    return total


def moments_of(sums: Tensor) -> Moments:
    """The moments of the features, with the unbiased covariance. They are 2 or more."""
    count = int(sums[0, 0])
    return Moments(as_numpy(sums[1]), as_numpy(sums[2:]) / (count - 1), count)
