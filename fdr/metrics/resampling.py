"""Standard errors that several metrics share: from influence functions, by the jackknife, of shares."""

from __future__ import annotations

import math

import numpy as np

NUM_GROUPS, SEED = 20, 2020
"""Groups of the jackknife: more make the standard error less noisy (16 % at 20) and take longer."""


def influence_stderr(*influences: np.ndarray) -> float:
    """The standard error of a statistic of independent samples, from its influence function.

    `influences` has for each sample the influence of every image [N], which is the derivative of the statistic in the
    weight of the image times N; a common constant does not matter. For example the mean of z has the influence z.
    """
    return math.sqrt(sum(float(np.var(values, ddof=1)) / len(values) for values in influences))


def jackknife_groups(count: int) -> list[np.ndarray]:
    """The rows of random groups of nearly one size: `NUM_GROUPS`, or as many as there are rows."""
    order = np.random.default_rng(SEED).permutation(count)
    return np.array_split(order, min(NUM_GROUPS, count))


def jackknife_stderr(values: np.ndarray) -> float:
    """The standard error of a statistic from its values without each of G groups (Shao & Tu 1995), by
    √((G − 1) · the mean squared deviation of the values).

    A bias that depends on the number of images is common to all values and drops out. Images are left out and never
    repeated, so it also holds where copies would change the statistic, as neighbours and spectra.
    """
    return math.sqrt((len(values) - 1) * float(np.var(values)))


def share_stderr(share: float, count: int) -> float:
    """The standard error of a share of `count` independent images: √(p (1 − p) / N)."""
    return math.sqrt(share * (1 - share) / count)
