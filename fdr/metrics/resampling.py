"""Standard errors that several metrics share: from influence functions, from independent parts, of shares."""

from __future__ import annotations

import math

import numpy as np


def influence_stderr(*influences: np.ndarray) -> float:
    """The standard error of a statistic of independent samples, from its influence function.

    `influences` has for each sample the influence of every image [N], which is the derivative of the statistic in the
    weight of the image times N; a common constant does not matter. For example the mean of z has the influence z.
    """
    return math.sqrt(sum(float(np.var(values, ddof=1)) / len(values) for values in influences))


def parts_stderr(values: np.ndarray) -> float:
    """The standard error of the mean of a statistic over independent parts of a sample, values [number of parts]."""
    return math.sqrt(float(np.var(values, ddof=1)) / len(values))


def share_stderr(share: float, count: int) -> float:
    """The standard error of a share of `count` independent images: √(p (1 − p) / N)."""
    return math.sqrt(share * (1 - share) / count)
