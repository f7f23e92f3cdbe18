"""Standard errors of FD and of the debiased FD: leave-one-out, closed forms, and the spread over draws."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from covariances import features

import fdr
from fdr.errors import InputError
from fdr.frechet import Moments, fd_influence, frechet_distance
from fdr.frechet.correction import correct
from fdr.frechet.uncertainty import corrected_influence, jackknife_stderr, without
from fdr.frechet.whitening import Side

CPU = torch.device("cpu")


def with_rows(x: np.ndarray) -> Moments:
    return replace(Moments.from_features(x), rows=x)


def two_sets() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.standard_t(8, size=(60, 5)) * np.arange(1, 6)
    return x, generator.normal(size=(80, 5)) * 1.3 + 0.2


def assert_moves(influence: np.ndarray | None, left_out: list[float]) -> None:
    """The influence is what leaving out one sample after another does, up to terms of order 1/N."""
    assert influence is not None
    direct = np.array(left_out) * (len(left_out) - 1)
    direct -= direct.mean()
    assert np.corrcoef(direct, influence)[0, 1] > 0.999
    assert direct @ influence / (influence @ influence) == pytest.approx(1, abs=0.08)


def test_leaving_out_one_sample_moves_fd_by_its_influence() -> None:
    x, y = two_sets()
    found, full = fd_influence(with_rows(x), with_rows(y)), frechet_distance(x, y)
    assert_moves(found.samples, [full - frechet_distance(np.delete(x, i, 0), y) for i in range(60)])
    assert_moves(found.reference, [full - frechet_distance(x, np.delete(y, i, 0)) for i in range(80)])
    assert abs(found.samples.mean()) < 1e-12 * abs(found.samples).max()


def test_leaving_out_one_sample_moves_the_debiased_fd_by_its_influence() -> None:
    x, y = two_sets()
    sides = Side.of(x), Side.of(y)
    estimate = correct(*sides, CPU, step=0.25, keep=3)
    found = corrected_influence(sides, estimate)
    left_out = [
        [estimate.value - correct(without(sides[0], np.array([i])), sides[1], CPU, step=0.25).value for i in range(60)],
        [estimate.value - correct(sides[0], without(sides[1], np.array([i])), CPU, step=0.25).value for i in range(80)],
    ]
    assert_moves(found.samples, left_out[0])
    assert_moves(found.reference, left_out[1])


def test_the_gaussian_closed_form_where_both_are_equal() -> None:
    """(1/N)^2 [sum w_ij^2 + sum w_ii^2 + 2 tr S^2] with w = 1/2 for N(0, I): (d^2/4 + d/4 + 2 d) / N^2."""
    x = np.random.default_rng(0).normal(size=(4000, 16))
    found = fd_influence(with_rows(x), Moments(np.zeros(16), np.eye(16)))
    expected = (16**2 / 4 + 16 / 4 + 2 * 16) / 4000**2
    assert math.sqrt(found.second_order) == pytest.approx(math.sqrt(expected), rel=0.06)
    assert 0.95 * math.sqrt(expected) < found.stderr < 1.5 * math.sqrt(expected)


def test_the_spread_over_draws_where_the_distance_is_not_zero() -> None:
    generator, reference = np.random.default_rng(0), Moments(np.zeros(6), np.eye(6))
    draws = [generator.normal(0.3, 1.3, size=(300, 6)) for _ in range(150)]
    spread = np.std([frechet_distance(x, reference) for x in draws])
    stated = np.mean([fd_influence(with_rows(x), reference).stderr for x in draws[:20]])
    assert stated == pytest.approx(spread, rel=0.15)


def test_the_spread_over_draws_of_the_debiased_fd() -> None:
    generator, reference = np.random.default_rng(0), Moments(np.zeros(6), np.eye(6))
    draws = [generator.normal(0.3, 1.3, size=(300, 6)) for _ in range(100)]
    spread = np.std([fdr.debiased_frechet_distance(x, reference, stderr=False).value for x in draws])
    one = fdr.debiased_frechet_distance(draws[0], reference)
    assert one.stderr_method == "influence" and one.noise == "samples"
    assert one.stderr == pytest.approx(spread, rel=0.25)
    side = Side.of(draws[0])
    assert jackknife_stderr((side, Side(reference, None)), CPU) == pytest.approx(spread, rel=0.5)


def test_noise_of_the_reference_counts_where_its_features_are_known() -> None:
    x, y = two_sets()
    alone, both = fd_influence(with_rows(x), Moments.from_features(y)), fd_influence(with_rows(x), with_rows(y))
    assert alone.reference is None and both.reference is not None and len(both.reference) == 80
    assert alone.first_order == pytest.approx(np.var(both.samples) / 60)
    assert both.first_order == pytest.approx(np.var(both.samples) / 60 + np.var(both.reference) / 80)
    assert both.second_order == pytest.approx(alone.second_order * (1 + 60 / 80) ** 2)


def test_few_samples_keep_their_features_in_the_moments() -> None:
    x = features(12, 20, 0)
    reference = Moments(np.zeros(20), np.eye(20))
    kept = fd_influence(Moments.from_features(x), reference)
    assert kept.stderr == pytest.approx(fd_influence(with_rows(x), reference).stderr, rel=1e-6)


def test_a_part_of_the_rows_is_enough_and_is_seeded() -> None:
    x = np.random.default_rng(0).normal(0.5, 1.2, size=(5000, 8))
    reference = Moments(np.zeros(8), np.eye(8))
    whole = fd_influence(with_rows(x), reference)
    parts = [fd_influence(with_rows(x), reference, max_rows=1000) for _ in range(2)]
    assert len(whole.samples) == 5000 and len(parts[0].samples) == 1000
    assert parts[0].stderr == parts[1].stderr == pytest.approx(whole.stderr, rel=0.1)
    assert fd_influence(with_rows(x), reference, max_rows=5000).samples.tolist() == whole.samples.tolist()


def test_samples_without_features_have_no_influence() -> None:
    with pytest.raises(InputError, match="moments came without"):
        fd_influence(Moments.from_features(features(40, 5, 0)), Moments(np.zeros(5), np.eye(5)))


@pytest.mark.parametrize("count", [12, 60])
def test_moments_without_some_rows_are_those_of_the_rest(count: int) -> None:
    x = features(count, 20, 0)
    x[:, 3] = 0
    x[2, 3] = 1  # a feature that only the sample that is left out has
    left = without(Side.of(x), np.array([2, 7]))
    rest = np.delete(x, [2, 7], 0)
    expected = Moments.from_features(rest)
    np.testing.assert_allclose(left.moments.mu, expected.mu, atol=1e-13)
    np.testing.assert_allclose(left.moments.sigma, expected.sigma, atol=1e-12)
    assert left.moments.sigma[3, 3] == 0 and left.moments.count == count - 2
    np.testing.assert_array_equal(left.rows, rest)


def test_the_jackknife_serves_where_samples_are_few() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(0.5, 1, size=(100, 20)), generator.normal(size=(150, 20))
    found: Any = fdr.debiased_frechet_distance(x, y)
    assert found.stderr_method == "jackknife" and found.noise == "samples and reference"
    spread = np.std(
        [
            fdr.debiased_frechet_distance(
                generator.normal(0.5, 1, size=(100, 20)), generator.normal(size=(150, 20)), stderr=False
            ).value
            for _ in range(60)
        ]
    )
    assert 0.6 * spread < found.stderr < 2.5 * spread
    assert found.stderr == fdr.debiased_frechet_distance(x, y).stderr
