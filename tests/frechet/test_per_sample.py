"""The influence of every sample in one pass, and its gradient: finite differences and autograd are the oracles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fdr.errors import InputError
from fdr.frechet import Moments, fd_gradients, fd_influence, sample_influences, whitening


def rows(count: int, dim: int, seed: int, scale: float = 1.0) -> np.ndarray:
    """Correlated features whose standard deviations fall."""
    generator = np.random.default_rng(seed)
    mix = np.eye(dim) + 0.3 * generator.normal(size=(dim, dim)) / np.sqrt(dim)
    return scale * generator.normal(size=(count, dim)) * np.arange(1, dim + 1) ** -0.3 @ mix + 0.1 * seed


def with_rows(x: np.ndarray) -> Moments:
    return replace(Moments.from_features(x), rows=x)


def root_trace(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """tr (A B)^{1/2} by the eigenvalues of B^{1/2} A B^{1/2}, for autograd."""
    values, vectors = torch.linalg.eigh(b)
    root = vectors * values.sqrt() @ vectors.T
    return torch.linalg.eigvalsh(root @ a @ root).sqrt().sum()


def fd_of_updated(f: torch.Tensor, others: np.ndarray, reference: np.ndarray) -> torch.Tensor:
    """FD of N - 1 others and f by the rank-one update m + (f - m) / N, (N-2) / (N-1) S + (f-m)(f-m)^T / N."""
    n = len(others) + 1
    m_g, s_g = torch.from_numpy(others.mean(0)), torch.from_numpy(np.cov(others, rowvar=False))
    m_r, s_r = torch.from_numpy(reference.mean(0)), torch.from_numpy(np.cov(reference, rowvar=False))
    m, x = ((n - 1) / n) * m_g + f / n, f - m_g
    s = ((n - 2) / (n - 1)) * s_g + torch.outer(x, x) / n
    return (m - m_r).square().sum() + s.trace() + s_r.trace() - 2 * root_trace(s, s_r)


class TestGradient:
    def test_it_is_that_of_the_exact_rank_one_update(self) -> None:
        own, other = rows(60, 7, 1), rows(90, 7, 2, scale=1.3)
        places = np.array([0, 17, 59])
        found = fd_gradients(with_rows(own), Moments.from_features(other), places)
        for place, gradient in zip(places, found, strict=True):
            f = torch.from_numpy(own[place].copy()).requires_grad_()
            (exact,) = torch.autograd.grad(fd_of_updated(f, np.delete(own, place, 0), other), f)
            np.testing.assert_allclose(gradient, exact.numpy(), rtol=1e-9, atol=1e-12)

    def test_finite_differences(self) -> None:
        own, other = rows(40, 4, 3), rows(50, 4, 4)
        (gradient,) = fd_gradients(with_rows(own), Moments.from_features(other), np.array([5]))
        others, step = np.delete(own, 5, 0), 1e-5
        for column in range(4):
            moved = [own[5] + sign * step * np.eye(4)[column] for sign in (1, -1)]
            up, down = (float(fd_of_updated(torch.from_numpy(f), others, other)) for f in moved)
            assert gradient[column] == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-9)

    def test_equal_distributions_have_none(self) -> None:
        own = rows(50, 5, 1)
        found = fd_gradients(with_rows(own), with_rows(own), np.arange(50))
        assert np.abs(found).max() < 1e-12


class TestInfluences:
    @pytest.mark.parametrize(("count", "dim"), [(700, 5), (900, 300), (40, 300)])
    def test_they_are_those_of_the_standard_error(self, count: int, dim: int) -> None:
        """Both routes, and triangles that are halved down to squares."""
        own, other = with_rows(rows(count, dim, 1)), Moments.from_features(rows(2 * dim + 9, dim, 2))
        expected = fd_influence(own, other).samples
        found = sample_influences(own, other)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * np.abs(expected).max())

    def test_features_that_are_constant_on_one_side(self) -> None:
        own, other = rows(80, 6, 1), rows(80, 6, 2)
        own[:, 2], other[:, 4] = 0, 1
        a, b = with_rows(own), Moments.from_features(other)
        np.testing.assert_allclose(sample_influences(a, b), fd_influence(a, b).samples, rtol=1e-9, atol=1e-12)

    def test_one_decomposition_serves_the_standard_error_and_all_samples(self, monkeypatch) -> None:
        calls = []
        original = whitening.whiten
        monkeypatch.setattr(whitening, "whiten", lambda *sides: calls.append(0) or original(*sides))
        own, other = with_rows(rows(60, 5, 1)), Moments.from_features(rows(70, 5, 2))
        fd_influence(own, other, max_rows=20)
        sample_influences(own, other)
        fd_gradients(own, other, np.arange(3))
        assert len(calls) == 1
        sample_influences(own, Moments.from_features(rows(70, 5, 3)))
        assert len(calls) == 2

    def test_moments_without_features_are_one_sentence(self) -> None:
        plain = Moments.from_features(rows(60, 5, 1))
        for ask in (lambda: sample_influences(plain, plain), lambda: fd_gradients(plain, plain, np.arange(2))):
            with pytest.raises(InputError, match="needs the features of the samples"):
                ask()
