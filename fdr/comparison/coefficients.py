"""Correlation of two columns of numbers: Pearson, Spearman and Kendall, each with an interval.

Equal values share their mean rank, and Kendall's coefficient is tau-b.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from fdr.comparison import intervals
from fdr.errors import InputError

MIN_ROWS = 3
"""Below this number of rows there is an error."""
MIN_ROWS_FOR_INTERVALS = 5
"""Below this number of rows there are no intervals."""
ROUNDING = 1e-13
"""A column whose spread is below this share of its largest value counts as constant."""


COEFFICIENTS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "pearson": lambda x, y: float(stats.pearsonr(x, y).statistic),
    "spearman": lambda x, y: float(stats.spearmanr(x, y).statistic),
    "kendall": lambda x, y: float(stats.kendalltau(x, y).statistic),
}
"""Name -> function of two float64 columns [n], neither of them constant."""


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
    method, resamples, ends = None, None, {}
    if count > intervals.MAX_BOOTSTRAP_ROWS:
        method, ends = "jackknife", intervals.jackknife(first, second, COEFFICIENTS, confidence, seed)
    elif count >= MIN_ROWS_FOR_INTERVALS:
        method, resamples = "bca", intervals.NUM_RESAMPLES
        ends = intervals.bootstrap(first, second, confidence, seed)
    found = {
        name: Coefficient(coefficient(first, second), *(ends.get(name) or (None, None)))
        for name, coefficient in COEFFICIENTS.items()
    }
    return Correlations(count, confidence, method, resamples, seed, **found)


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
