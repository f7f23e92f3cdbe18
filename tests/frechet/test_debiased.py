"""The debiased Fréchet distance: closed forms, printed digits of an independent implementation, laws and refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from drawn_features import det_features

import fdr
from fdr.errors import FdrWarning, InputError, RunError
from fdr.frechet import LeverageCurve, Moments, frechet_distance, leverage_curve
from fdr.frechet.correction import correct, spectral_sum
from fdr.frechet.leverages import Ridges, measure_leverages
from fdr.frechet.regimes import is_class_balanced, regime_of
from fdr.frechet.uncertainty import corrected_influence
from fdr.frechet.whitening import Side, whiten

CPU = torch.device("cpu")
GRADED = Moments(np.zeros(16), np.diag(1 / np.arange(1, 17)))
"""Exact moments of which det_features(N, 16, ...) are samples, but for their heavy tails."""


def isotropic(dim: int) -> Moments:
    return Moments(np.zeros(dim), np.eye(dim))


def debiased(samples: Any, reference: Any, **options: Any) -> fdr.frechet.DebiasedFD:
    return fdr.debiased_frechet_distance(samples, reference, **options)


def estimated(samples: Any, reference: Any, step: float = 0.5) -> Any:
    return correct(Side.of(samples), Side.of(reference), CPU, step=step)


# ------------------------------------------------------------------------------------- printed digits of the method


def test_the_drawn_features_are_those_that_the_digits_are_of() -> None:
    expected = [[0.18470557, -0.41063979], [-0.58531910, 0.59881330]]
    np.testing.assert_allclose(det_features(2, 2, 1), expected, rtol=0, atol=5e-9)


@pytest.mark.parametrize(("dim", "count", "expected"), [(64, 1000, 1.1050410410), (2048, 50_000, 21.0231396436)])
def test_the_bias_of_first_order_of_isotropic_features(dim: int, count: int, expected: float) -> None:
    """d/N + d (d+1) / (4 (N-1)): tr S / N, and half of sum_ij w_ij (1 + delta_ij) / (N-1) with w_ij = 1/2."""
    traced = dim / count
    assert traced + 0.5 * (0.5 * dim**2 + 0.5 * dim) / (count - 1) == pytest.approx(expected, abs=5e-11)
    # the spectral sum of Gaussian theta has the d^2 part of it to first order
    ridges = Ridges.over(torch.ones(1, dtype=torch.float64), 0.5)
    n = 1e9 * dim
    found = spectral_sum(torch.ones(1, dtype=torch.float64), ridges, 1 - ridges.h * dim / n, math.inf, 1)
    assert 2 * (found.value - 1) * dim * n == pytest.approx(dim**2 / 4, rel=1e-4)


EIGENVALUES = torch.arange(8, 0, -1, dtype=torch.float64) / 8


@pytest.mark.parametrize(
    ("n", "m", "expected"),
    [
        (16, math.inf, 6.195627960489),
        (16, 16, 6.701370950022),
        (16, 40, 6.369270307474),
        (math.inf, math.inf, 5.765041772996),
    ],
)
def test_the_random_matrix_sum_of_gaussian_features(n: float, m: float, expected: float) -> None:
    """The estimator of Tiomoko and Couillet (2019); its closed form for n = m has eigenvalues of a rank-one update."""
    ridges = Ridges.over(EIGENVALUES, 0.5)
    found = spectral_sum(EIGENVALUES, ridges, (1 - ridges.h / n) * (1 - ridges.h / m), min(n, m), 8)
    assert found.value == pytest.approx(expected, abs=1e-11)
    if n == m == 16:
        values = EIGENVALUES.numpy()
        zeta = np.linalg.eigvalsh(np.diag(values) - np.sqrt(np.outer(values, values)) / n)
        assert found.value == pytest.approx(2 * n * (np.sqrt(values).sum() - np.sqrt(zeta).sum()), abs=1e-11)


def test_the_default_grid_is_accurate_enough() -> None:
    ridges = Ridges.over(EIGENVALUES)
    found = spectral_sum(EIGENVALUES, ridges, 1 - ridges.h / 16, 16, 8)
    assert found.value == pytest.approx(6.195627960489, rel=6e-9)


def test_the_integral_of_the_first_order_and_the_finite_term() -> None:
    ridges = Ridges.over(EIGENVALUES, 0.5)
    roots = EIGENVALUES.sqrt().numpy()
    harmonic = np.outer(roots, roots) / np.add.outer(roots, roots)
    integral = 2 / math.pi * float((np.sqrt(ridges.x) * ridges.h * ridges.slope).sum()) * ridges.step
    assert integral == pytest.approx(11.013604365, abs=5e-10)
    assert integral == pytest.approx(harmonic.sum() / 2, rel=1e-11)
    found = spectral_sum(EIGENVALUES, ridges, np.ones(len(ridges.x)), math.inf, 8)
    assert found.finite == pytest.approx(-1.597138207, abs=5e-10)


@pytest.mark.parametrize(
    ("count", "raw", "value", "low", "high", "tolerance"),
    [
        (12, 1.852473925, 0.117034, -0.089381, 0.527585, 5e-6),  # the printed value has the error of a coarser sum
        (16, 1.204575318, -0.046460, -0.052168, -0.007978, 5e-6),
        (24, 0.868633361, 0.111748045, None, None, 5e-10),
        (64, 0.396981248, 0.080679781, None, None, 5e-10),
        (400, 0.047183819, -0.000828525, None, None, 5e-10),
    ],
)
def test_one_sided(count: int, raw: float, value: float, low: float, high: float, tolerance: float) -> None:
    found = estimated(det_features(count, 16, 1), GRADED)
    assert found.raw == pytest.approx(raw, abs=5e-10)
    assert found.value == pytest.approx(value, abs=tolerance)
    assert found.low == pytest.approx(value if low is None else low, abs=max(5e-7, tolerance * (low is None)))
    assert found.high == pytest.approx(value if high is None else high, abs=max(5e-7, tolerance * (high is None)))


def test_two_sided_in_both_orders() -> None:
    x, y = det_features(64, 16, 1), det_features(96, 16, 2)
    forward, backward = estimated(x, y), estimated(y, x)
    assert forward.raw == pytest.approx(0.494985013, abs=5e-10)
    assert forward.value == pytest.approx(-0.024294420, abs=5e-10)
    assert backward.value == pytest.approx(forward.value, abs=1e-9)
    assert backward.raw == pytest.approx(frechet_distance(x, y), abs=1e-12)


def test_a_leverage_without_its_own_sample_is_exact() -> None:
    """h / (1 - h) is the quadratic form of the sample with the covariance of the others, times N / ((N-1) n)."""
    x, ridge, row = det_features(40, 6, 3), 0.3, 5
    side = Side.of(x)
    whitening = whiten(side, Side.of(isotropic(6)), CPU)
    values = whitening.values
    ridges = Ridges(np.array([ridge]), 1.0, (values / (values + ridge))[None], (ridge / (values + ridge))[None])
    found = measure_leverages(side, whitening.roots, whitening.projections[0], ridges, keep=3)
    assert len(found.tables) == 3
    others = np.delete(x, row, 0)
    centre = x[row] - others.mean(0)
    scatter = (others - others.mean(0)).T @ (others - others.mean(0)) / 39
    direct = centre @ np.linalg.solve(scatter + ridge * np.eye(6), centre) * 39 / 40 / 39
    assert float(found.tables[1][row, 0]) == pytest.approx(direct, rel=1e-12)
    assert float(found.tables[1][row, 0]) == pytest.approx(0.184406294498, abs=5e-13)


@pytest.mark.parametrize("count", [12, 30])
def test_the_mean_leverage_is_the_effective_dimension(count: int) -> None:
    side = Side.of(det_features(count, 16, 1))
    whitening = whiten(side, Side.of(GRADED), CPU)
    ridges = Ridges.over(whitening.values)
    found = measure_leverages(side, whitening.roots, whitening.projections[0], ridges)
    np.testing.assert_allclose(found.mean_h, ridges.h / (count - 1), rtol=1e-11)
    assert found.largest.max() <= 1 + 1e-12


def test_similarity_transformations_scale_it() -> None:
    generator = np.random.default_rng(0)
    turn = np.linalg.qr(generator.normal(size=(16, 16)))[0]
    x, y = det_features(40, 16, 1), det_features(60, 16, 2)
    before, after = estimated(x, y), estimated(3 * x @ turn + 5, 3 * y @ turn + 5)
    assert after.raw == pytest.approx(9 * before.raw, rel=1e-9)
    assert after.value == pytest.approx(9 * before.value, rel=1e-7)


def test_the_mean_over_draws_is_the_true_distance() -> None:
    """N(0, I) in 64 dimensions, N = 96: raw FD is 12.83, and the debiased one 0 with a spread of 0.42 a draw."""
    generator, reference = np.random.default_rng(0), isotropic(64)
    found = [estimated(generator.normal(size=(96, 64)), reference, 1.0) for _ in range(60)]
    assert np.mean([one.raw for one in found]) == pytest.approx(12.83, abs=0.15)
    values = [one.value for one in found]
    assert abs(np.mean(values)) < 4 * 0.42 / math.sqrt(60)
    assert 0.3 < np.std(values) < 0.55


# ------------------------------------------------------------------------------------------------------ other sides


def test_a_reference_that_is_too_small_is_the_mirror_of_samples_that_are() -> None:
    x, y = det_features(12, 16, 1), det_features(64, 16, 2)
    forward, backward = estimated(x, y), estimated(y, x)
    for name in ("raw", "value", "low", "high"):
        assert getattr(forward, name) == pytest.approx(getattr(backward, name), rel=1e-8), name
    assert forward.low < forward.value < forward.high


def test_both_sides_too_small_give_a_bracket_alone() -> None:
    x, y = det_features(30, 48, 1), det_features(40, 48, 2)
    found = debiased(x, y)
    assert found.value is None and found.stderr is None and found.regime == "refused"
    assert found.bracket is not None and found.bracket[0] < found.estimate < found.bracket[1]
    assert found.raw == pytest.approx(frechet_distance(x, y), rel=1e-9)


def test_the_exact_covariance_of_biased_moments_is_used() -> None:
    x, y = det_features(64, 16, 1), det_features(96, 16, 2)
    biased = [replace(Moments.from_features(z, ddof=0), rows=z) for z in (x, y)]
    assert estimated(*biased).value == pytest.approx(estimated(x, y).value, rel=1e-10)


def test_float32_rows_and_batches_give_the_same() -> None:
    x = det_features(64, 16, 1).astype(np.float32)
    batches = (x[start : start + 10] for start in range(0, 64, 10))
    expected = estimated(x.astype(np.float64), GRADED).value
    assert estimated(batches, GRADED).value == pytest.approx(expected, rel=1e-12)
    assert estimated(torch.from_numpy(x), GRADED).value == pytest.approx(expected, rel=1e-12)


def test_dead_features_change_nothing_and_are_no_dimensions() -> None:
    x, y = det_features(120, 16, 1), det_features(140, 16, 2)
    plain = debiased(x, y, stderr=False)
    padded = [np.hstack([z, np.full((len(z), 5), 3.0)]) for z in (x, y)]
    found = debiased(*padded, stderr=False)
    assert found.value == pytest.approx(plain.value, rel=1e-10)
    assert found.ratio == plain.ratio == 120 / 16


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = det_features(150, 16, 1), det_features(96, 16, 2)
    expected = estimated(x, y).value
    monkeypatch.setattr("fdr.frechet.whitening.CHUNK_VALUES", 1)  # 64 rows
    assert estimated(x, y).value == pytest.approx(expected, rel=1e-11)


def test_a_reference_of_moments_alone() -> None:
    """As exact without a count; as Gaussian without a curve; with its curve nearly as with its features."""
    x, y = det_features(400, 16, 1), det_features(120, 16, 2)
    with_rows = replace(Moments.from_features(y), rows=y)
    alone = Moments.from_features(y)
    known = debiased(x, with_rows, stderr=False)
    curved = debiased(x, replace(alone, curve=leverage_curve(with_rows)), stderr=False)
    gaussian = debiased(x, alone, stderr=False)
    exact = debiased(x, replace(alone, count=None), stderr=False)
    gap = [abs(one.estimate - known.estimate) for one in (curved, gaussian, exact)]
    assert gap[0] < 0.2 * gap[1] < 0.2 * gap[2]
    assert known.notes == () and known.noise == "samples and reference"
    assert "leverage curve" in curved.notes[0] and "Gaussian" in gaussian.notes[0] and "exact" in exact.notes[0]
    assert {one.noise for one in (curved, gaussian, exact)} == {"samples"}


def test_moments_of_too_few_reference_images_need_their_features() -> None:
    few = replace(Moments.from_features(det_features(18, 16, 2)), factor=None)
    with pytest.raises(InputError, match="18 images in 16 dimensions are too few"):
        debiased(det_features(64, 16, 1), few)


def test_a_leverage_curve_falls_with_the_dimension_and_is_one_for_equal_radii() -> None:
    heavy = det_features(400, 16, 1)
    curve = leverage_curve(replace(Moments.from_features(heavy), rows=heavy))
    assert curve.h[-1] == pytest.approx(16, rel=1e-3) and 1.1 < curve.kappa[-1] < curve.kappa[0]
    generator = np.random.default_rng(0)
    sphere = generator.normal(size=(4000, 8))
    sphere /= np.linalg.norm(sphere, axis=1)[:, None]
    flat = leverage_curve(replace(Moments.from_features(sphere), rows=sphere))
    assert flat.kappa[-1] == pytest.approx(1, abs=0.01)


def test_a_part_of_the_rows_gives_nearly_the_same_curve() -> None:
    x = np.random.default_rng(0).standard_t(6, size=(4000, 8))
    moments = Moments.from_features(x)
    whole, part = leverage_curve(moments, x), leverage_curve(moments, x[:2000])
    np.testing.assert_allclose(part.kappa, whole.kappa, rtol=0.15)
    assert isinstance(part, LeverageCurve)
    with pytest.raises(InputError, match="needs the features"):
        leverage_curve(moments)


# ------------------------------------------------------------------------------------------- regimes, errors, warnings


@pytest.mark.parametrize(
    ("count", "regime"),
    [
        *((10_000, "asymptotic"), (9_999, "full"), (400, "full"), (399, "near"), (200, "near")),
        *((199, "extrapolated"), (100, "extrapolated"), (99, "refused")),
    ],
)
def test_regimes_by_the_smaller_side(count: int, regime: str) -> None:
    own = Side(Moments(np.zeros(1), np.eye(1), count), None)
    other = Side(Moments(np.zeros(1), np.eye(1), 10**6), None)
    exact = Side(Moments(np.zeros(1), np.eye(1)), None)
    assert regime_of((own, other), 200) == regime_of((other, own), 200) == regime_of((own, exact), 200) == regime
    assert regime_of((own, own), 1000) == "refused" or count >= 1000
    assert regime_of((Side(Moments(np.zeros(1), np.eye(1), 300), None), exact), 700) == "bracket"


def test_a_bracket_gives_a_value_on_request_alone() -> None:
    x = np.random.default_rng(0).normal(size=(100, 300))
    reference = isotropic(300)
    refused = debiased(x, reference, stderr=False)
    assert refused.value is None and refused.regime == "bracket" and refused.bracket is not None
    with pytest.raises(
        InputError, match=r"too few images for a debiased FD \(.* for each dimension\); it lies between"
    ):
        float(refused)
    assert "100 images for 300 dimensions" in refused.notes[-1]
    with pytest.warns(FdrWarning, match="systematic error"):
        found = debiased(x, reference, stderr=False, extrapolate=True)
    assert found.value == refused.estimate == found.estimate
    assert found.systematic >= (found.bracket[1] - found.bracket[0]) / 6  # type: ignore[index]


@pytest.mark.parametrize("count", [40, 80, 160])
def test_the_influence_function_gives_an_error_below_eight_d_as_well(count: int) -> None:
    """Against the spread of 30 values: 0.7 to 2 times of it, with which a sample of 30 agrees to a quarter."""
    dim, generator = 80, np.random.default_rng(count)
    spread = np.arange(1, dim + 1) ** -0.6
    exact, values, errors = Moments(np.zeros(dim), np.diag(spread**2)), [], []
    for _ in range(30):
        rows = generator.normal(size=(max(count, 100), dim))[:count] * spread * 1.3 + 0.3 * spread
        estimate = correct(Side.of(rows), Side.of(exact), CPU, keep=3)
        values.append(estimate.value)
        errors.append(corrected_influence((Side.of(rows), Side.of(exact)), estimate).stderr)
    assert 0.5 < np.mean(errors) / np.std(values, ddof=1) < 2.5


def test_how_the_standard_error_is_computed_can_be_chosen() -> None:
    x = det_features(110, 16, 1)
    usual, cheap = debiased(x, GRADED), debiased(x, GRADED, stderr="influence")
    assert (usual.stderr_method, cheap.stderr_method) == ("jackknife", "influence")
    assert cheap.value == usual.value and cheap.stderr == pytest.approx(usual.stderr, rel=0.6)
    with pytest.raises(InputError, match="Unknown stderr 'bootstrap'"):
        debiased(x, GRADED, stderr="bootstrap")


def test_below_the_dimensions_the_value_has_a_systematic_error() -> None:
    with pytest.warns(FdrWarning, match="measure more samples"):
        found = debiased(np.random.default_rng(0).normal(size=(120, 130)), isotropic(130), stderr=False)
    assert found.regime == "extrapolated" and found.value is not None and found.systematic > 0
    above = debiased(np.random.default_rng(0).normal(size=(140, 130)), isotropic(130), stderr=False)
    assert above.regime == "near" and above.systematic == 0 and above.bracket is None


def test_it_is_never_clipped_and_says_what_is_consistent_with_zero() -> None:
    found = [debiased(np.random.default_rng(seed).normal(size=(200, 8)), isotropic(8)) for seed in range(12)]
    assert min(one.value for one in found if one.value is not None) < 0
    assert sum(one.is_consistent_with_zero for one in found) >= 10
    far = debiased(np.random.default_rng(0).normal(2, 1, size=(200, 8)), isotropic(8))
    assert not far.is_consistent_with_zero and far.value == pytest.approx(32, rel=0.2)
    assert 0 < far.correction_share < 0.1


@pytest.mark.filterwarnings("ignore::fdr.errors.FdrWarning")
def test_what_breaks_the_assumptions_is_named() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 8))
    assert debiased(x, isotropic(8), stderr=False).warnings == ()
    copied = x.copy()
    copied[:3] = copied[10]
    (text,) = debiased(copied, isotropic(8), stderr=False).warnings
    assert text.startswith("3 of 200 samples repeat another one exactly")
    copied[:3] = x[:3]
    copied[:2] = copied[10]
    assert debiased(copied, isotropic(8), stderr=False).warnings == (), "1 % may repeat"
    x[7], x[150] = 1000, -500
    (text,) = debiased(x, isotropic(8), stderr=False).warnings
    assert "of 200 samples (rows 7, 150)" in text or "(row 7)" in text
    (text,) = debiased(generator.normal(size=(200, 8)), x, stderr=False).warnings
    assert "of 200 reference images (row" in text


@pytest.mark.filterwarnings("ignore::fdr.errors.FdrWarning")
def test_class_balanced_draws_are_noticed() -> None:
    x = np.random.default_rng(0).normal(size=(200, 8))
    balanced = np.arange(200) % 10
    (text,) = debiased(x, isotropic(8), stderr=False, labels=balanced).warnings
    assert "equally many images of each class" in text
    drawn = np.random.default_rng(1).integers(0, 10, 200)
    assert debiased(x, isotropic(8), stderr=False, labels=drawn).warnings == ()
    assert not is_class_balanced(np.zeros(50)) and not is_class_balanced(np.arange(50))


def test_what_is_refused() -> None:
    x = det_features(64, 16, 1)
    with pytest.raises(InputError, match="needs the features of the samples"):
        debiased(Moments.from_features(x), GRADED)
    with pytest.raises(InputError, match="width 16 cannot be compared with features of width 8"):
        debiased(x, isotropic(8))
    with pytest.raises(InputError, match="No feature varies on both sides"):
        debiased(np.hstack([x, np.ones((64, 16))]), Moments(np.zeros(32), np.diag([0.0] * 16 + [1.0] * 16), 99))
    with pytest.raises(InputError, match="are of another set"):
        debiased(replace(Moments.from_features(x), rows=2 * x), GRADED)


def test_a_ridge_that_does_not_grow_is_an_error() -> None:
    ridges = Ridges.over(EIGENVALUES)
    theta = np.where(np.arange(len(ridges.x)) < 30, 1e-3, 1.0)
    with pytest.raises(RunError, match="does not grow"):
        spectral_sum(EIGENVALUES, ridges, theta, 100, 8)


def test_rounding_at_the_smallest_ridges_does_not_matter() -> None:
    """Features of one sample alone have leverages of 1 there, and theta is rounding; as at the next ridge it is 1."""
    ridges = Ridges.over(EIGENVALUES)
    theta = np.where(np.arange(len(ridges.x)) < 5, 1e-9, 1.0)
    found = spectral_sum(EIGENVALUES, ridges, theta, 100, 8)
    expected = spectral_sum(EIGENVALUES, ridges, np.ones(len(ridges.x)), 100, 8)
    assert found.value == expected.value and np.array_equal(found.u, expected.u)
