"""FD: closed forms, laws, every route against an oracle, and the ratios."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from covariances import features, nuclear_norm_fd, numpy_moments, relu_features, rotation, transported
from hypothesis import given, settings
from hypothesis import strategies as st

from fdr.errors import FdrWarning, InputError, RunError
from fdr.frechet import Moments, ValidationFD, fd_ratio, fdr_k, frechet_distance, frechet_terms
from fdr.frechet import distance as frechet


def gaussian(mu: Any, sigma: Any) -> Moments:
    return Moments(np.asarray(mu, dtype=float), np.asarray(sigma, dtype=float))


def bare(x: np.ndarray) -> Moments:
    """Moments as a peer's file gives them: no features, no count."""
    return Moments(*numpy_moments(x))


# ----------------------------------------------------------------------------------------------------- closed forms


def test_commuting_covariances_give_the_sum_of_squared_differences_of_deviations() -> None:
    a, b = gaussian([1, 2], np.diag([4, 1])), gaussian([0, 0], np.diag([1, 9]))
    assert frechet_distance(a, b) == pytest.approx(5 + 1 + 4, rel=1e-15)


def test_isotropic_gaussians_of_different_scale() -> None:
    a, b = gaussian(np.zeros(16), np.eye(16)), gaussian(np.full(16, 0.5), 4 * np.eye(16))
    assert frechet_distance(a, b) == pytest.approx(20, rel=1e-15)


def test_equal_covariances_leave_the_squared_mean_shift() -> None:
    s1, _, _ = transported(30, 1e5)
    shift = np.linspace(0, 1, 30)
    assert frechet_distance(gaussian(shift, s1), gaussian(0 * shift, s1)) == pytest.approx(shift @ shift, rel=1e-12)


@pytest.mark.parametrize("condition", [1e2, 1e6, 1e9])
def test_transported_covariance_gives_the_exact_distance(condition: float) -> None:
    s1, s2, root = transported(150, condition)
    truth = s1.trace() + s2.trace() - 2 * root
    terms = frechet_terms(gaussian(np.zeros(150), s2), gaussian(np.zeros(150), s1), audit=True)
    assert terms.route == "cholesky"
    assert terms.value == pytest.approx(truth, rel=1e-10)
    assert terms.audit == pytest.approx(truth, rel=1e-12)


def test_the_rounding_of_an_ill_conditioned_pair_is_said_to_be_larger() -> None:
    """So that equal moments of a bad condition come out as 0; the true error stays below what is said."""
    said = []
    for condition in (1e2, 1e9):
        s1, s2, root = transported(60, condition)
        terms = frechet_terms(gaussian(np.zeros(60), s2), gaussian(np.zeros(60), s1))
        assert terms.route == "cholesky"
        assert abs(terms.value - (s1.trace() + s2.trace() - 2 * root)) <= terms.rounding
        said.append(terms.rounding / float(s1.trace() + s2.trace()))
    assert said[1] > 10 * said[0]


def test_one_dimension() -> None:
    x, y = np.array([[1.0], [3.0]]), np.array([[0.0], [8.0], [1.0]])
    truth = (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2
    assert frechet_distance(x, y) == pytest.approx(truth, rel=1e-14)
    assert frechet_distance(bare(x), bare(y)) == pytest.approx(truth, rel=1e-14)


def test_sampling_bias_is_the_known_one() -> None:
    """E FD of n samples of N(0, I_d) to the truth: d/n + d(d+1)/(4(n-1)) (to first order), twice that two-sided."""
    dim, n = 64, 5000
    rng = np.random.default_rng(0)
    truth = gaussian(np.zeros(dim), np.eye(dim))
    sets = [rng.standard_normal((n, dim)).astype(np.float32) for _ in range(4)]
    one_sided = np.mean([frechet_distance(x, truth) for x in sets])
    assert one_sided == pytest.approx(0.2205, abs=0.006)
    assert frechet_distance(sets[0], sets[1]) == pytest.approx(0.447, abs=0.02)


# ------------------------------------------------------------------------------------------------------------ oracles


def sqrtm_fd(a: Moments, b: Moments) -> float:
    """The route of pytorch-fid."""
    scipy_linalg = pytest.importorskip("scipy.linalg")
    root = scipy_linalg.sqrtm(a.sigma @ b.sigma).real
    return float(np.square(a.mu - b.mu).sum() + a.sigma.trace() + b.sigma.trace() - 2 * root.trace())


def test_full_rank_equals_scipy_sqrtm() -> None:
    a, b = bare(features(400, 48, 0)), bare(features(300, 48, 1, offset=0.2))
    assert frechet_distance(a, b) == pytest.approx(sqrtm_fd(a, b), rel=1e-11)


def test_full_rank_equals_pytorch_fid_and_torch_fidelity() -> None:
    a, b = bare(features(400, 32, 0)), bare(features(300, 32, 1, offset=0.2))
    ours = frechet_distance(a, b)
    metric_fid = pytest.importorskip("torch_fidelity.metric_fid")
    sides = [{"mu": x.mu, "sigma": x.sigma} for x in (a, b)]
    theirs = metric_fid.fid_statistics_to_metric(*sides, False)[metric_fid.KEY_METRIC_FID]
    assert ours == pytest.approx(theirs, rel=1e-11)
    scipy = pytest.importorskip("scipy")
    if tuple(map(int, scipy.__version__.split(".")[:2])) < (1, 18):
        fid_score = pytest.importorskip("pytorch_fid.fid_score")
        theirs = fid_score.calculate_frechet_distance(a.mu, a.sigma, b.mu, b.sigma)
        assert ours == pytest.approx(theirs, rel=1e-11)


def mpmath_fd(x: np.ndarray, y: np.ndarray) -> float:
    """FD in 60 digits from the singular values of X_c Y_c^T, as square roots of eigenvalues of its Gram matrix."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(60):
        sides = []
        for z in (x, y):
            m = mpmath.matrix(z.tolist())
            n, d = m.rows, m.cols
            mean = [mpmath.fsum(m[i, j] for i in range(n)) / n for j in range(d)]
            rows = mpmath.matrix(n, d)
            for i in range(n):
                for j in range(d):
                    rows[i, j] = (m[i, j] - mean[j]) / mpmath.sqrt(n - 1)
            sides.append((mean, rows))
        (mean_a, a), (mean_b, b) = sides
        cross = a * b.T
        values = mpmath.eigsy(cross * cross.T, eigvals_only=True)
        root = mpmath.fsum(mpmath.sqrt(max(v, 0)) for v in values)
        traces = mpmath.fsum(v**2 for v in a) + mpmath.fsum(v**2 for v in b)
        return float(mpmath.fsum((p - q) ** 2 for p, q in zip(mean_a, mean_b, strict=True)) + traces - 2 * root)


@pytest.mark.parametrize("num_samples", [(10, 10), (10, 16), (10, 30)])
def test_rank_deficient_distance_equals_sixty_digits(num_samples: tuple[int, int]) -> None:
    x, y = features(num_samples[0], 24, 2), features(num_samples[1], 24, 3, offset=0.1)
    truth = mpmath_fd(x, y)
    assert frechet_distance(x, y) == pytest.approx(truth, rel=1e-14)
    assert frechet_distance(bare(x), bare(y)) == pytest.approx(truth, rel=1e-13)
    assert frechet_distance(bare(y), bare(x)) == pytest.approx(truth, rel=1e-13)


@pytest.mark.parametrize(
    ("sizes", "route"),
    [
        ((300, 400), "cholesky"),
        ((20, 30), "thin-thin"),
        ((30, 400), "thin-cholesky"),
        ((400, 30), "cholesky-thin"),
    ],
)
def test_every_route_equals_the_nuclear_norm_of_the_features(sizes: tuple[int, int], route: str) -> None:
    x, y = features(sizes[0], 64, 4), features(sizes[1], 64, 5, offset=0.3)
    truth = nuclear_norm_fd(x, y)
    terms = frechet_terms(x, y, audit=True)
    assert terms.route == route
    assert terms.value == pytest.approx(truth, rel=1e-11)
    assert terms.audit == pytest.approx(truth, rel=1e-11)
    without_features = frechet_terms(bare(x), bare(y), audit=True)
    assert without_features.route == route.replace("thin", "pivoted")
    assert without_features.value == pytest.approx(truth, rel=1e-11)
    assert without_features.audit == pytest.approx(truth, rel=1e-11)


def test_thin_moments_against_singular_moments_without_features() -> None:
    x, y = features(20, 64, 4), features(40, 64, 5)
    terms = frechet_terms(x, bare(y), audit=True)
    assert terms.route == "thin-pivoted"
    assert terms.value == pytest.approx(nuclear_norm_fd(x, y), rel=1e-12)


def test_eigenvectors_decide_where_the_rank_of_a_covariance_is_in_doubt() -> None:
    """The spectrum falls through the rounding without a gap; below it a direction is left out of both traces."""
    spectrum = np.geomspace(1, 1e-20, 40)
    a, b = gaussian(np.zeros(40), np.diag(spectrum)), gaussian(np.zeros(40), np.diag(spectrum[::-1]))
    basis = rotation(40, 1)
    turned = [gaussian(x.mu, (y + y.T) / 2) for x in (a, b) for y in [basis @ x.sigma @ basis.T]]
    terms = frechet_terms(*turned, audit=True)
    assert terms.route == "eigen-eigen"
    assert terms.value == pytest.approx(np.square(spectrum**0.5 - spectrum[::-1] ** 0.5).sum(), rel=1e-6)


def test_singular_moments_take_singular_values_only_where_a_gram_matrix_would_lose_digits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A flat spectrum needs none; one that falls far within the rank does, as a Gram matrix squares it."""
    calls: list[int] = []
    real = frechet.linalg.nuclear_norm
    monkeypatch.setattr(frechet.linalg, "nuclear_norm", lambda matrix: calls.append(1) or real(matrix))
    for exponent, count in ((0.5, 0), (2.5, 1)):
        scales = np.arange(1.0, 61) ** -exponent
        x, y = (np.random.default_rng(seed).standard_normal((50, 60)) * scales @ rotation(60, 2) for seed in (3, 4))
        calls.clear()
        terms = frechet_terms(bare(x), bare(y))
        assert (terms.route, len(calls)) == ("pivoted-pivoted", count)
        assert terms.value == pytest.approx(nuclear_norm_fd(x, y), rel=1e-12)


def test_the_error_of_a_gram_matrix_is_below_its_estimate_and_a_singular_one_is_refused() -> None:
    for shape in ((30, 30), (30, 20), (20, 30)):
        matrix = np.random.default_rng(1).standard_normal(shape) * np.arange(1, shape[1] + 1) ** -2.0
        found = frechet.linalg.nuclear_norm_by_gram(torch.from_numpy(matrix))
        assert found is not None
        assert abs(found[0] / np.linalg.svd(matrix, compute_uv=False).sum() - 1) < found[1] < 1e-11
    assert frechet.linalg.nuclear_norm_by_gram(torch.ones(3, 3, dtype=torch.float64)) is None
    assert frechet.linalg.nuclear_norm_by_gram(torch.ones(0, 3, dtype=torch.float64)) is None


def eigvalsh_fd(a: Moments, b: Moments) -> float:
    """The symmetric route that forms a product of covariances; kept here to prove that the fixtures catch it."""
    values, vectors = np.linalg.eigh(a.sigma)
    half = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    root = np.sqrt(np.linalg.eigvalsh(half @ b.sigma @ half).clip(0)).sum()
    return float(np.square(a.mu - b.mu).sum() + a.sigma.trace() + b.sigma.trace() - 2 * root)


def test_dead_relu_features_cost_no_digits() -> None:
    x, y = relu_features(5000, 0), relu_features(4000, 1) * 1.05
    a, b = bare(x), bare(y)
    assert np.count_nonzero(a.sigma.diagonal() == 0) == 22
    truth = nuclear_norm_fd(x[:, a.sigma.diagonal() > 0], y[:, a.sigma.diagonal() > 0])
    terms = frechet_terms(a, b, audit=True)
    assert terms.route == "cholesky"
    assert terms.value == pytest.approx(truth, rel=1e-11)


def test_a_rotation_of_dead_features_costs_no_digits_and_catches_the_product_route() -> None:
    """No column is dead then, only directions."""
    basis = rotation(84, 0)
    x, y = relu_features(5000, 0), relu_features(4000, 1) * 1.05
    truth = frechet_distance(x, y)
    a, b = bare(x @ basis), bare(y @ basis)
    assert frechet_terms(a, b).route == "pivoted-pivoted"
    assert frechet_distance(a, b) == pytest.approx(truth, rel=1e-11)
    assert abs(eigvalsh_fd(a, b) / truth - 1) > 1e-8


@pytest.mark.parametrize("sizes", [(200, 200), (8, 200), (200, 8), (8, 9)])
def test_features_dead_on_one_side_count_with_their_variance(sizes: tuple[int, int]) -> None:
    x, y = features(sizes[0], 12, 6), features(sizes[1], 12, 7)
    x[:, :3] = 0.25
    y[:, 2:5] = 7
    truth = nuclear_norm_fd(x, y)
    for a, b in ((Moments.from_features(x), Moments.from_features(y)), (bare(x), bare(y))):
        terms = frechet_terms(a, b, audit=True)
        assert terms.value == pytest.approx(truth, rel=1e-12)
        assert terms.audit == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("sizes", [(10, 10), (12, 12), (12, 40), (40, 12), (13, 13)])
@pytest.mark.parametrize("ddof", [(0, 0), (0, 1), (1, 0)])
def test_few_samples_with_biased_moments(sizes: tuple[int, int], ddof: tuple[int, int]) -> None:
    """N below, at and above D = 12. The covariance is divided by N where ddof is 0, which scales its root."""
    x, y = features(sizes[0], 12, 8), features(sizes[1], 12, 9, offset=0.1)
    a, b = ((z - z.mean(0)) / np.sqrt(len(z) - d) for z, d in zip((x, y), ddof, strict=True))
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    truth = np.square(x.mean(0) - y.mean(0)).sum() + np.square(a).sum() + np.square(b).sum() - 2 * root
    sides = (Moments.from_features(z, ddof=d) for z, d in zip((x, y), ddof, strict=True))
    assert frechet_distance(*sides) == pytest.approx(truth, rel=1e-11)


@pytest.mark.parametrize("share", [2e-6, 1e-5, 1e-4, 9e-4])
def test_negative_eigenvalues_that_no_rounding_makes_are_refused(share: float) -> None:
    """Below float32's rounding (a millionth of the largest) there is a warning, and above it an error."""
    basis = rotation(8, 0)
    sigma, mild = ((basis * np.array([-smallest, 1, 1, 1, 1, 1, 1, 1])) @ basis.T for smallest in (share, share / 5e3))
    bad, good = gaussian(np.zeros(8), (sigma + sigma.T) / 2), bare(features(50, 8, 0))
    for check in (bad.check, lambda: frechet_distance(bad, good), lambda: frechet_distance(good, bad)):
        with pytest.raises(InputError, match="not positive semidefinite"):
            check()
    doubtful = gaussian(np.zeros(8), (mild + mild.T) / 2)
    with pytest.warns(FdrWarning, match="negative eigenvalues"):
        frechet_distance(doubtful, good)


def test_constant_features_on_either_side() -> None:
    x, y = np.full((9, 3), 2.0), np.full((5, 3), 1.0)
    terms = frechet_terms(x, y, audit=True)
    assert (terms.value, terms.audit, terms.route) == (3.0, 3.0, "constant")
    varying = np.random.default_rng(0).standard_normal((50, 3))
    truth = np.square(varying.mean(0) - 2).sum() + varying.var(0, ddof=1).sum()
    assert frechet_distance(varying, x) == pytest.approx(truth, rel=1e-14)


def test_features_of_very_different_scales_keep_all_digits() -> None:
    scales = np.geomspace(1e-5, 1, 60)
    x, y = np.random.default_rng(8).standard_normal((2, 400, 60)) * scales
    for order in (np.arange(60), np.arange(60)[::-1], np.random.default_rng(0).permutation(60)):
        terms = frechet_terms(bare(x[:, order]), bare(y[:, order]))
        assert terms.route == "cholesky"
        assert terms.value == pytest.approx(nuclear_norm_fd(x, y), rel=1e-12)


# --------------------------------------------------------------------------------------------------------------- laws


def worlds() -> dict[str, tuple[Moments, Moments]]:
    s1, s2, _ = transported(90, 1e6)
    basis = rotation(84, 0)
    x, y = relu_features(3000, 0), relu_features(3000, 2) * 1.1
    return {
        "full rank": (gaussian(np.ones(90), s1), gaussian(np.zeros(90), s2)),
        "ill-conditioned": (gaussian(np.zeros(90), transported(90, 1e11)[0]), gaussian(np.zeros(90), s1)),
        "thin": (Moments.from_features(features(20, 50, 0)), Moments.from_features(features(30, 50, 1))),
        "thin and full": (Moments.from_features(features(20, 50, 0)), Moments.from_features(features(300, 50, 1))),
        "rank-deficient": (bare(features(20, 50, 0)), bare(features(30, 50, 1))),
        "dead columns": (bare(x), bare(y)),
        "dead directions": (bare(x @ basis), bare(y @ basis)),
    }


@pytest.mark.parametrize("name", list(worlds()))
def test_distance_to_itself_is_zero_and_distances_are_symmetric_and_positive(name: str) -> None:
    a, b = worlds()[name]
    for x in (a, b):
        terms = frechet_terms(x, x)
        scale = 2 * float(x.sigma.trace())
        assert terms.value == 0
        assert abs(terms.mean_term + terms.trace_term) <= 1e-9 * scale, "before it is rounded to 0"
        assert terms.rounding <= 1e-9 * scale
        assert frechet_distance(x, gaussian(x.mu, x.sigma)) == 0
    scale = float(a.sigma.trace() + b.sigma.trace())
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), abs=1e-10 * scale)
    assert frechet_distance(a, b) > 0


@pytest.mark.parametrize("name", list(worlds()))
def test_distance_survives_translation_and_rotation_of_both_sides(name: str) -> None:
    a, b = worlds()[name]
    basis, shift = rotation(a.dim, 9), np.linspace(-3, 3, a.dim)

    def moved(x: Moments) -> Moments:
        factor = None if x.factor is None else x.factor @ basis
        return Moments(basis.T @ x.mu + shift, basis.T @ x.sigma @ basis, x.count, x.ddof, factor)

    scale = float(a.sigma.trace() + b.sigma.trace())
    assert frechet_distance(moved(a), moved(b)) == pytest.approx(frechet_distance(a, b), abs=1e-9 * scale)


@settings(deadline=None, derandomize=True, max_examples=15)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 30), st.floats(1e-6, 1e6))
def test_distance_of_any_shapes_equals_the_nuclear_norm_and_scales_with_the_square(
    n: int, m: int, dim: int, factor: float
) -> None:
    x, y = features(n, dim, 1), features(m, dim, 2)
    truth = nuclear_norm_fd(x, y)
    assert frechet_distance(x * factor, y * factor) == pytest.approx(truth * factor**2, rel=1e-9)


def test_features_arrays_tensors_batches_and_moments_are_one() -> None:
    x, y = features(70, 16, 0).astype(np.float32), features(80, 16, 1).astype(np.float32)
    expected = frechet_distance(Moments.from_features(x), Moments.from_features(y))
    assert frechet_distance(x, torch.from_numpy(y)) == expected
    assert frechet_distance(torch.from_numpy(x).split(7), (y[i : i + 9] for i in range(0, 80, 9))) == expected
    assert type(frechet_distance(x, y)) is float
    assert frechet_distance(x, y, device="cpu") == expected


def test_the_reference_is_factored_once_for_many_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        frechet.linalg, "cholesky_factor", lambda s, real=frechet.linalg.cholesky_factor: calls.append(1) or real(s)
    )
    reference = bare(features(100, 20, 0))
    values = [frechet_distance(bare(features(100, 20, seed)), reference) for seed in (1, 2, 3)]
    assert len(calls) == 1
    reference.derived.clear()
    assert frechet_distance(bare(features(100, 20, 3)), reference) == values[2]


def test_other_dead_columns_do_not_reuse_a_stale_factor() -> None:
    reference = bare(features(200, 10, 0))
    x = features(200, 10, 1)
    first = frechet_distance(bare(x), reference)
    dead = x.copy()
    dead[:, 4] = 0
    assert frechet_distance(bare(dead), reference) == pytest.approx(
        nuclear_norm_fd(dead, features(200, 10, 0)), rel=1e-12
    )
    assert frechet_distance(bare(x), reference) == first


def test_no_value_is_clamped_above_its_rounding() -> None:
    s1, _, _ = transported(40, 1e3)
    shift = np.zeros(40)
    shift[0] = 1e-5
    terms = frechet_terms(gaussian(shift, s1), gaussian(0 * shift, s1))
    assert terms.value == terms.mean_term + terms.trace_term == pytest.approx(1e-10, rel=1e-2)
    assert terms.rounding < 1e-12


# ---------------------------------------------------------------------------------------------------------- bad input


def test_different_widths_are_refused() -> None:
    with pytest.raises(InputError, match="width 3 cannot be compared with features of width 2; both sides need"):
        frechet_distance(np.eye(3), np.eye(2))


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("other", ["full", "thin", "singular"])
def test_an_indefinite_covariance_is_refused_on_either_side(swapped: bool, other: str) -> None:
    basis = rotation(6, 0)
    bad = (basis * np.array([-0.4, 1, 1, 2, 2, 3])) @ basis.T
    indefinite = gaussian(np.zeros(6), (bad + bad.T) / 2 + np.diag(np.full(6, 1e-9)))
    x = features(4 if other == "thin" else 50, 6, 0)
    if other == "singular":
        x[:, 5] = x[:, 4]
    good = Moments.from_features(x)
    name = "reference" if not swapped else "sample"
    with pytest.raises(InputError, match=f"The {name} covariance is not positive semidefinite"):
        frechet_distance(*((indefinite, good) if swapped else (good, indefinite)))


def test_float32_statistics_give_a_doubtful_number_with_a_warning_and_never_a_negative_one() -> None:
    x = features(30, 60, 0)
    sigma = numpy_moments(x)[1].astype(np.float32)
    rounded = gaussian(x.mean(0), sigma.astype(np.float64))
    with pytest.warns(FdrWarning, match="negative eigenvalues"):
        value = frechet_distance(rounded, gaussian(rounded.mu, rounded.sigma))
    assert value == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FdrWarning)
        assert 0 <= frechet_distance(rounded, bare(x)) < 1e-3 * np.trace(sigma)


@pytest.mark.parametrize("route", ["pivoted-pivoted", "eigen-eigen", "thin-thin"])
def test_an_audit_does_not_use_the_factors_that_it_audits(route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every factor that the route uses is wrong by 1e-4, and those of other algorithms are right."""
    x, y = features(20, 40, 0), features(20, 40, 1)
    if route == "thin-thin":
        a, b = Moments.from_features(x), Moments.from_features(y)
        for factor in (a.factor, b.factor):
            assert factor is not None
            factor.flags.writeable = True
            factor *= 1 + 1e-4
    else:
        a, b = bare(x), bare(y)
        name = {"pivoted-pivoted": "pivoted_factor", "eigen-eigen": "eigen_factor"}[route]
        real = getattr(frechet.linalg, name)
        if route == "eigen-eigen":
            monkeypatch.setattr(frechet.linalg, "pivoted_factor", lambda covariance: None)
        monkeypatch.setattr(frechet.linalg, name, lambda *given: real(*given) * (1 + 1e-4))
    assert frechet_terms(a, b).route == route
    with pytest.raises(RunError, match="The audit of FD failed"):
        frechet_terms(a, b, audit=True)


def test_a_failed_audit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = bare(features(100, 8, 0)), bare(features(100, 8, 1))
    real = frechet.linalg.nuclear_norm
    monkeypatch.setattr(frechet.linalg, "nuclear_norm", lambda matrix: real(matrix) * (1 + 1e-6))
    with pytest.raises(RunError, match=r"The audit of FD failed: .* by the route 'cholesky'"):
        frechet_distance(a, b, audit=True)


# ------------------------------------------------------------------------------------------------------- FDr and FDr^k


def test_ratio_to_the_validation_set() -> None:
    assert fd_ratio(0.81, 1.68) == 0.81 / 1.68
    assert fd_ratio(0.81, 1.68) == pytest.approx(0.482, abs=5e-4)
    assert fd_ratio(1.68, 1.68) == 1
    assert fd_ratio(0.0, 1.68) == 0


def test_the_bounds_of_a_rounded_constant_are_half_a_unit_of_its_last_decimal_away() -> None:
    assert ValidationFD(1.68, 2, "paper").bounds == pytest.approx((1.675, 1.685), rel=1e-14)
    assert ValidationFD(57.0, 0, "paper").bounds == (56.5, 57.5)
    assert ValidationFD(1.68, None, "file").bounds == (1.68, 1.68)


def test_fdr_k_is_the_arithmetic_mean() -> None:
    assert fdr_k({"inception": 1.0, "dinov2": 2.0, "mae": 6.0}) == 3
    assert fdr_k({"random": 0.5}) == 0.5


@pytest.mark.parametrize("fd_val", [0.0, -1.0, float("nan"), float("inf")])
def test_ratio_needs_a_positive_finite_validation_distance(fd_val: float) -> None:
    with pytest.raises(InputError, match=r"validation FD is .*; FDr needs one above 0"):
        fd_ratio(1.0, fd_val)


def test_ratios_need_finite_numbers_and_at_least_one_encoder() -> None:
    with pytest.raises(InputError, match="FD is nan"):
        fd_ratio(float("nan"), 1.0)
    with pytest.raises(InputError, match="at least one encoder; got none"):
        fdr_k({})
    with pytest.raises(InputError, match="The FDr of mae is inf"):
        fdr_k({"inception": 1.0, "mae": float("inf")})
