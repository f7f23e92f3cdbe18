"""FD of weighted samples and its gradient, against NumPy, SciPy and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from fdr.errors import InputError
from fdr.frechet import (
    Moments,
    WeightedFD,
    effective_count,
    frechet_distance,
    lowest_fd_weights,
    weighted_moments,
)

N, D = 60, 5


def features(seed: int, count: int = N, dim: int = D) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(count, dim)) @ draw.normal(size=(dim, dim)) + draw.normal(size=dim)


def log_weights(count: int = N) -> np.ndarray:
    return np.random.default_rng(9).normal(size=count) * 0.7


def by_scipy(rows: np.ndarray, weights: np.ndarray, reference: np.ndarray) -> float:
    p = weights / weights.sum()
    m, n = p @ rows, len(rows)
    s = np.cov(rows.T, aweights=p, ddof=0) * n / (n - 1)
    other = np.cov(reference.T)
    root = np.trace(sqrtm(s @ other)).real
    return float(((m - reference.mean(0)) ** 2).sum() + np.trace(s) + np.trace(other) - 2 * root)


def test_the_value_is_that_of_scipy_and_of_the_distance_of_weighted_moments() -> None:
    rows, other, w = features(1), features(2), log_weights()
    target = Moments.from_features(other)
    value, _ = WeightedFD(rows, target)(w)
    assert value == pytest.approx(by_scipy(rows, np.exp(w), other), rel=1e-10)
    assert value == pytest.approx(frechet_distance(weighted_moments(rows, np.exp(w)), target), rel=1e-10)


@pytest.mark.parametrize("reference_count", [N, 4], ids=["full-rank", "singular"])
def test_the_gradient_is_that_of_finite_differences(reference_count: int) -> None:
    rows, w, step = features(1), log_weights(), 1e-5
    distance = WeightedFD(rows, Moments.from_features(features(2, reference_count)))
    _, gradient = distance(w)
    for index in (0, 7, 31):
        moved = np.zeros(N)
        moved[index] = step
        found = (distance(w + moved)[0] - distance(w - moved)[0]) / (2 * step)
        assert gradient[index] == pytest.approx(found, rel=1e-6, abs=1e-8)


def test_equal_weights_are_no_weights_and_a_common_factor_changes_nothing() -> None:
    rows = features(1)
    target = Moments.from_features(features(2))
    usual = Moments.from_features(rows)
    equal = weighted_moments(rows, np.full(N, 3.0))
    assert equal.mu == pytest.approx(usual.mu, rel=1e-12) and equal.sigma == pytest.approx(usual.sigma, rel=1e-11)
    distance, w = WeightedFD(rows, target), log_weights()
    assert distance(np.zeros(N))[0] == pytest.approx(frechet_distance(usual, target), rel=1e-11)
    assert distance(w + 5)[0] == pytest.approx(distance(w)[0], rel=1e-11)
    assert abs(distance(w)[1].sum()) < 1e-12 * abs(distance(w)[1]).sum()


def test_a_weight_of_two_is_a_row_twice_up_to_the_count() -> None:
    rows = features(1)
    twice = np.where(np.arange(N) < 10, 2.0, 1.0)
    repeated = np.concatenate([rows, rows[:10]])
    found = weighted_moments(rows, twice)
    assert found.mu == pytest.approx(repeated.mean(0), rel=1e-12)
    assert found.sigma == pytest.approx(np.cov(repeated.T, ddof=0) * N / (N - 1), rel=1e-10)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, w = features(1, 200), log_weights(200)
    target = Moments.from_features(features(2))
    whole = WeightedFD(rows, target)(w)
    monkeypatch.setattr("fdr.frechet.weighted.CHUNK_VALUES", 1)
    parts = WeightedFD(rows, target)(w)
    assert parts[0] == pytest.approx(whole[0], rel=1e-12) and parts[1] == pytest.approx(whole[1], rel=1e-9)


def test_the_optimised_weights_lower_fd_and_are_stationary() -> None:
    rows, target = features(1), Moments.from_features(features(1)[:40])
    distance = WeightedFD(rows, target)
    weights, steps = lowest_fd_weights(rows, target, steps=200)
    before, slope = distance(np.zeros(N))
    after, rest = distance(np.log(weights))
    assert weights.mean() == pytest.approx(1) and 0 < steps <= 200
    assert after < 0.01 * before and np.linalg.norm(rest) < 0.05 * np.linalg.norm(slope)


def test_the_effective_count() -> None:
    assert effective_count(np.full(7, 0.2)) == pytest.approx(7)
    assert effective_count(np.array([1.0, 1, 0, 0])) == pytest.approx(2)


def test_bad_weights_and_widths_are_one_sentence() -> None:
    rows = features(1)
    for weights in (np.ones(N - 1), np.full(N, np.nan), np.zeros(N), -np.ones(N)):
        with pytest.raises(InputError, match="Weights must be 60 numbers of 0 or more"):
            weighted_moments(rows, weights)
    with pytest.raises(InputError, match="same encoder and output"):
        WeightedFD(rows[:, :3], Moments.from_features(rows))
    with pytest.raises(InputError, match="at least 2"):
        WeightedFD(rows[:1], Moments.from_features(rows))
