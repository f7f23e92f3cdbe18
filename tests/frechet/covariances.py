"""Features and covariances whose distances are known."""

from __future__ import annotations

import numpy as np


def rotation(dim: int, seed: int) -> np.ndarray:
    """A random orthogonal matrix [dim, dim]."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))[0]


def features(num_samples: int, dim: int, seed: int, offset: float = 0.0) -> np.ndarray:
    """Correlated float64 features [N, D] with standard deviations from 1 down to 1/sqrt(D)."""
    scales = np.arange(1, dim + 1) ** -0.5
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((num_samples, dim)) * scales) @ rotation(dim, seed + 1000) + offset


def relu_features(num_samples: int, seed: int, dead: int = 22, dim: int = 84) -> np.ndarray:
    """Features after a ReLU, the same `dead` columns of them always 0 and others rarely above it."""
    rng = np.random.default_rng(seed)
    weights = np.random.default_rng(0).standard_normal((dim, dim)) * np.arange(1, dim + 1) ** -0.7
    x = np.maximum(rng.standard_normal((num_samples, dim)) @ weights - 0.5, 0)
    x[:, np.random.default_rng(1).permutation(dim)[:dead]] = 0
    return x


def transported(dim: int, condition: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, float]:
    """S1, S2 = T S1 T with T positive definite and not commuting with S1; tr (S1 S2)^{1/2} = tr (S1 T) exactly."""
    spectrum = np.geomspace(1, 1 / condition, dim)
    basis, other = rotation(dim, seed), rotation(dim, seed + 1)
    s1 = (basis * spectrum) @ basis.T
    t = (other * np.linspace(0.5, 1.5, dim)) @ other.T
    s1, t = (s1 + s1.T) / 2, (t + t.T) / 2
    s2 = t @ s1 @ t
    return s1, (s2 + s2.T) / 2, float((s1 * t).sum())


def nuclear_norm_fd(x: np.ndarray, y: np.ndarray) -> float:
    """FD of features by the nuclear norm of X_c Y_c^T, in NumPy: exact whatever the rank."""
    a, b = (np.linalg.qr((z - z.mean(0)) / np.sqrt(len(z) - 1), mode="r") for z in (x, y))
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(np.square(x.mean(0) - y.mean(0)).sum() + np.square(a).sum() + np.square(b).sum() - 2 * root)


def numpy_moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What peers' files hold: np.mean and np.cov."""
    return x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))
