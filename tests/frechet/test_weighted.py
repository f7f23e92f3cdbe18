"""FD of weighted samples and its gradient, against NumPy, SciPy and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
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
from fdr.frechet.weighted import softmax
from fdr.frechet.weighted_rows import DeviceRows, HostRows

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


@pytest.mark.parametrize("reference_count", [200, 30], ids=["full-rank", "singular"])
def test_fewer_images_than_features_give_the_same_without_a_pass(reference_count: int) -> None:
    dim, step = 90, 1e-5
    rows, w = features(1, N, dim), log_weights()
    target = Moments.from_features(features(2, reference_count, dim))
    distance = WeightedFD(rows, target)
    value, gradient = distance(w)
    assert value == pytest.approx(frechet_distance(weighted_moments(rows, np.exp(w)), target), rel=1e-9)
    for index in (0, 7, 31):
        moved = np.zeros(N)
        moved[index] = step
        found = (distance(w + moved)[0] - distance(w - moved)[0]) / (2 * step)
        assert gradient[index] == pytest.approx(found, rel=1e-6, abs=1e-6)
    assert abs(gradient.sum()) < 1e-12 * abs(gradient).sum()


def test_float32_features_are_multiplied_in_float32_where_that_is_exact_enough() -> None:
    rows, w = features(1, 3000, 20).astype(np.float32), log_weights(3000)
    target = Moments.from_features(features(2, 3000, 20))
    value, gradient = WeightedFD(rows, target)(w)
    exact, slope = WeightedFD(rows.astype(np.float64), target)(w)
    assert value == pytest.approx(exact, rel=1e-6) and value != exact
    assert np.linalg.norm(gradient - slope) < 1e-3 * np.linalg.norm(slope)


def test_float32_features_of_a_bad_condition_are_multiplied_in_float64() -> None:
    draw = np.random.default_rng(0)
    turn = np.linalg.qr(draw.normal(size=(20, 20)))[0]
    scales = np.where(np.arange(20) < 10, 1e-5, 1.0)
    rows = ((draw.normal(size=(3000, 20)) * scales) @ turn).astype(np.float32)
    target, w = Moments.from_features(1e-3 * draw.normal(size=(3000, 20)) + rows), log_weights(3000)
    exact = WeightedFD(rows.astype(np.float64), target)(w)[0]
    assert WeightedFD(rows, target)(w)[0] == pytest.approx(exact, rel=1e-10)


def test_the_weights_found_in_float32_are_as_good() -> None:
    rows = features(1, 2000, 10).astype(np.float32)
    target = Moments.from_features(features(2, 2000, 10))
    exact = WeightedFD(rows.astype(np.float64), target)
    start = exact(np.zeros(2000))[0]
    (quick, _), (slow, _) = (lowest_fd_weights(one, target, steps=8) for one in (rows, rows.astype(np.float64)))
    ends = [exact(np.log(one))[0] for one in (quick, slow)]
    assert ends[0] == pytest.approx(ends[1], rel=1e-3) and ends[0] < 0.5 * start


def test_the_rows_of_a_gpu_give_what_those_of_a_processor_give() -> None:
    """The passes of CUDA, run by torch on the CPU, beside the BLAS of the CPU."""
    rows, shares = features(1, 300), softmax(log_weights(300))
    host, device = HostRows(rows, np.float64), DeviceRows(rows, torch.device("cpu"))
    (mean, sigma), (other_mean, other_sigma) = host.moments(shares), device.moments(shares)
    assert mean.numpy() == pytest.approx(other_mean.numpy(), rel=1e-9, abs=1e-12)
    assert sigma.numpy() == pytest.approx(other_sigma.numpy(), rel=1e-10)
    half_map = torch.from_numpy(features(3, D, 3))
    found, slopes = (each.slopes(mean, mean + 1, half_map) for each in (host, device))
    assert found == pytest.approx(slopes, rel=1e-9, abs=1e-9)


def test_it_ends_where_the_last_iterations_win_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, target = features(1), Moments.from_features(features(2))
    before = WeightedFD(rows, target)(np.zeros(N))[0]
    found, steps = lowest_fd_weights(rows, target)
    monkeypatch.setattr("fdr.frechet.weighted.LAST_SHARE", 0.0)
    longer, more = lowest_fd_weights(rows, target)
    after, least = (WeightedFD(rows, target)(np.log(one))[0] for one in (found, longer))
    assert steps < more and 0 <= after - least < 5e-3 * (before - least)


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
    monkeypatch.setattr("fdr.frechet.weighted_rows.CHUNK_VALUES", 1)
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
