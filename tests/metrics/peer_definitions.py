"""Definitions of other tools, written out in NumPy."""

from __future__ import annotations

import numpy as np
import torch


def score_of_fd_evaluator(logits: np.ndarray) -> float:
    """Its definition: float32 softmax, ten equal splits of rows in the order of RandomState(0), log(p + 1e-10)."""
    p = torch.softmax(torch.from_numpy(logits), dim=1).numpy()[np.random.RandomState(0).permutation(len(logits))]
    size, values = len(p) // 10, []
    for split in range(10):
        part = p[split * size : (split + 1) * size]
        divergence = part * (np.log(part + 1e-10) - np.log(part.mean(axis=0, keepdims=True) + 1e-10))
        values.append(np.exp(divergence.sum(axis=1).mean()))
    return float(np.mean(values))


def mind_by_definition(x: np.ndarray, y: np.ndarray, directions: int, seed: int = 2020) -> float:
    """As torch-fidelity's development version draws: rows of the larger set, then Gaussian directions in float32."""
    generator, size = torch.Generator().manual_seed(seed), min(len(x), len(y))
    x, y = (
        side if len(side) == size else side[torch.randperm(len(side), generator=generator)[:size].numpy()]
        for side in (x, y)
    )
    u = torch.randn(directions, x.shape[1], generator=generator).double().numpy()
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    gaps = np.sort(x.astype(float) @ u.T, axis=0) - np.sort(y.astype(float) @ u.T, axis=0)
    return 3 * x.shape[1] * float((gaps**2).mean())
