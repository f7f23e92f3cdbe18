"""FD of an average without the bias that comes from its number of samples.

Symbols: w_a are the weights of the samples, W = sum w_a^2, M [r, r] is F^T S_q F (`transport.py`), s_i are the square
roots of its eigenvalues.

FD is too large for a sampled population because tr M^{1/2} is too small. The trace of the population that the samples
were drawn from follows from the eigenvalues of the unbiased covariance S_q / (1 - W), as in `fdr.frechet`: a ridge x of
the samples stands for the ridge x / theta of the population, where theta(h) is known from the weights alone, with h the
effective dimension at x:

    theta = sum_a w_a / (1 + w_a q),    h = theta q.

This holds for Gaussian features of many dimensions; few dimensions add a part (`FEW_DIMENSIONS`). For samples of equal
weights it is theta = 1 - h / n; for an average of long memory it is t / (e^t - 1) with t = 2 h W. The other terms of FD
need no correction: on average the squared distance of the means is too large by as much as the trace of the biased S_q
is too small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fdr import frechet

if TYPE_CHECKING:
    from torch import Tensor

FORGOTTEN = 1e-6
"""Batches of an average whose weight has decayed to this share are left out. Lowering it changes the last digits."""
GROUPS = 128
"""At most so many groups of successive batches count as having one weight each. Raising it changes the last digits."""
FEW_DIMENSIONS = 1 / 8
"""What the diagonal of a real Gaussian's noise, whose variance is 2 W where that of other entries is W, adds to v.

It is 1/4 W sum_i w_ii with w_ii = s_i / 2, the part of the first order that vanishes in many dimensions
(docs/debiased-fd.md, first order).
"""
ROUNDING = 1e-12
"""The least part of W that the batches count for, beside a fill. Lowering it lets rounding through."""
NEWTON_STEPS = 60
"""Most steps of Newton's method for q, which at worst doubles at every step. Raising it changes nothing."""


@dataclass(frozen=True)
class Weights:
    """The weights of the samples of a population, in groups of samples of equal weight."""

    totals: np.ndarray
    """The weight of each group [g]; they sum to 1."""
    each: np.ndarray
    """The weight of a sample of each group [g]."""
    squares: float
    """W."""

    @classmethod
    def of(cls, share: float, squares: float, beta: float, num_steps: int, num_filled: int) -> Weights:
        """The weights after `num_steps` batches, the newest of which has the weight `share`; W is `squares`.

        `num_filled` samples came before the first, or none. Batches count as having one size, which follows from W.
        """
        older = num_steps - 1
        fill = (1 - share) * beta**older if num_filled else 0.0
        most = min(older, math.ceil(math.log(FORGOTTEN) / math.log(beta)) if beta > 0 else 1)
        decays = beta ** np.arange(most)
        shares = (1 - share - fill) * decays / decays.sum()
        of_fill = fill**2 / num_filled if num_filled else 0.0
        rest = max(squares - of_fill, ROUNDING * squares)
        size = (share**2 + np.square(shares).sum()) / rest
        parts = [np.array([share]), *np.array_split(shares, max(min(GROUPS, most), 1))]
        parts = [part for part in parts if len(part)]
        totals, each = [part.sum() for part in parts], [part.mean() / size for part in parts]
        if num_filled:
            totals, each = [*totals, fill], [*each, fill / num_filled]
        return cls(np.array(totals), np.array(each), squares)

    def theta(self, h: np.ndarray) -> np.ndarray:
        """theta [K] at effective dimensions h [K], which must be smaller than the number of samples.

        h(q) is concave and h(q) <= q, so Newton's method from q = h comes from below and cannot overshoot.
        """
        q = h.astype(np.float64)[:, None]
        for _ in range(NEWTON_STEPS):
            rest = 1 / (1 + self.each * q)
            found, slope = (self.totals * rest).sum(1) * q[:, 0], (self.totals * rest**2).sum(1)
            step = (h - found) / slope
            q = q + step[:, None]
            if np.all(np.abs(step) <= 1e-13 * q[:, 0]):
                break
        return (self.totals / (1 + self.each * q)).sum(1)


def excess_of(roots: Tensor, weights: Weights, rank: int) -> float:
    """(v / sum s - 1) / W, with v the estimate of tr (S_p S_q)^{1/2} without bias; `roots` are s [k] of the biased S_q.

    It is given relative to W because to first order the bias is proportional to W. NaN where the samples are worth
    no more than `rank`, the number of directions of the reference: then they do not show the population in all of them.
    """
    positive = roots[roots > 0]
    if not weights.squares * rank < 1:
        return math.nan
    if len(positive) == 0:
        return 0.0
    values = positive.square().sort(descending=True).values / (1 - weights.squares)
    trace = frechet.population_root_trace(values, weights.theta)
    return (trace / float(positive.sum()) - 1) / weights.squares + FEW_DIMENSIONS
