"""Features that are the same on every machine, from a linear congruential generator and Box and Muller's formula."""

from __future__ import annotations

import numpy as np


def det_features(count: int, dim: int, seed: int) -> np.ndarray:
    """Heavy-tailed features [count, dim]: row i has the scale 0.5 + (i mod 7) / 6, column j the spread j^-1/2."""
    state, draws = seed, []
    for _ in range(2 * count * dim):
        state = (6364136223846793005 * state + 1442695040888963407) % 2**64
        draws.append(((state >> 11) + 0.5) / 2**53)
    first, second = np.array(draws).reshape(2, count, dim)
    normal = np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second)
    return normal * (0.5 + (np.arange(count) % 7) / 6)[:, None] * np.arange(1, dim + 1) ** -0.5
