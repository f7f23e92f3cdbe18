"""Inception Score (Salimans et al. 2016) in the two definitions that published tables use, by name.

IS = exp(mean_x KL(p(y|x) || p(y))) per split, from the unbiased logits, in float64.
"""

from __future__ import annotations

import numpy as np

from fdr.errors import InputError
from fdr.metrics.base import AbstractStream, AbstractStreamMetric, Score

NUM_SPLITS = 10
SHUFFLE_SEED = 2020
ADM_SPLIT_SIZE = 5000


class InceptionScore(AbstractStreamMetric):
    """torch-fidelity's: rows shuffled by RandomState(2020), 10 splits, mean and standard deviation over them."""

    name = "is"
    output = "logits"
    lower_is_better = False
    needs_reference = False

    def stream(self, num_rows: int) -> SplitStream:
        if num_rows < NUM_SPLITS:
            raise InputError(f"The Inception Score needs at least {NUM_SPLITS} images, one per split; got {num_rows}.")
        order = np.random.RandomState(SHUFFLE_SEED).permutation(num_rows)
        split_of = np.empty(num_rows, dtype=np.int64)
        for split in range(NUM_SPLITS):
            split_of[order[split * num_rows // NUM_SPLITS : (split + 1) * num_rows // NUM_SPLITS]] = split
        return SplitStream(split_of, has_spread=True)


class InceptionScoreADM(AbstractStreamMetric):
    """The ADM evaluator's: consecutive chunks of 5,000 rows in file order, no shuffle, mean only."""

    name = "is:adm"
    output = "logits"
    lower_is_better = False
    needs_reference = False

    def stream(self, num_rows: int) -> SplitStream:
        return SplitStream(np.arange(num_rows) // ADM_SPLIT_SIZE, has_spread=False)


class SplitStream(AbstractStream):
    """Per split: the sum of p, the sum of p log p, and the count; enough for exp(mean KL)."""

    def __init__(self, split_of: np.ndarray, *, has_spread: bool) -> None:
        self._split_of = split_of
        self._has_spread = has_spread
        num_splits = int(split_of.max()) + 1 if len(split_of) else 0
        self._counts = np.zeros(num_splits, dtype=np.int64)
        self._negative_entropy = np.zeros(num_splits)
        self._sums: np.ndarray | None = None

    def update(self, rows: np.ndarray, values: np.ndarray) -> None:
        logits = values.astype(np.float64)
        if self._sums is None:
            self._sums = np.zeros((len(self._counts), logits.shape[1]))
        log_p = logits - logits.max(axis=1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
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

    def score(self) -> Score:
        if self._sums is None or (self._counts == 0).any():
            raise InputError("The Inception Score has a split without images; give it more images.")
        marginal = self._sums / self._counts[:, None]
        marginal_entropy = -np.sum(np.where(marginal > 0, marginal * np.log(np.maximum(marginal, 1e-300)), 0.0), axis=1)
        scores = np.exp(self._negative_entropy / self._counts + marginal_entropy)
        spread = float(scores.std()) if self._has_spread else None
        return Score(float(scores.mean()), stderr=spread, details={"splits": len(scores)})
