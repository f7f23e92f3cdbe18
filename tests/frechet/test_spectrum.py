"""Eigenvalues of covariances against singular values of the centred features, by NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fdr.frechet import Moments, eigenvalues, spectrum_points

CPU = torch.device("cpu")


def drawn(count: int, dim: int = 12) -> np.ndarray:
    generator = np.random.default_rng(count)
    return generator.normal(size=(count, dim)) * np.geomspace(1, 1e-3, dim)


@pytest.mark.parametrize("count", [400, 8])
def test_they_are_squared_singular_values_of_the_features(count: int) -> None:
    features = drawn(count)
    expected = np.linalg.svd(features - features.mean(0), compute_uv=False) ** 2 / (count - 1)
    found = eigenvalues(Moments.from_features(features), CPU)
    assert len(found) == min(count - 1, 12)  # a centred feature less
    np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-9)


def test_directions_without_variance_are_left_out() -> None:
    features = np.concatenate([drawn(300), np.zeros((300, 4))], axis=1)
    assert len(eigenvalues(Moments.from_features(features), CPU)) == 12
    assert len(eigenvalues(Moments(np.zeros(3), np.zeros((3, 3)), 10), CPU)) == 0


def test_moments_keep_theirs() -> None:
    moments = Moments.from_features(drawn(300))
    assert eigenvalues(moments, CPU) is eigenvalues(moments, CPU)


def test_points_are_evenly_spaced_on_a_logarithmic_axis_with_both_ends() -> None:
    values = np.geomspace(7, 1e-9, 2048)
    points = spectrum_points(values)
    assert points["rank"][0] == 1 and points["rank"][-1] == 2048 and 60 < len(points["rank"]) <= 100
    assert points["rank"] == sorted(set(points["rank"]))
    steps = np.diff(np.log([rank for rank in points["rank"] if rank > 50]))
    assert steps.max() < 1.5 * steps.min()
    np.testing.assert_allclose(points["eigenvalue"], values[np.array(points["rank"]) - 1], rtol=1e-5)
    assert spectrum_points(values[:0]) == {"rank": [], "eigenvalue": []}
