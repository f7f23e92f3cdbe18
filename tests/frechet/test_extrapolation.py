"""FD_inf and VALE: published weights and NumPy's polyfit as oracles, series in 1/n and closed forms as laws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

import fdr.frechet
from fdr.errors import InputError
from fdr.frechet import RULES, Moments, estimate_fd, extrapolate
from fdr.frechet.extrapolation import intercept_weights, subset_sizes

COUNTS = (100, 1000, 50_000, 123_457)


def features(count: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim))


@pytest.mark.parametrize("count", [50_000, 20_000, 1000])
def test_fd_inf_takes_fifteen_sizes_evenly_spaced_in_n(count: int) -> None:
    expected = np.linspace(min(5000, count // 10), count, 15).astype(int)
    assert np.abs(subset_sizes(count, RULES["fd_inf"]) - expected).max() <= 1  # their rounding of the float
    assert subset_sizes(count, RULES["fd_inf"])[[0, -1]].tolist() == expected[[0, -1]].tolist()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("count", COUNTS)
def test_weights_are_those_of_a_polynomial_fit(rule: str, count: int) -> None:
    """The weight of a value is what the intercept of `polyfit` becomes for that value alone."""
    kind, sizes = RULES[rule], subset_sizes(count, RULES[rule])
    root = np.sqrt(sizes) if kind.by_variance else None
    expected = [np.polyfit(sizes[0] / sizes, unit, kind.degree, w=root)[-1] for unit in np.eye(len(sizes))]
    np.testing.assert_allclose(intercept_weights(sizes, kind), expected, rtol=1e-9, atol=1e-12)


def test_weights_of_vale_are_the_published_ones() -> None:
    """The authors' configs/paper/imagenet/development_selection.json, for 50,000 Inception features."""
    published = {
        "vale1": {0: -0.11111111111111138, -1: 1.1111111111111112},
        "vale2": {0: 0.06604016021469129, 8: -0.15222173926878205, -2: 0.530591353378504, -1: 0.6605309225978343},
        "vale3": {0: -0.09506091370984787, 11: -0.16740126499258148, -1: 0.950154152821504},
    }
    for rule, some in published.items():
        weights = intercept_weights(subset_sizes(50_000, RULES[rule]), RULES[rule])
        np.testing.assert_allclose(weights[list(some)], list(some.values()), rtol=1e-10)
    assert subset_sizes(50_000, RULES["vale2"])[[1, 7, 13]].tolist() == [5057, 9091, 44931]


@pytest.mark.parametrize("rule", RULES)
def test_a_series_in_1_over_n_is_extrapolated_exactly(rule: str) -> None:
    degree = RULES[rule].degree
    terms = np.array([3.0, 500.0, -2e4, 1e6])[: degree + 1]
    fit = extrapolate(lambda chosen: float(terms @ (1.0 / len(chosen)) ** np.arange(degree + 1)), 2000, RULES[rule])
    assert fit.value == pytest.approx(3, rel=1e-9)
    assert fit.slope == pytest.approx(500, rel=1e-9)
    assert fit.r_squared == pytest.approx(1)
    assert fit.weights.sum() == pytest.approx(1) and fit.weights @ (1 / fit.sizes) == pytest.approx(0, abs=1e-12)


def test_sizes_that_rounding_makes_equal_count_once() -> None:
    sizes = subset_sizes(100, RULES["vale2"])
    assert len(sizes) < 15 and (np.diff(sizes) > 0).all() and sizes[[0, -1]].tolist() == [10, 100]


def test_a_constant_has_a_perfect_fit() -> None:
    fit = extrapolate(lambda chosen: 2.0, 500, RULES["fd_inf"])
    assert (fit.value, fit.r_squared) == (pytest.approx(2), 1.0)


def test_subsets_are_seeded_draws_without_replacement() -> None:
    seen: list[np.ndarray] = []

    def statistic(chosen: np.ndarray) -> float:
        seen.append(chosen)
        return float(chosen.mean())

    first = extrapolate(statistic, 200, RULES["fd_inf"], shuffles=2, seed=1)
    again = extrapolate(statistic, 200, RULES["fd_inf"], shuffles=2, seed=1)
    assert np.array_equal(first.values, again.values) and first.value == first.values.mean()
    assert extrapolate(statistic, 200, RULES["fd_inf"], seed=2).value != first.values[0]
    assert len(seen) == 2 * (1 + 2 * 14) + 15  # all samples once
    assert all((np.diff(chosen) > 0).all() and chosen.max() < 200 for chosen in seen)
    assert first.values[0] != first.values[1]


def test_noise_factors_are_those_of_means_and_of_their_squares() -> None:
    """A mean is a statistic of first order; the square of one whose expectation is 0 is of second order."""
    random, rule, count, draws = np.random.default_rng(0), RULES["fd_inf"], 40, 400
    found = np.empty((draws, 2, 2))
    for draw in found:
        x = random.standard_normal(count)
        fit, squares = (
            extrapolate(lambda chosen, x=x, p=p: float(x[chosen].mean() ** p), count, rule, shuffles=2, seed=seed)
            for p, seed in ((1, random.integers(2**40)), (2, random.integers(2**40)))
        )
        draw[:] = [[x.mean(), fit.value], [x.mean() ** 2, squares.value]]
    variance = found.var(0)
    first, second = fit.noise_factors()
    assert variance[0, 1] / variance[0, 0] == pytest.approx(first, rel=0.2)
    assert variance[1, 1] / variance[1, 0] == pytest.approx(second, rel=0.3)


def test_intercept_and_slope_of_white_features() -> None:
    """E FD = d/n + d(d+1)/(4(n-1)) + ... for N(0, I): no intercept, a slope of d + d(d+1)/4 = 1104 at d = 64."""
    found = estimate_fd(features(20_000, 64), Moments(np.zeros(64), np.eye(64)), method="fd_inf")
    assert abs(found.value) < 0.01
    assert found.details["slope"] == pytest.approx(1104, rel=0.03)
    assert found.details["r_squared"] > 0.998


def numpy_fd(rows: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> float:
    own = np.cov(rows, rowvar=False)
    return float(np.sum((rows.mean(0) - mu) ** 2) + np.trace(own + sigma - 2 * sqrtm(own @ sigma).real))


@pytest.mark.parametrize("method", RULES)
def test_estimates_agree_with_scipy_and_polyfit(method: str) -> None:
    rows, mu, rule = features(400, 6) * np.arange(1, 7), np.full(6, 0.1), RULES[method]
    sigma = np.diag(np.arange(1.0, 7) ** 2)
    found = estimate_fd(rows, Moments(mu, sigma), method=method, seed=5)
    random, sizes = np.random.default_rng(5), subset_sizes(400, rule)
    chosen = [random.permutation(400)[:size] for size in sizes[:-1]] + [np.arange(400)]
    curve = [numpy_fd(rows[numbers], mu, sigma) for numbers in chosen]
    weights = np.sqrt(sizes) if rule.by_variance else None
    assert found.value == pytest.approx(np.polyfit(1 / sizes, curve, rule.degree, w=weights)[-1], rel=1e-8)
    np.testing.assert_allclose(found.details["curve"], curve, rtol=1e-10)


def test_raw_and_debiased_are_the_functions_of_those_names() -> None:
    rows, other = features(200, 5), features(80, 5, seed=1)
    moments = Moments.from_features(other)
    exact = Moments(moments.mu, moments.sigma)
    assert estimate_fd(rows, other, method="raw").value == pytest.approx(fdr.frechet_distance(rows, other), rel=1e-12)
    found, expected = estimate_fd(rows, other, method="debiased"), fdr.debiased_frechet_distance(rows, exact)
    assert (found.value, found.stderr) == (expected.value, expected.stderr)
    assert found.details == {"raw": expected.raw, "regime": expected.regime, "bracket": expected.bracket}
    with pytest.raises(InputError, match=r"No debiased FD can be given: .*40 images for 30 dimensions"):
        estimate_fd(features(40, 30), features(90, 30), method="debiased")


@pytest.mark.parametrize("shift", [0.0, 0.5])
@pytest.mark.parametrize("method", ["raw", "fd_inf", "vale2", "rtd"])
def test_stderr_is_the_spread_over_draws(method: str, shift: float) -> None:
    """Equal distributions, where the noise is of second order, and different ones."""
    scale, random = np.arange(1, 5) ** -0.5, np.random.default_rng(1)
    reference = Moments(np.full(4, shift), np.diag(scale**2 * (1 + shift)))
    found = [
        estimate_fd(random.standard_normal((200, 4)) * scale, reference, method=method, shuffles=2) for _ in range(60)
    ]
    spread = np.std([one.value for one in found])
    assert np.sqrt(np.mean([one.stderr**2 for one in found])) == pytest.approx(spread, rel=0.35)


def test_no_stderr_where_none_was_asked_for_or_there_is_none() -> None:
    rows, reference = features(100, 4), Moments(np.zeros(4), np.eye(4))
    for method in ("raw", "debiased", "fd_inf", "rtd"):
        assert estimate_fd(rows, reference, method=method, stderr=False).stderr is None
    assert estimate_fd(rows, reference, method="rtd").stderr is None
    assert estimate_fd(rows, reference, method="fd_inf").stderr > 0


def test_bad_input_is_one_sentence() -> None:
    rows, reference = features(100, 5), Moments(np.zeros(5), np.eye(5))
    with pytest.raises(InputError, match="Unknown method 'fdinf'"):
        estimate_fd(rows, reference, method="fdinf")
    with pytest.raises(InputError, match=r"shape \[100, 4\]; expected \[N, 5\]"):
        estimate_fd(rows[:, :4], reference)
    with pytest.raises(InputError, match="shuffles is 0"):
        estimate_fd(rows, reference, method="rtd", shuffles=0)
    with pytest.raises(InputError, match="19 samples are too few to extrapolate from; it takes at least 20"):
        estimate_fd(rows[:19], reference)
