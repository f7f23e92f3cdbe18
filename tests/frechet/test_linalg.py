"""Factors, congruence and the square-root trace, against NumPy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from covariances import relu_features, rotation, transported

from fdr.errors import FdrWarning, InputError
from fdr.frechet import linalg


def tensor(x: np.ndarray) -> torch.Tensor:
    return linalg.as_float64(np.array(x), torch.device("cpu"))


def test_a_factor_times_its_transpose_is_the_covariance() -> None:
    covariance, _, _ = transported(40, 1e6)
    lower = linalg.cholesky_factor(tensor(covariance))
    assert lower is not None
    for factor in (lower, linalg.eigen_factor(tensor(covariance)), linalg.singular_factor(tensor(covariance))):
        assert np.allclose((factor @ factor.T).numpy(), covariance, rtol=0, atol=1e-15)


def test_the_eigen_factor_has_the_rank_of_the_features() -> None:
    x = np.random.default_rng(0).standard_normal((12, 30))
    covariance = tensor(np.cov(x, rowvar=False))
    assert linalg.cholesky_factor(covariance) is None
    assert linalg.eigen_factor(covariance).shape == (30, 11)
    assert linalg.singular_factor(covariance).shape == (30, 11)


@pytest.mark.parametrize(("num_samples", "dim"), [(2, 9), (12, 30), (100, 300), (299, 300), (300, 300)])
@pytest.mark.parametrize("scale", [1e-90, 1.0, 3e80])
def test_the_pivoted_factor_has_the_rank_of_the_features_and_gives_their_covariance(
    num_samples: int, dim: int, scale: float
) -> None:
    x = np.random.default_rng(0).standard_normal((num_samples, dim)) * np.geomspace(1, 1e-3, dim) * scale
    covariance = np.cov(x, rowvar=False)
    factor = linalg.pivoted_factor(tensor(covariance))
    assert factor is not None and factor.shape == (dim, num_samples - 1)
    assert np.allclose((factor @ factor.T).numpy(), covariance, rtol=0, atol=2e-15 * covariance.max())


@pytest.mark.parametrize(
    "spectrum",
    [
        np.geomspace(1, 1e-20, 40),
        np.array([-1e-8, *np.linspace(1, 2, 39)]),
        np.array([-0.4, *np.zeros(19), *np.linspace(1, 2, 20)]),
        np.array([*np.full(20, 1e-12), *np.linspace(1, 2, 20)]),
        np.zeros(40),
        -np.ones(40),
    ],
    ids=["no gap", "slightly negative", "negative", "a step near rounding", "zero", "all negative"],
)
def test_the_pivoted_factor_declines_where_the_rank_is_in_doubt(spectrum: np.ndarray) -> None:
    basis = rotation(40, 3)
    covariance = (basis * spectrum) @ basis.T
    assert linalg.pivoted_factor(tensor((covariance + covariance.T) / 2)) is None


def test_the_pivoted_factor_takes_a_white_spectrum_whose_residual_is_largest() -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 300, 600))
    assert all(linalg.pivoted_factor(tensor(np.cov(z, rowvar=False))) is not None for z in (x, y))


def test_the_pivoted_factor_declines_a_singular_covariance_that_was_rounded_to_float32() -> None:
    covariance = np.cov(np.random.default_rng(0).standard_normal((30, 90)), rowvar=False)
    assert linalg.pivoted_factor(tensor(covariance.astype(np.float32).astype(np.float64))) is None
    assert linalg.pivoted_factor(tensor(covariance)) is not None


def test_cholesky_is_refused_by_its_smallest_pivot_relative_to_the_variance() -> None:
    covariance = np.diag([1.0, 1e-20, 1e-40])
    assert linalg.cholesky_factor(tensor(covariance)) is not None, "tiny variances alone are no singularity"
    almost_one = 1 - 1e-13
    assert linalg.cholesky_factor(tensor(np.array([[1, almost_one], [almost_one, 1]]))) is None


@pytest.mark.parametrize("dim", [1, 7, 256, 257, 600])
def test_congruence_equals_two_products_in_its_lower_triangle(dim: int) -> None:
    rng = np.random.default_rng(dim)
    lower = np.tril(rng.standard_normal((dim, dim)))
    covariance = np.cov(rng.standard_normal((2 * dim + 2, dim)), rowvar=False).reshape(dim, dim)
    ours = linalg.congruence_(tensor(lower), tensor(covariance)).numpy()
    expected = lower.T @ covariance @ lower
    assert np.allclose(np.tril(ours), np.tril(expected), rtol=0, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize("condition", [1e2, 1e6, 1e8])
def test_square_root_trace_equals_the_transport_trace(condition: float) -> None:
    s1, s2, truth = transported(120, condition)
    lower = linalg.cholesky_factor(tensor(s1))
    other = linalg.cholesky_factor(tensor(s2))
    assert lower is not None and other is not None
    found = linalg.sqrt_trace_by_congruence(lower, tensor(s2))
    assert found is not None
    assert found[0] == pytest.approx(truth, rel=1e-11)
    assert linalg.nuclear_norm(lower.T @ other) == pytest.approx(truth, rel=1e-13)


def test_congruence_route_declines_a_singular_covariance_instead_of_losing_digits() -> None:
    s1, _, _ = transported(60, 1e4)
    lower = linalg.cholesky_factor(tensor(s1))
    assert lower is not None
    singular = np.cov(np.random.default_rng(0).standard_normal((30, 60)), rowvar=False)
    assert linalg.sqrt_trace_by_congruence(lower, tensor(singular)) is None


def test_nuclear_norm_of_a_rotation_is_its_size_and_of_nothing_is_zero() -> None:
    assert linalg.nuclear_norm(tensor(rotation(9, 0))) == pytest.approx(9, rel=1e-14)
    assert linalg.nuclear_norm(torch.empty(0, 3, dtype=torch.float64)) == 0


def test_negative_eigenvalues_are_rounding_then_a_warning_then_an_error() -> None:
    basis = rotation(20, 3)

    def with_smallest(value: float) -> torch.Tensor:
        return tensor((basis * np.array([value, *np.linspace(1, 2, 19)])) @ basis.T)

    assert linalg.eigen_factor(with_smallest(-1e-17)).shape[1] == 19
    with pytest.warns(FdrWarning, match="computed in float32"):
        linalg.eigen_factor(with_smallest(-1e-8))
    with pytest.raises(InputError, match=r"sample covariance is not positive semidefinite.*compute them again"):
        linalg.eigen_factor(with_smallest(-0.1), "sample covariance")


def test_rounding_throughout_has_rank_0_when_held_against_a_variance() -> None:
    rounding = tensor(np.diag([-1e-47, 4e-64, 0.0]))
    with pytest.raises(InputError, match="not positive semidefinite"):
        linalg.eigen_factor(rounding)
    assert linalg.eigen_factor(rounding, scale=0.4).shape == (3, 0)


def test_float64_is_used_whatever_comes_in() -> None:
    assert tensor(relu_features(5, 0).astype(np.float32)).dtype == torch.float64
