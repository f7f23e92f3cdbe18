"""RTD: the estimator written out in NumPy as oracle; closed forms and the series of the square root as laws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.linalg import helmert
from scipy.special import binom

from fdr.errors import InputError
from fdr.frechet import Moments, estimate_fd
from fdr.frechet.relative_taylor import degree_for, helmert_contrasts, relative_taylor_fd, taylor_term

S = np.array([0.3, 1.0, 2.5])


def symmetric(count: int, dim: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((count, dim, dim))
    return x + x.swapaxes(1, 2)


def term(s: np.ndarray, directions: np.ndarray) -> float:
    return taylor_term(torch.from_numpy(s), list(torch.from_numpy(directions)))


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e5])
def test_it_goes_with_the_square_of_the_scale_of_the_features(scale: float) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 5)), 1.1 * rng.standard_normal((900, 5))
    plain, scaled = (
        relative_taylor_fd(x * s, Moments.from_features(y * s), torch.device("cpu")).value for s in (1.0, scale)
    )
    assert scaled / scale**2 == pytest.approx(plain, rel=1e-9)


def test_contrasts_are_those_of_scipy() -> None:
    rows = np.random.default_rng(0).standard_normal((9, 3))
    np.testing.assert_allclose(helmert_contrasts(rows, 0, 8), helmert(9) @ rows, atol=1e-14)
    np.testing.assert_allclose(helmert_contrasts(rows, 3, 7), (helmert(9) @ rows)[3:7], atol=1e-14)


def test_contrasts_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    whole = helmert_contrasts(rows, 5, 39)
    monkeypatch.setattr("fdr.frechet.relative_taylor.ROWS", 7)
    np.testing.assert_allclose(helmert_contrasts(rows, 5, 39), whole, atol=1e-14)


@pytest.mark.parametrize("degree", [2, 3, 5])
def test_the_term_of_diagonal_matrices_is_that_of_scalars(degree: int) -> None:
    values = np.random.default_rng(1).standard_normal((degree, 3))
    expected = -2 * binom(0.5, degree) * (S * values.prod(0)).sum()
    assert term(S, np.array([np.diag(v) for v in values])) == pytest.approx(expected, rel=1e-12)


def test_the_second_term_has_the_weights_of_the_first_order_bias() -> None:
    v, u = symmetric(2, 3)
    weights = np.outer(S, S) / np.add.outer(S, S)
    assert term(S, np.array([v, u])) == pytest.approx(0.5 * (v * u * weights).sum(), rel=1e-12)


def test_the_terms_sum_to_the_square_root() -> None:
    v = 0.05 * symmetric(1, 3)[0]
    exact = -2 * np.sqrt(np.linalg.eigvalsh(np.diag(S) @ (np.eye(3) + v) @ np.diag(S))).sum()
    terms = [term(S, np.array([v] * degree)) for degree in range(2, 9)]
    assert -2 * S.sum() - (S * np.diag(v)).sum() + sum(terms) == pytest.approx(exact, abs=1e-8)


def test_the_term_is_symmetric_and_linear() -> None:
    a, b, c, d = symmetric(4, 3)
    assert term(S, np.array([a, b, c])) == pytest.approx(term(S, np.array([c, a, b])), rel=1e-12)
    parts = term(S, np.array([a, b, c])) + 2 * term(S, np.array([a, b, d]))
    assert term(S, np.array([a, b, c + 2 * d])) == pytest.approx(parts, rel=1e-12)


def homogeneous(s: np.ndarray, v: np.ndarray, degree: int) -> float:
    """The coefficient of z^degree of -2 tr (C (1 + z V) C)^1/2, from the series of the matrix itself."""
    found = [np.diag(s)]
    for order in range(1, degree + 1):
        rest = sum((found[i] @ found[order - i] for i in range(1, order)), np.zeros_like(v))
        found.append(((np.diag(s) @ v @ np.diag(s) if order == 1 else 0) - rest) / np.add.outer(s, s))
    return -2 * float(np.trace(found[degree]))


def polarised(s: np.ndarray, directions: list[np.ndarray]) -> float:
    total, degree = 0.0, len(directions)
    for chosen in itertools.product((0, 1), repeat=degree):
        v = sum((x for x, take in zip(directions, chosen, strict=True) if take), np.zeros((len(s), len(s))))
        total += (-1) ** (degree - sum(chosen)) * homogeneous(s, v, degree)
    return total / math.factorial(degree)


def numpy_rtd(rows: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> float:
    count, dim = rows.shape
    contrasts = helmert(count) @ rows
    pilot, others = np.split(contrasts, [int(0.6 * count)])
    degree = max(2, math.ceil(math.log(dim / min(1, math.sqrt(dim / len(others)))) / math.log(4)))
    b = pilot.T @ pilot / len(pilot)
    root, back = (matrix_root(x) for x in (sigma, b))
    _, s, right = np.linalg.svd(root @ back)
    z = others @ np.linalg.inv(back) @ right.T
    groups = np.array_split(z, degree)
    total = np.trace(sigma + b) - 2 * s.sum() + (others**2).sum() / len(others) - np.trace(b)
    total -= s @ np.diag(z.T @ z / len(z) - np.eye(dim))
    for k in range(2, degree + 1):
        joined = [np.concatenate([groups[i] for i in part]) for part in np.array_split(np.arange(degree), k)]
        total += polarised(s, [x.T @ x / len(x) - np.eye(dim) for x in joined])
    return float(total + np.sum((rows.mean(0) - mu) ** 2))


def matrix_root(x: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(x)
    return (vectors * np.sqrt(values)) @ vectors.T


@pytest.mark.parametrize(("count", "dim"), [(61, 5), (150, 12)])
def test_the_estimate_agrees_with_numpy(count: int, dim: int) -> None:
    rows = np.random.default_rng(3).standard_normal((count, dim)) * np.arange(1, dim + 1) ** -0.5
    mu, sigma = np.full(dim, 0.2), np.diag(1 / np.arange(1.0, dim + 1)) + 0.05
    found = estimate_fd(rows, Moments(mu, sigma), method="rtd", seed=4)
    shuffled = rows[np.random.default_rng(4).permutation(count)]
    assert found.value == pytest.approx(numpy_rtd(shuffled, mu, sigma), rel=1e-9)
    assert found.details["degree"] == degree_for(dim, count - 1 - int(0.6 * count))
    assert found.details["pilot"] == int(0.6 * count)


def test_only_the_bias_of_the_mean_is_left() -> None:
    """The mean term keeps its bias tr S / N = 0.04; FD without correction has 0.04 + 0.09."""
    random, reference = np.random.default_rng(5), Moments(np.zeros(8), np.eye(8))
    draws = [
        [estimate_fd(rows, reference, method=m).value for m in ("rtd", "raw")]
        for rows in random.standard_normal((150, 200, 8))
    ]
    rtd, raw = np.transpose(draws)
    assert abs(rtd.mean() - 0.04) < 3 * rtd.std() / math.sqrt(len(rtd)) + 0.003
    assert raw.mean() == pytest.approx(0.13, abs=0.01)


def test_shuffles_are_averaged_and_their_spread_is_shown() -> None:
    rows, reference = np.random.default_rng(6).standard_normal((100, 5)), Moments(np.zeros(5), np.eye(5))
    found = estimate_fd(rows, reference, method="rtd", shuffles=3)
    assert found.details["spread_of_shuffles"] > 0 and found.details["shuffles"] == 3
    assert found.value != estimate_fd(rows, reference, method="rtd").value
    assert estimate_fd(rows, reference, method="rtd").details["spread_of_shuffles"] is None


def test_dead_features_are_left_out() -> None:
    rows = np.random.default_rng(7).standard_normal((120, 6))
    dead = np.hstack([rows, np.zeros((120, 2))])
    found = estimate_fd(dead, Moments(np.zeros(8), np.diag([1.0] * 6 + [0.0] * 2)), method="rtd")
    alive = estimate_fd(rows, Moments(np.zeros(6), np.eye(6)), method="rtd")
    assert found.value == pytest.approx(alive.value, rel=1e-9)


def test_too_few_samples_for_the_pilot_are_refused() -> None:
    rows, reference = np.random.default_rng(8).standard_normal((60, 40)), Moments(np.zeros(40), np.eye(40))
    with pytest.raises(InputError, match=r"60 samples of 40 dimensions: its pilot of 36 does not span"):
        estimate_fd(rows, reference, method="rtd")
    with pytest.raises(InputError, match="at least 11 samples; got 10"):
        estimate_fd(rows[:10, :2], Moments(np.zeros(2), np.eye(2)), method="rtd")
