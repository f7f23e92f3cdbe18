"""Intervals of correlation coefficients: BCa bootstrap (Efron 1987), or the jackknife for many rows.

`scipy.stats.bootstrap` gives the same intervals, but leaves none if one resample has a constant column, as few rows
have, and takes a minute for Kendall's coefficient. Here a resample of n rows is n counts, which say how often each row
is drawn, so many resamples are one matrix.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from statistics import NormalDist

import numpy as np

NUM_RESAMPLES = 9_999
MAX_BOOTSTRAP_ROWS = 500
"""Above this number of rows the jackknife is used: pairs for Kendall's coefficient would take too long to resample,
and the normal approximation is good enough."""
NUM_GROUPS = 100
"""Number of groups that the jackknife leaves out. More groups take more time and give a steadier spread."""
CHUNK_VALUES = 1 << 20
"""Largest matrix of counts in memory, in values. A larger one needs more memory and changes no result."""
FLAT = 1e-24
"""A resample whose variance is below this share of the column's variance counts as constant."""

TIE = 1e-12
"""A resample counts as equal to the whole table if their coefficients are closer than this, as rounding makes them."""

Interval = tuple[float, float] | None
Coefficient = Callable[[np.ndarray, np.ndarray], float]

_normal = NormalDist()


def bootstrap(x: np.ndarray, y: np.ndarray, confidence: float, seed: int) -> dict[str, Interval]:
    """BCa intervals of the three coefficients by name, for float64 columns [n]; None where one is undefined."""
    n = len(x)
    rows = np.random.default_rng(seed).integers(0, n, (NUM_RESAMPLES, n))
    rows += n * np.arange(NUM_RESAMPLES)[:, None]
    drawn = np.bincount(rows.ravel(), minlength=rows.size).reshape(rows.shape)
    counts = np.concatenate([np.ones((1, n)), 1 - np.eye(n), drawn])  # all rows, all but one, the resamples
    size = max(1, CHUNK_VALUES // n)
    parts = [_resampled(x, y, counts[start : start + size]) for start in range(0, len(counts), size)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: _bca(float(all_[0]), all_[1 : n + 1], all_[n + 1 :], confidence) for name, all_ in found.items()}


def _resampled(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Each coefficient by name, one value per row of `counts` [B, n]; NaN where a resampled column is constant."""
    order_x, order_y = (np.sign(column[:, None] - column) for column in (x, y))
    centred = (column - (counts @ column / counts.sum(1))[:, None] for column in (x, y))
    ranks = (counts @ order.T for order in (order_x, order_y))  # twice the mean ranks in the resample, less their mean
    pairs = (((counts @ product) * counts).sum(1) for product in _products(order_x, order_y))
    return {
        "pearson": _ratio(*((counts * product).sum(1) for product in _products(*centred))),
        "spearman": _ratio(*((counts * product).sum(1) for product in _products(*ranks))),
        "kendall": _ratio(*pairs),
    }


def _products(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return a * b, a * a, b * b


def _ratio(joint: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """joint / sqrt(first * second); NaN where `first` or `second` is 0 apart from rounding."""
    is_flat = np.minimum(first, second) < FLAT
    return np.where(is_flat, np.nan, joint / np.sqrt(np.where(is_flat, 1.0, first * second)))


def _bca(value: float, without_one: np.ndarray, drawn: np.ndarray, confidence: float) -> Interval:
    """The bias-corrected and accelerated (BCa) interval of Efron (1987). Undefined resamples are left out.

    None if all resamples agree, as for a perfect order, because the spread is then unknown.
    """
    drawn = drawn[np.isfinite(drawn)]
    below = ((drawn < value - TIE).mean() + (drawn < value + TIE).mean()) / 2 if len(drawn) else 0.0
    influence = without_one.mean() - without_one
    power = (influence**2).sum() ** 1.5
    if not (0 < below < 1 and power > 0 and np.ptp(drawn) > 1e-9):  # also False if `influence` contains NaN
        return None
    bias, acceleration = _normal.inv_cdf(below), (influence**3).sum() / (6 * power)
    shares = []
    for share in ((1 - confidence) / 2, (1 + confidence) / 2):
        shifted = bias + _normal.inv_cdf(share)
        shares.append(_normal.cdf(bias + shifted / (1 - acceleration * shifted)))
    low, high = np.quantile(drawn, shares)
    return float(low), float(high)


def jackknife(
    x: np.ndarray, y: np.ndarray, coefficients: Mapping[str, Coefficient], confidence: float, seed: int
) -> dict[str, Interval]:
    """Normal intervals of atanh(coefficient); the spread comes from leaving out each of `NUM_GROUPS` random groups."""
    groups = np.array_split(np.random.default_rng(seed).permutation(len(x)), NUM_GROUPS)
    quantile = _normal.inv_cdf((1 + confidence) / 2)
    found: dict[str, Interval] = {}
    for name, coefficient in coefficients.items():
        value = coefficient(x, y)
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.simplefilter("ignore")  # a column that is constant without a group gives NaN
            parts = np.array([coefficient(np.delete(x, group), np.delete(y, group)) for group in groups])
        found[name] = None
        if max(abs(value), np.abs(parts).max()) < 1:  # False as well if a column is constant without a group
            error = np.sqrt((NUM_GROUPS - 1) * np.arctanh(parts).var())
            low, high = np.tanh(np.arctanh(value) + np.array([-quantile, quantile]) * error)
            found[name] = float(low), float(high)
    return found
