"""fdr.comparison.coefficients: laws, SciPy, the published table of iFID, and how often the intervals hold the truth."""

from __future__ import annotations

import csv
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from fdr.comparison import Correlations, correlate
from fdr.comparison import intervals as _resampling
from fdr.comparison.coefficients import COEFFICIENTS, MIN_ROWS_FOR_INTERVALS
from fdr.errors import InputError

PUBLISHED = Path(__file__).parent / "ifid_published.csv"
"""iFID and gFID of 14 autoencoders: the README of arXiv 2603.05630's code; RAE has no gFID of SiT-B."""

NAMES = ("pearson", "spearman", "kendall")
ORACLES = {
    "pearson": lambda x, y: scipy.stats.pearsonr(x, y).statistic,
    "spearman": lambda x, y: scipy.stats.spearmanr(x, y).statistic,
    "kendall": lambda x, y: scipy.stats.kendalltau(x, y, variant="b").statistic,
}


def rows(count: int, slope: float = 0.8, seed: int = 0, decimals: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Correlated columns; rounded, they have ties."""
    random = np.random.default_rng(seed)
    x = random.standard_normal(count)
    y = slope * x + 0.6 * random.standard_normal(count)
    return (x, y) if decimals is None else (x.round(decimals), y.round(decimals))


def values(found: Correlations) -> dict[str, float]:
    return {name: getattr(found, name).value for name in NAMES}


def ends(found: Correlations) -> np.ndarray:
    return np.array([[getattr(found, name).low, getattr(found, name).high] for name in NAMES], dtype=float)


# --- the published table -------------------------------------------------------------------------------------------


def published(column: str, only_with: str) -> tuple[list[float], list[float]]:
    with open(PUBLISHED, newline="", encoding="utf-8") as file:
        table = [row for row in csv.DictReader(file) if row[only_with] != "-"]
    return [float(row["ifid"]) for row in table], [float(row[column]) for row in table]


@pytest.mark.parametrize(
    ("column", "only_with", "count", "pearson", "spearman", "kendall"),
    [
        ("gfid_xl", "gfid_xl", 14, 0.8958, 0.8813, 0.7582),
        ("gfid_b", "gfid_b", 13, 0.8555, 0.8297, None),
        ("gfid_xl", "gfid_b", 13, 0.8772, 0.8516, None),
    ],
)
def test_the_published_table_of_ifid(column, only_with, count, pearson, spearman, kendall):
    found = correlate(*published(column, only_with))
    assert found.count == count
    assert round(found.pearson.value, 4) == pearson and round(found.spearman.value, 4) == spearman
    assert kendall is None or round(found.kendall.value, 4) == kendall


def test_the_two_sizes_of_sit_agree():
    xl, b = published("gfid_xl", "gfid_b")[1], published("gfid_b", "gfid_b")[1]
    assert round(correlate(xl, b).pearson.value, 4) == 0.9930


# --- SciPy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 14, 127, 1000, 3001])
@pytest.mark.parametrize("decimals", [None, 0, 1])
def test_values_agree_with_scipy(count, decimals):
    x, y = rows(count, seed=count, decimals=decimals)
    found = correlate(x, y)
    for name, oracle in ORACLES.items():
        assert getattr(found, name).value == pytest.approx(oracle(x, y), abs=1e-13), name


@pytest.mark.parametrize("decimals", [None, 0])
def test_intervals_agree_with_scipy(monkeypatch, decimals):
    """The same resamples of the same seed, hence the same ends; of all 9,999 SciPy would take a minute."""
    monkeypatch.setattr(_resampling, "NUM_RESAMPLES", 199)
    x, y = rows(14, decimals=decimals)
    found = correlate(x, y, confidence=0.9, seed=5)
    assert found.method == "bca"
    for name, oracle in ORACLES.items():
        expected = scipy.stats.bootstrap(
            (x, y),
            oracle,
            paired=True,
            vectorized=False,
            method="BCa",
            confidence_level=0.9,
            n_resamples=199,
            rng=np.random.default_rng(5),
        ).confidence_interval
        own = getattr(found, name)
        assert (own.low, own.high) == (pytest.approx(expected.low, abs=1e-9), pytest.approx(expected.high, abs=1e-9))


# --- laws ----------------------------------------------------------------------------------------------------------

columns = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=12).filter(
    lambda pairs: len({x for x, _ in pairs}) > 1 and len({y for _, y in pairs}) > 1
)


@given(columns)
def test_every_value_with_ties_agrees_with_scipy(pairs):
    x, y = np.array(pairs, dtype=float).T
    for name, oracle in ORACLES.items():
        assert COEFFICIENTS[name](x, y) == pytest.approx(oracle(x, y), abs=1e-12)


def test_two_columns_are_exchangeable():
    x, y = rows(14)
    np.testing.assert_allclose(ends(correlate(x, y)), ends(correlate(y, x)), atol=1e-12)
    assert values(correlate(x, y)) == pytest.approx(values(correlate(y, x)), abs=1e-15)


def test_scale_and_origin_do_not_matter():
    x, y = rows(14)
    moved = correlate(1e200 * x, 1e-200 * (y + 3))
    np.testing.assert_allclose(ends(moved), ends(correlate(x, y)), atol=1e-9)


def test_a_mirrored_column_mirrors_everything():
    x, y = rows(14)
    np.testing.assert_allclose(ends(correlate(x, -y)), -ends(correlate(x, y))[:, ::-1], atol=1e-12)
    assert all(value < 0 for value in values(correlate(x, -y)).values())


def test_ranks_are_all_that_spearman_and_kendall_see():
    x, y = rows(14)
    bent, straight = correlate(np.exp(x), y**3), correlate(x, y)
    np.testing.assert_allclose(ends(bent)[1:], ends(straight)[1:], atol=1e-12)
    assert bent.spearman.value == straight.spearman.value and bent.kendall.value == straight.kendall.value
    assert abs(bent.pearson.value - straight.pearson.value) > 0.01


def test_the_order_of_rows_does_not_matter_to_values():
    x, y = rows(300, decimals=1)
    order = np.random.default_rng(1).permutation(300)
    for coefficient in COEFFICIENTS.values():
        assert coefficient(x[order], y[order]) == pytest.approx(coefficient(x, y), abs=1e-13)


def test_a_seed_gives_the_same_intervals_and_another_nearly_the_same():
    x, y = rows(14)
    assert correlate(x, y, seed=3) == correlate(x, y, seed=3)
    difference = np.abs(ends(correlate(x, y, seed=3)) - ends(correlate(x, y, seed=4))).max()
    assert 0 < difference < 0.05


def test_more_confidence_is_a_wider_interval():
    x, y = rows(14)
    widths = [np.diff(ends(correlate(x, y, confidence))) for confidence in (0.5, 0.8, 0.95, 0.99)]
    assert (np.diff(widths, axis=0) > 0).all()


@pytest.mark.parametrize("slope", [0.0, 0.9])
def test_intervals_hold_the_truth_about_as_often_as_they_say(monkeypatch, slope):
    """60 tables of 14 rows; of 60 fair ones at 0.95, fewer than 51 hold it with a chance of 0.001."""
    monkeypatch.setattr(_resampling, "NUM_RESAMPLES", 1_999)
    rho = slope / math.hypot(slope, 0.6)
    truth = (rho, 6 / math.pi * math.asin(rho / 2), 2 / math.pi * math.asin(rho))
    found = np.array([ends(correlate(*rows(14, slope, seed))) for seed in range(60)])
    held = ((found[:, :, 0] <= truth) & (np.array(truth) <= found[:, :, 1])).sum(axis=0)
    assert (held >= 51).all(), held
    assert (np.nanmean(found[:, :, 1] - found[:, :, 0], axis=0) < 1.2).all()


def test_many_rows_are_jackknifed_to_much_the_same(monkeypatch):
    x, y = rows(300)
    drawn = correlate(x, y)
    monkeypatch.setattr(_resampling, "MAX_BOOTSTRAP_ROWS", 100)
    left_out = correlate(x, y)
    assert (drawn.method, left_out.method, left_out.resamples) == ("bca", "jackknife", None)
    np.testing.assert_allclose(ends(left_out), ends(drawn), atol=0.025)


def test_the_jackknife_is_the_textbook_one(seed=7):
    """501 rows are the fewest; the error of atanh(r) is sqrt((g - 1) / g * sum of squares) over g = 100 groups."""
    x, y = rows(501)
    found = correlate(x, y, confidence=0.9, seed=seed)
    groups = np.array_split(np.random.default_rng(seed).permutation(501), 100)
    for name, oracle in ORACLES.items():
        parts = np.arctanh([oracle(np.delete(x, group), np.delete(y, group)) for group in groups])
        error = math.sqrt(99 / 100 * ((parts - parts.mean()) ** 2).sum())
        expected = np.tanh(math.atanh(oracle(x, y)) + np.array([-1, 1]) * scipy.stats.norm.ppf(0.95) * error)
        own = getattr(found, name)
        assert (own.low, own.high) == pytest.approx(tuple(expected), abs=1e-12), name
    assert (correlate(x[:500], y[:500]).method, found.method) == ("bca", "jackknife")


def test_a_column_that_is_constant_without_one_group_has_no_interval():
    x, y = np.zeros(600), np.arange(600.0) % 7
    x[3] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(ends(correlate(x, y))).all()


def kendall_by_pairs(x, y):
    """tau-b from all pairs (Kendall 1945): concordant less discordant pairs, over the untied pairs of each column."""
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i in range(len(x)) for j in range(i)]
    return sum(a * b for a, b in signs) / math.sqrt(sum(a * a for a, _ in signs) * sum(b * b for _, b in signs))


@pytest.mark.parametrize("decimals", [None, 0])
def test_coefficients_agree_with_their_definitions(decimals):
    x, y = rows(40, decimals=decimals)
    mean_ranks = [[(np.sum(c < v) + np.sum(c <= v) + 1) / 2 for v in c] for c in (x, y)]
    found = values(correlate(x, y))
    assert found["pearson"] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-13)
    assert found["spearman"] == pytest.approx(np.corrcoef(mean_ranks)[0, 1], abs=1e-13)
    assert found["kendall"] == pytest.approx(kendall_by_pairs(x, y), abs=1e-13)


def test_thousands_of_rows():
    x, y = rows(5000)
    found = correlate(x, y)
    assert found.method == "jackknife"
    expected = scipy.stats.pearsonr(x, y).confidence_interval()  # exact for normal rows
    assert ends(found)[0] == pytest.approx([expected.low, expected.high], abs=0.003)


# --- few rows, perfect orders, refusals ----------------------------------------------------------------------------


def test_few_rows_have_values_and_no_intervals():
    found = correlate([1, 2, 4], [1, 3, 2])
    assert found.kendall.value == pytest.approx(1 / 3) and found.method is None
    assert np.isnan(ends(found)).all()
    assert MIN_ROWS_FOR_INTERVALS == 5
    assert [correlate(*rows(count)).method for count in (3, 4, 5, 6)] == [None, None, "bca", "bca"]
    assert np.isnan(ends(correlate(*rows(4)))).all() and not np.isnan(ends(correlate(*rows(6, slope=0.2)))).any()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_perfect_order_has_no_interval(sign):
    x = np.arange(8.0)
    found = correlate(x, sign * x)
    assert values(found) == {name: pytest.approx(sign, abs=1e-15) for name in NAMES}
    assert np.isnan(ends(found)).all()
    bent = correlate(x, sign * x**3)
    assert np.isnan(ends(bent)[1:]).all() and not np.isnan(ends(bent)[0]).any()


def test_a_perfect_order_of_many_rows_has_no_interval():
    x = np.arange(1000.0)
    assert np.isnan(ends(correlate(x, x**3))[1:]).all()


def test_resamples_of_one_value_are_left_out():
    """Of 6 rows with two values of x, 9 % of all draws hold one of them only."""
    found = correlate([0, 0, 0, 0, 1, 1], [1, 2, 3, 4, 5, 2.5])
    assert np.isfinite(ends(found)).all()
    assert np.isnan(ends(correlate([0, 0, 0, 0, 0, 1], [1, 2, 3, 4, 5, 3.5]))).all()  # without the last x is constant


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([1, 2, 3], [1, 2], "a has 3 values, b 2"),
        ([1, 2], [1, 2], "at least 3 rows .* got 2"),
        ([], [], "at least 3 rows .* got 0"),
        ([1, 2, math.nan], [1, 2, 3], "Column a holds nan"),
        ([1, 2, 3], [1, 2, math.inf], "Column b holds inf"),
        ([1, 2, 3], [5, 5, 5], r"Column b is constant \(5 in all 3 rows\)"),
        ([0, 0, 0], [5, 6, 5], r"Column a is constant \(0 in all"),
        ([1e15, 1e15 + 0.125, 1e15], [5, 6, 5], "Column a is constant"),
        ([[1, 2], [3, 4]], [1, 2], r"one list of numbers; got shape \[2, 2\]"),
        (["one", 2, 3], [1, 2, 3], "Column a holds what is no number"),
    ],
)
def test_what_cannot_be_correlated_is_refused(x, y, words):
    with pytest.raises(InputError, match=words):
        correlate(x, y, names=("a", "b"))


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5, math.nan])
def test_a_confidence_that_is_none_is_refused(confidence):
    with pytest.raises(InputError, match="between 0 and 1"):
        correlate(*rows(14), confidence)
