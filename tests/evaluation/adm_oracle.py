"""What ADM's evaluator computes, in NumPy and SciPy alone, from features that are given to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from scipy import linalg

Encode = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""uint8 [N, H, W, 3] -> "pool" [N, D], "spatial" [N, S] and "logits" [N, C]."""


def evaluate(reference: Path, samples: Path, encode: Encode) -> dict[str, float]:
    """All five numbers of `evaluator.py reference samples`, by fdr's names, in the order of its output."""
    acts = {}
    moments = {}
    for side, path in (("r", reference), ("s", samples)):
        with np.load(path, allow_pickle=False) as file:
            acts[side] = encode(file["arr_0"])
            if "mu" in file:
                moments[side] = [(file["mu"], file["sigma"]), (file["mu_s"], file["sigma_s"])]
            else:
                moments[side] = [_moments(acts[side][name]) for name in ("pool", "spatial")]
    fid, sfid = (_frechet(moments["s"][i], moments["r"][i]) for i in (0, 1))
    precision, recall = precision_recall(acts["s"]["pool"], acts["r"]["pool"])
    score = inception_score(acts["s"]["logits"])
    return {"is:adm": score, "fd": fid, "sfid": sfid, "precision:adm": precision, "recall:adm": recall}


def inception_score(logits: np.ndarray) -> float:
    """Mean over consecutive chunks of 5,000."""
    e = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    parts = [p[i : i + 5000] for i in range(0, len(p), 5000)]
    return float(np.mean([np.exp((q * (np.log(q) - np.log(q.mean(0)))).sum(1).mean()) for q in parts]))


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = features.astype(np.float64)
    return rows.mean(0), np.cov(rows, rowvar=False)


def _frechet(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    root = linalg.sqrtm(a[1] @ b[1]).real
    return float(((a[0] - b[0]) ** 2).sum() + np.trace(a[1]) + np.trace(b[1]) - 2 * np.trace(root))


def precision_recall(samples: np.ndarray, reference: np.ndarray, block: int = 10_000) -> tuple[float, float]:
    """ADM's rule: squared distances in float16, float32 for a block that overflows, the radius at partition index k."""

    def half(x: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return x.astype(np.float16)

    def of_block(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            u16, v16 = half(u), half(v)
            norm_u, norm_v = (half((x * x).sum(1, dtype=np.float32)) for x in (u16, v16))
            product = half(u16.astype(np.float32) @ v16.astype(np.float32).T)
            squared = np.maximum((norm_u[:, None] - np.float16(2) * product) + norm_v[None], np.float16(0))
        if np.isfinite(squared).all():
            return squared.astype(np.float32)
        return np.maximum((u * u).sum(1)[:, None] - 2 * (u @ v.T) + (v * v).sum(1)[None], np.float32(0))

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        rows = [
            np.concatenate([of_block(a[i : i + block], b[j : j + block]) for j in range(0, len(b), block)], 1)
            for i in range(0, len(a), block)
        ]
        return np.concatenate(rows)

    radii = {name: np.partition(distances(x, x), 3, axis=1)[:, 3] for name, x in (("s", samples), ("r", reference))}
    cross = distances(reference, samples)
    return float((cross <= radii["r"][:, None]).any(0).mean()), float((cross <= radii["s"][None]).any(1).mean())
