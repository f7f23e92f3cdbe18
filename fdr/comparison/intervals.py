"""Intervals of correlation coefficients: BCa bootstrap (Efron 1987), or the jackknife for many rows.

A resample of n rows is stored as n counts, which say how often each row is drawn. Many resamples are then one matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import NormalDist

import numpy as np

NUM_RESAMPLES = 9_999
MAX_BOOTSTRAP_ROWS = 500
"""Above this number of rows the jackknife is used: pairs for Kendall's coefficient would take too long to resample,
and the normal approximation is good enough."""
NUM_GROUPS = 100
CHUNK_VALUES = 1 << 20
"""Largest matrix of counts in memory, in values. A larger one needs more memory and changes no result."""
FLAT = 1e-24
"""A resample whose variance is below this share of the column's variance counts as constant."""

Interval = tuple[float, float] | None
Coefficient = Callable[[np.ndarray, np.ndarray], float]

_normal = NormalDist()


def intervals(
    x: np.ndarray, y: np.ndarray, coefficients: Mapping[str, Coefficient], confidence: float, seed: int
) -> dict[str, Interval]:
    """The intervals of `coefficients` by name, for float64 columns [n]; None where an interval is undefined."""
    values = {name: function(x, y) for name, function in coefficients.items()}
    generator = np.random.default_rng(seed)
    if len(x) > MAX_BOOTSTRAP_ROWS:
        return _jackknife(x, y, coefficients, values, confidence, generator)
    resamples = _Resamples(x, y)
    drawn = resamples.coefficients(_draw(len(x), generator))
    without_one = resamples.coefficients(1 - np.eye(len(x)))
    return {name: _bca(value, drawn[name], without_one[name], confidence) for name, value in values.items()}


def _draw(num_rows: int, generator: np.random.Generator) -> np.ndarray:
    """Draw rows with replacement; returns how often each row was drawn, [NUM_RESAMPLES, n]."""
    rows = generator.integers(0, num_rows, (NUM_RESAMPLES, num_rows))
    rows += num_rows * np.arange(NUM_RESAMPLES)[:, None]
    return np.bincount(rows.ravel(), minlength=rows.size).reshape(rows.shape).astype(np.float64)


class _Resamples:
    """Computes the three coefficients for many resamples of the same rows."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self._x, self._y = ((one - one.mean()) / one.std() for one in (x, y))
        self._places = tuple(np.unique(one, return_inverse=True)[1] for one in (x, y))
        order_x, order_y = (np.sign(one[:, None] - one[None, :]) for one in (x, y))
        self._pairs = (order_x * order_y, order_x**2, order_y**2)

    def coefficients(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Each coefficient by name, one value per row of `counts` [B, n]; NaN where a resampled column is constant."""
        size = max(1, CHUNK_VALUES // counts.shape[1])
        parts = [self._of(counts[start : start + size]) for start in range(0, len(counts), size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _of(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        ranks = (_ranks(counts, places) for places in self._places)
        agreement, *untied = (((counts @ pairs) * counts).sum(1) for pairs in self._pairs)
        return {
            "pearson": _pearson(counts, self._x, self._y),
            "spearman": _pearson(counts, *ranks),
            "kendall": _ratio(agreement, *untied),
        }


def _pearson(counts: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's r of the columns [n] or [B, n], weighted with `counts` [B, n]; one value per resample."""
    total = counts.sum(1, keepdims=True)
    x, y = (one - (counts * one).sum(1, keepdims=True) / total for one in (x, y))
    return _ratio(*((counts * product).sum(1) for product in (x * y, x * x, y * y)))


def _ratio(joint: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """joint / sqrt(first * second); NaN where `first` or `second` is 0 apart from rounding."""
    is_flat = np.minimum(first, second) < FLAT
    return np.where(is_flat, np.nan, joint / np.sqrt(np.where(is_flat, 1.0, first * second)))


def _ranks(counts: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Mean ranks [B, n] in each resample; `places` [n] numbers the distinct values in order."""
    order = np.argsort(places, kind="stable")
    starts = np.searchsorted(places[order], np.arange(places.max() + 1))
    per_value = np.add.reduceat(counts[:, order], starts, axis=1)
    return (per_value.cumsum(1) - (per_value - 1) / 2)[:, places]


def _bca(value: float, drawn: np.ndarray, without_one: np.ndarray, confidence: float) -> Interval:
    """The bias-corrected and accelerated (BCa) interval of Efron (1987). Undefined resamples are left out.

    None if all resamples agree, as for a perfect order, because the spread is then unknown.
    """
    drawn = drawn[np.isfinite(drawn)]
    below = ((drawn < value).mean() + (drawn <= value).mean()) / 2 if len(drawn) else 0.0
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


def _jackknife(
    x: np.ndarray,
    y: np.ndarray,
    coefficients: Mapping[str, Coefficient],
    values: Mapping[str, float],
    confidence: float,
    generator: np.random.Generator,
) -> dict[str, Interval]:
    """Normal intervals of atanh(coefficient); the spread comes from leaving out each of `NUM_GROUPS` random groups."""
    groups = np.array_split(generator.permutation(len(x)), NUM_GROUPS)
    parts: dict[str, list[float]] = {name: [] for name in coefficients}
    for group in groups:
        rest_x, rest_y = np.delete(x, group), np.delete(y, group)
        for name, function in coefficients.items():
            parts[name].append(function(rest_x, rest_y))
    quantile = _normal.inv_cdf((1 + confidence) / 2)
    found: dict[str, Interval] = {}
    for name, value in values.items():
        if abs(value) >= 1 or np.abs(parts[name]).max() >= 1:
            found[name] = None
            continue
        transformed = np.arctanh(parts[name])
        error = np.sqrt((NUM_GROUPS - 1) * transformed.var())
        centre = np.arctanh(value)
        found[name] = float(np.tanh(centre - quantile * error)), float(np.tanh(centre + quantile * error))
    return found
