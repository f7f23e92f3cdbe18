"""Inception Score (Salimans et al. 2016) in the two definitions that published tables use, by name.

IS = exp(mean_x KL(p(y|x) || p(y))) per split, from the unbiased logits, in float64.
"""

from __future__ import annotations

import numpy as np

from fdr.errors import InputError
from fdr.metrics.base import AbstractCollector, Context, Metric, Score

NUM_SPLITS = 10
SHUFFLE_SEED = 2020
ADM_SPLIT_SIZE = 5000


class CollectedSplits(AbstractCollector):
    """The Inception Score of every split, from its sum of p, its sum of p log p, and its count.

    `split_of` [N] is the split of each image.
    """

    def __init__(self, split_of: np.ndarray) -> None:
        self._split_of = split_of
        num_splits = int(split_of.max()) + 1 if len(split_of) else 0
        self._counts = np.zeros(num_splits, dtype=np.int64)
        self._negative_entropy = np.zeros(num_splits)
        self._sums: np.ndarray | None = None

    def add(self, rows: np.ndarray, features: np.ndarray) -> None:
        if self._sums is None:
            self._sums = np.zeros((len(self._counts), features.shape[1]))
        log_p = log_probabilities(features)
        p = np.exp(log_p)
        splits = self._split_of[rows]
        np.add.at(self._counts, splits, 1)
        np.add.at(self._negative_entropy, splits, (p * log_p).sum(axis=1))
        for split in np.unique(splits):
            self._sums[split] += p[splits == split].sum(axis=0)

    def state(self) -> list[np.ndarray]:
        return [] if self._sums is None else [self._counts, self._negative_entropy, self._sums]

    def absorb(self, state: list[np.ndarray]) -> None:
        if state:
            counts, negative_entropy, sums = state
            self._counts += counts
            self._negative_entropy += negative_entropy
            self._sums = sums if self._sums is None else self._sums + sums

    def finish(self) -> np.ndarray:
        """float64 [number of splits]"""
        if self._sums is None or (self._counts == 0).any():
            raise InputError("The Inception Score has a split without images; give it more images.")
        marginal = self._sums / self._counts[:, None]
        return np.exp(self._negative_entropy / self._counts + entropy(marginal))


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """log p(y|x), float64 [N, C]."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    return values


def entropy(p: np.ndarray) -> np.ndarray:
    """-sum p log p over the last axis, where 0 log 0 is 0."""
    return -np.sum(np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0.0), axis=-1)


def shuffled_splits(num_rows: int | None) -> CollectedSplits:
    """torch-fidelity's ten splits of rows that RandomState(2020) has shuffled."""
    num_rows = _known(num_rows)
    if num_rows < NUM_SPLITS:
        raise InputError(f"The Inception Score needs at least {NUM_SPLITS} images, one per split; got {num_rows}.")
    order = np.random.RandomState(SHUFFLE_SEED).permutation(num_rows)
    split_of = np.empty(num_rows, dtype=np.int64)
    for split in range(NUM_SPLITS):
        split_of[order[split * num_rows // NUM_SPLITS : (split + 1) * num_rows // NUM_SPLITS]] = split
    return CollectedSplits(split_of)


def consecutive_splits(num_rows: int | None) -> CollectedSplits:
    """The chunks of 5,000 rows in file order of the ADM evaluator."""
    return CollectedSplits(np.arange(_known(num_rows)) // ADM_SPLIT_SIZE)


def _known(num_rows: int | None) -> int:
    if num_rows is None:
        raise InputError(
            "The Inception Score needs to know the number of images beforehand; give the samples as a list, array, "
            "Dataset or path."
        )
    return num_rows


def mean_and_spread(splits: np.ndarray, reference: None, context: Context) -> Score:
    """torch-fidelity's definition: mean and standard deviation over the splits."""
    return Score(float(splits.mean()), stderr=float(splits.std()), details={"splits": len(splits)})


def mean_alone(splits: np.ndarray, reference: None, context: Context) -> Score:
    """The ADM evaluator's definition: the mean over the splits."""
    return Score(float(splits.mean()), details={"splits": len(splits)})


IS = Metric(mean_and_spread, shuffled_splits, output="logits", needs_reference=False)
IS_ADM = Metric(mean_alone, consecutive_splits, output="logits", needs_reference=False)
