"""Correlation of two columns of numbers: Pearson, Spearman and Kendall, each with an interval.

Equal values share their mean rank, and Kendall's coefficient is tau-b.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fdr.comparison.intervals import MAX_BOOTSTRAP_ROWS, NUM_RESAMPLES, intervals
from fdr.errors import InputError

MIN_ROWS = 3
"""Below this number of rows there is an error."""
MIN_ROWS_FOR_INTERVALS = 5
"""Below this number of rows there are no intervals."""
BRUTE_FORCE = 128
"""Up to this number of rows inversions are counted pair by pair. It affects the speed only."""
ROUNDING = 1e-13
"""A column whose spread is below this share of its largest value counts as constant."""


@dataclass(frozen=True)
class Coefficient:
    """A correlation coefficient and its interval. Too few rows or a perfect order give no interval."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Correlations:
    """The three coefficients of two columns."""

    count: int
    """Number of rows."""
    confidence: float
    """The confidence of the intervals, such as 0.95."""
    method: str | None
    """How the intervals were computed: "bca" or "jackknife"; None for too few rows."""
    resamples: int | None
    seed: int
    pearson: Coefficient
    spearman: Coefficient
    kendall: Coefficient

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `fdr correlate --json` writes it."""
        return asdict(self)


def correlate(
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | np.ndarray,
    confidence: float = 0.95,
    seed: int = 0,
    *,
    names: tuple[str, str] = ("x", "y"),
) -> Correlations:
    """Compute Pearson's, Spearman's and Kendall's coefficients of two columns [n], with intervals.

    The intervals are BCa bootstrap intervals over 9,999 resamples of the rows. Above 500 rows they are jackknife
    intervals of atanh(coefficient); below 5 rows there are none. `seed` draws the resamples; `names` appear in errors.
    Raises `InputError` for columns of unequal length, below 3 rows, with NaN or infinities, or constant.
    """
    if not 0 < confidence < 1:
        raise InputError(f"The confidence of an interval lies between 0 and 1, as 0.95 does; got {confidence:g}.")
    columns = tuple(_checked(column, name) for column, name in zip((x, y), names, strict=True))
    count = len(columns[0])
    if count != len(columns[1]):
        raise InputError(
            f"Two columns of one length correlate; {names[0]} has {count} values, {names[1]} {len(columns[1])}."
        )
    if count < MIN_ROWS:
        raise InputError(f"A correlation needs at least {MIN_ROWS} rows with both numbers; got {count}.")
    first, second = (_standardised(column, name) for column, name in zip(columns, names, strict=True))
    values = {name: function(first, second) for name, function in COEFFICIENTS.items()}
    method = None if count < MIN_ROWS_FOR_INTERVALS else "bca" if count <= MAX_BOOTSTRAP_ROWS else "jackknife"
    found = {} if method is None else intervals(first, second, COEFFICIENTS, confidence, seed)
    ends = {name: found.get(name) or (None, None) for name in values}
    return Correlations(
        count,
        confidence,
        method,
        NUM_RESAMPLES if method == "bca" else None,
        seed,
        **{name: Coefficient(value, *ends[name]) for name, value in values.items()},
    )


def _checked(column: Sequence[float] | np.ndarray, name: str) -> np.ndarray:
    try:
        values = np.asarray(column, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"Column {name} holds what is no number ({error}).") from error
    if values.ndim != 1:
        raise InputError(f"Column {name} is one list of numbers; got shape {list(values.shape)}.")
    if not np.isfinite(values).all():
        raise InputError(f"Column {name} holds {values[~np.isfinite(values)][0]}; leave such rows out.")
    return values


def _standardised(column: np.ndarray, name: str) -> np.ndarray:
    """Shift the column to mean 0 and scale it to largest size 1, which changes no coefficient and avoids overflow."""
    largest = np.abs(column).max()
    centred = column / (largest or 1.0)
    centred = centred - centred.mean()
    spread = np.abs(centred).max()
    if np.ptp(column) == 0 or spread < ROUNDING:
        raise InputError(
            f"Column {name} is constant ({column[0]:g} in all {len(column)} rows): nothing correlates with it."
        )
    return centred / spread


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's r: the cosine of the centred columns."""
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rho: Pearson's r of the ranks."""
    return pearson(ranks(x), ranks(y))


def kendall(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's tau-b, in O(n log n): discordant pairs are the inversions of y in the order of x (Knight 1966)."""
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    pairs = len(x) * (len(x) - 1) // 2
    tied_x, tied_y = _tied_pairs(np.unique(x, return_counts=True)[1]), _tied_pairs(np.unique(y, return_counts=True)[1])
    tied_both = _tied_pairs(np.unique(np.stack([x, y]), axis=1, return_counts=True)[1])
    balance = pairs - tied_x - tied_y + tied_both - 2 * _inversions(y)[0]
    return float(balance / np.sqrt(float(pairs - tied_x) * float(pairs - tied_y)))


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, starting at 1; equal values share their mean rank."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[places]


def _tied_pairs(counts: np.ndarray) -> int:
    return int((counts * (counts - 1) // 2).sum())


def _inversions(values: np.ndarray) -> tuple[int, np.ndarray]:
    """The number of pairs in descending order (inversions), and the sorted values."""
    if len(values) <= BRUTE_FORCE:
        return int(np.triu(values[:, None] > values[None, :], k=1).sum()), np.sort(values)
    middle = len(values) // 2
    (left_count, left), (right_count, right) = _inversions(values[:middle]), _inversions(values[middle:])
    across = int((middle - np.searchsorted(left, right, side="right")).sum())
    return left_count + right_count + across, np.sort(np.concatenate([left, right]), kind="stable")


COEFFICIENTS = {"pearson": pearson, "spearman": spearman, "kendall": kendall}
"""Name -> function of two float64 columns [n], neither of them constant."""
