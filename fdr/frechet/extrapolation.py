"""Extrapolation to infinitely many samples of a statistic whose bias is a series in 1/N, such as FD or the Inception
Score.

The statistic is computed of subsets of n_1 < ... < n_K = N of the samples, drawn without replacement, and a polynomial
in 1/n is fitted to the values by least squares. Its value at 1/n = 0 is a weighted sum of them, sum_i w_i value_i,
where the weights follow from the sizes alone.

- FD_inf (Chong & Forsyth 2020, arXiv 1911.07023): a line through 15 sizes, evenly spaced in n, equal weights;
- VALE-k (arXiv 2610.07114): a polynomial of degree k, each value weighted by its n, as its variance is about 1/n; the
  sizes are those that the paper's code selected for Inception and DINOv2 features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fdr.errors import InputError

SMALLEST, SHARE = 5000, 10
"""The smallest subset is the smaller of 5,000 samples and a tenth of them. Raising SHARE lets it be smaller."""
SEED = 2020
ROUNDING = 1e-12
"""Values that differ by less than this share count as equal. Raising it takes more curves for flat."""


@dataclass(frozen=True)
class Rule:
    """How a value at infinity is extrapolated."""

    degree: int
    """The degree of the polynomial in 1/n. Raising it removes more of the bias and adds variance."""
    num_sizes: int
    chebyshev: bool = False
    """True for sizes that are Chebyshev nodes in 1/n, False for sizes evenly spaced in n."""
    by_variance: bool = False
    """True if a value counts in proportion to its n, False if all count alike."""


RULES = {
    "fd_inf": Rule(1, 15),
    "vale1": Rule(1, 2, by_variance=True),
    "vale2": Rule(2, 15, chebyshev=True, by_variance=True),
    "vale3": Rule(3, 20, chebyshev=True, by_variance=True),
}


@dataclass(frozen=True, eq=False)
class Extrapolation:
    """A statistic at infinitely many samples, with the fit that led to it."""

    value: float
    """The mean over the shuffles."""
    sizes: np.ndarray
    """int64 [K], the sizes of the subsets; the last is the number of samples."""
    curve: np.ndarray
    """float64 [K], the statistic at each size, its mean over the shuffles."""
    weights: np.ndarray
    """float64 [K]; value = weights . curve."""
    values: np.ndarray
    """float64 [R], the value of each shuffle."""
    r_squared: float
    """The share of the curve's variance that the fit explains, counted with the weights of the fit."""
    slope: float
    """The fitted coefficient of 1/n: the bias at n samples is about slope / n."""

    def noise_factors(self) -> tuple[float, float]:
        """The variance of `value` in units of the variance of the statistic of all N samples: of its first-order part
        and of its second-order part.

        Two random subsets of n_i and n_j share n_i n_j / N samples, so that sum_i w_i = 1 leaves 1 of the covariance of
        different subsets; a subset with itself adds w_i^2 (N / n_i - 1), and (N / n_i)^2 - 1 to second order.
        """
        over = self.sizes[-1] / self.sizes
        squares = np.square(self.weights) / len(self.values)
        return 1 + float(squares @ (over - 1)), 1 + float(squares @ (over**2 - 1))


def subset_sizes(count: int, rule: Rule) -> np.ndarray:
    """int64 [K]: the sizes of the subsets of `count` samples; sizes that rounding makes equal count once.

    Raises `InputError` for too few samples.
    """
    least = min(SMALLEST, count // SHARE)
    if least < 2:
        raise InputError(f"{count} samples are too few to extrapolate from; it takes at least {2 * SHARE}.")
    if not rule.chebyshev:
        return np.unique(least + np.arange(rule.num_sizes) * (count - least) // (rule.num_sizes - 1))
    position = (1 - np.cos(np.pi * np.linspace(0, 1, rule.num_sizes))) / 2
    return np.unique(np.rint(1 / ((1 - position) / least + position / count)).astype(np.int64))


def intercept_weights(sizes: np.ndarray, rule: Rule) -> np.ndarray:
    """float64 [K]: the weights whose sum with the values at `sizes` is the fitted polynomial's value at 1/n = 0."""
    return _solution(sizes, rule)[0]


def _solution(sizes: np.ndarray, rule: Rule) -> np.ndarray:
    """[degree + 1, K]: the coefficients of 1, n_1 / n, (n_1 / n)^2, ... as weighted sums of the values."""
    scale = np.sqrt(sizes / sizes[-1]) if rule.by_variance else np.ones(len(sizes))
    return np.linalg.pinv(_powers(sizes, rule) * scale[:, None]) * scale


def _powers(sizes: np.ndarray, rule: Rule) -> np.ndarray:
    return np.vander(sizes[0] / sizes, rule.degree + 1, increasing=True)


def extrapolate(
    statistic: Callable[[np.ndarray], float], count: int, rule: Rule, *, shuffles: int = 1, seed: int = SEED
) -> Extrapolation:
    """Extrapolate `statistic`, which is computed of the samples whose numbers it is given (int64 [n], ascending).

    Each shuffle draws subsets of its own; the subset of all samples is computed once.
    """
    sizes, whole = subset_sizes(count, rule), statistic(np.arange(count))
    random = np.random.default_rng(seed)
    curves = np.array([[*_of_subsets(statistic, sizes, random), whole] for _ in range(shuffles)])
    solution, curve = _solution(sizes, rule), curves.mean(0)
    coefficients = solution @ curve
    weights = solution[0]
    return Extrapolation(
        value=float(weights @ curve),
        sizes=sizes,
        curve=curve,
        weights=weights,
        values=curves @ weights,
        r_squared=_r_squared(curve, _powers(sizes, rule) @ coefficients, sizes if rule.by_variance else sizes**0),
        slope=float(coefficients[1] * sizes[0]),
    )


def _of_subsets(
    statistic: Callable[[np.ndarray], float], sizes: np.ndarray, random: np.random.Generator
) -> Iterator[float]:
    for size in sizes[:-1]:
        yield statistic(np.sort(random.permutation(sizes[-1])[:size]))


def _r_squared(values: np.ndarray, fitted: np.ndarray, weights: np.ndarray) -> float:
    """1 where all values are equal up to rounding."""
    mean = np.average(values, weights=weights)
    spread = np.average(np.square(values - mean), weights=weights)
    if spread <= (ROUNDING * mean) ** 2:
        return 1.0
    return 1 - float(np.average(np.square(values - fitted), weights=weights) / spread)
