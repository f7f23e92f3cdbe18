"""FD_inf and IS_inf: FD and the Inception Score at infinitely many samples (Chong & Forsyth 2020, arXiv 1911.07023).

Each is the intercept of a line in 1/n through the scores of 15 random subsets of n samples, n from
min(5000, N / 10) to N. The standard error holds the noise of the samples and of the choice of subsets, to first order.
"""

from __future__ import annotations

import math

import numpy as np

from fdr.errors import InputError
from fdr.frechet import RULES, Moments, estimate_fd, extrapolate, fit_details
from fdr.metrics.base import CollectedFeatures, Context, Metric, Score
from fdr.metrics.inception_score import entropy, log_probabilities

LINE = RULES["fd_inf"]
CHUNK = 4096
"""Rows of logits that are turned into probabilities at once."""
SETTINGS = {"subsets": "15", "smallest": "min(5000,N/10)", "shuffles": "1", "seed": "2020"}


def fd_inf_score(samples: Moments, reference: Moments, context: Context) -> Score:
    """FD_inf of the samples to the moments of the reference, which keep the bias of its own number of images."""
    if samples.rows is None:
        raise InputError("FD_inf takes subsets of the samples, and only their mean and covariance are known.")
    found = estimate_fd(samples.rows, reference, method="fd_inf", stderr=context.stderr, device=context.device)
    least = found.details["sizes"][0]
    notes: tuple[str, ...] = ()
    if least <= samples.dim:
        notes = (f"subsets of {least} images for {samples.dim} dimensions: FD_inf keeps much of the bias",)
    noise = {} if found.stderr is None else {"noise": "samples"}
    return Score(found.value, found.stderr, details={**found.details, **noise}, notes=notes)


def is_inf_score(logits: np.ndarray, reference: None, context: Context) -> Score:
    """IS_inf from logits [N, C]; each subset is one split."""
    blocks = [slice(start, start + CHUNK) for start in range(0, len(logits), CHUNK)]
    gains = np.empty(len(logits))
    for block in blocks:
        gains[block] = -entropy(np.exp(log_probabilities(logits[block])))

    def score(chosen: np.ndarray) -> float:
        return math.exp(gains[chosen].mean() + float(entropy(_marginal(logits, chosen))))

    fit = extrapolate(score, len(logits), LINE)
    if not context.stderr:
        return Score(fit.value, details=fit_details(fit))
    log_marginal = np.log(np.maximum(_marginal(logits, np.arange(len(logits))), 1e-300))
    for block in blocks:
        gains[block] -= np.exp(log_probabilities(logits[block])) @ log_marginal
    deviation = fit.curve[-1] * gains.std() * math.sqrt(fit.noise_factors()[0] / len(logits))
    return Score(fit.value, deviation, details=fit_details(fit))


def _marginal(logits: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The mean of p(y|x) over the chosen rows, float64 [C]."""
    total = np.zeros(logits.shape[1])
    for start in range(0, len(chosen), CHUNK):
        total += np.exp(log_probabilities(logits[chosen[start : start + CHUNK]])).sum(0)
    return total / len(chosen)


FD_INF = Metric(fd_inf_score, rows="needed", settings=SETTINGS)
IS_INF = Metric(is_inf_score, CollectedFeatures, output="logits", needs_reference=False, settings=SETTINGS)
