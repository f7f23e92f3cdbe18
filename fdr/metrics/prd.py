"""Precision and recall for distributions (PRD; Sajjadi et al. 2018), with its summary F_8 and F_1/8.

Samples and reference are divided into the same 20 cells by k-means. With the shares p and q of reference and samples in
the cells, the curve is, for slopes l,

    precision(l) = sum_i min(l p_i, q_i),  recall(l) = precision(l) / l

(eq. 7 to 9). The curve of 10 clusterings is averaged. F_8, the largest F_beta on it for beta = 8, weighs recall; F_1/8
weighs precision.
"""

from __future__ import annotations

import math

import numpy as np

from fdr.errors import InputError
from fdr.metrics.base import CollectedFeatures, Context, Metric, Score
from fdr.metrics.feature_checks import check_features
from fdr.metrics.kmeans import cells_of, fit_centres
from fdr.runtime import resolve_device

NUM_CELLS, NUM_RUNS, NUM_ANGLES, SEED = 20, 10, 1001, 2018
_EDGE = 1e-10
"""The first and the last angle lie so far within 0 and pi / 2, and denominators of F above 0."""
BETAS = {"prd_f8": 8.0, "prd_f1_8": 1 / 8}
NUM_RESAMPLES = 50
"""Resamples of the standard error: more make it less noisy (10 % at 50) and take longer."""
NUM_POINTS = 41
"""Points of the curve that the details hold."""


def prd(samples: np.ndarray, reference: np.ndarray, context: Context) -> dict[str, Score]:
    """F_8 and F_1/8 of features [N, D] and [N, D]. Raises `InputError` for sets of unequal size.

    The standard error is that of resampled images (both sides) in the cells as they are, with the spread over the
    clusterings.
    """
    name = context.names[0]
    check_features(name, samples, reference, 1)
    if len(samples) != len(reference):
        raise InputError(
            f"{name} needs as many samples as reference images, for common cells favour the larger set; got "
            f"{len(samples)} and {len(reference)}: choose as many with --count, or make more samples."
        )
    if len(samples) < NUM_CELLS:
        raise InputError(f"{name} has {NUM_CELLS} cells and needs at least as many samples; got {len(samples)}.")
    cells = _cells(samples, reference, context)
    shares = np.array([[_shares(side) for side in run] for run in cells])
    curves = np.array([prd_curve(p, q) for q, p in shares])
    curve = curves.mean(0)
    details = {"cells": NUM_CELLS, "runs": NUM_RUNS, "curve": _few_points(curve)}
    resampled = _resampled(cells) if context.stderr else None
    scores = {}
    for each in context.names:
        beta = BETAS[each]
        spread = float(np.std([max_f(run, beta) for run in curves], ddof=1))
        own = {**details, "std_over_runs": spread}
        scores[each] = Score(max_f(curve, beta), _stderr(resampled, spread, beta), details=own)
    return scores


def _stderr(resampled: list[np.ndarray] | None, spread: float, beta: float) -> float | None:
    """From mean curves of resampled images, and the spread over single clusterings."""
    if resampled is None:
        return None
    drawn = float(np.std([max_f(curve, beta) for curve in resampled], ddof=1))
    return math.hypot(drawn, spread / math.sqrt(NUM_RUNS))


def prd_curve(reference: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Precision and recall [2, 1001] of two histograms [k] that sum to 1, for slopes from 0 to infinity.

    The slopes are the tangents of equally spaced angles between 1e-10 and pi / 2 - 1e-10.
    """
    slopes = np.tan(np.linspace(_EDGE, math.pi / 2 - _EDGE, NUM_ANGLES))[:, None]
    precision = np.minimum(slopes * reference, samples).sum(1)
    return np.clip(np.stack([precision, precision / slopes[:, 0]]), 0, 1)


def max_f(curve: np.ndarray, beta: float) -> float:
    """The largest F_beta = (1 + beta²) p r / (beta² p + r) on a curve of precision and recall [2, n]."""
    precision, recall = curve
    return float(((1 + beta**2) * precision * recall / (beta**2 * precision + recall + _EDGE)).max())


def _cells(samples: np.ndarray, reference: np.ndarray, context: Context) -> np.ndarray:
    """The cell of every sample and reference image, int64 [runs, 2, N], in each clustering of both together."""
    device = resolve_device(context.device or "cpu")
    stacked = np.concatenate([samples, reference])
    found = []
    with context.progress.task(", ".join(context.names), NUM_RUNS, "clusterings") as task:
        for run in range(NUM_RUNS):
            centres = fit_centres(stacked, NUM_CELLS, SEED + run, device)
            found.append(cells_of(stacked, centres).reshape(2, -1))
            task.advance()
    return np.array(found)


def _shares(cells: np.ndarray) -> np.ndarray:
    return np.bincount(cells, minlength=NUM_CELLS) / len(cells)


def _resampled(cells: np.ndarray) -> list[np.ndarray]:
    """Mean curves [2, 1001] of images drawn with replacement, the same in every clustering."""
    random, count = np.random.default_rng(SEED), cells.shape[2]
    found = []
    for _ in range(NUM_RESAMPLES):
        q, p = (cells[:, side, random.integers(count, size=count)] for side in (0, 1))
        curves = [prd_curve(_shares(ours), _shares(theirs)) for ours, theirs in zip(p, q, strict=True)]
        found.append(np.mean(curves, axis=0))
    return found


def _few_points(curve: np.ndarray) -> dict[str, list[float]]:
    """The curve at 41 angles, rounded to what a drawing needs."""
    at = np.linspace(0, NUM_ANGLES - 1, NUM_POINTS).round().astype(int)
    return dict(zip(("precision", "recall"), curve[:, at].round(4).tolist(), strict=True))


PRD = Metric(
    prd,
    CollectedFeatures,
    settings={"k": str(NUM_CELLS), "r": str(NUM_RUNS), "seed": str(SEED)},
)
