"""Inception Score (Salimans et al. 2016) in the three definitions that published tables use, by name.

IS = exp(mean_x KL(p(y|x) || p(y))) per split, from the unbiased logits, in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fdr.errors import InputError
from fdr.metrics.base import AbstractCollector, Context, Metric, Score
from fdr.metrics.resampling import NUM_GROUPS, jackknife_stderr

NUM_SPLITS = 10
SHUFFLE_SEED = 2020
FDEVAL_SEED = 0
"""The seed of fd_evaluator's shuffle."""
ADM_SPLIT_SIZE = 5000


@dataclass(frozen=True)
class SplitScores:
    """The Inception Score of every split."""

    values: np.ndarray
    """float64 [number of splits]"""
    without: np.ndarray
    """[number of splits, G] without each of G groups of the images of the split."""

    @property
    def stderr(self) -> float | None:
        """The standard error of the mean by the jackknife of each split; None for splits of one image."""
        if self.without.shape[1] < 2:
            return None
        return math.hypot(*map(jackknife_stderr, self.without)) / len(self.values)


class CollectedSplits(AbstractCollector):
    """The Inception Score of every split, from sums of p and of p log p, and a count, for each group of its images.

    `split_of` [N] is the split of each image, -1 for one that does not count. The groups of a split take its images in
    turn.
    """

    def __init__(self, split_of: np.ndarray) -> None:
        counted = np.flatnonzero(split_of >= 0)
        sizes = np.bincount(split_of[counted])
        num_groups = min(NUM_GROUPS, int(sizes.min(initial=NUM_GROUPS)))
        order = counted[np.argsort(split_of[counted], kind="stable")]
        rank = np.empty(len(split_of), dtype=np.int64)
        rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        self._shape = len(sizes), max(num_groups, 1)
        self._cell_of = np.full(len(split_of), -1, dtype=np.int64)
        self._cell_of[counted] = split_of[counted] * self._shape[1] + rank[counted] % self._shape[1]
        self._counts = np.zeros(self._shape[0] * self._shape[1], dtype=np.int64)
        self._negative_entropy = np.zeros(len(self._counts))
        self._sums: np.ndarray | None = None

    def add(self, rows: np.ndarray, features: np.ndarray) -> None:
        if self._sums is None:
            self._sums = np.zeros((len(self._counts), features.shape[1]))
        counted = self._cell_of[rows] >= 0
        log_p = log_probabilities(features[counted])
        p = np.exp(log_p)
        cells = self._cell_of[rows][counted]
        np.add.at(self._counts, cells, 1)
        np.add.at(self._negative_entropy, cells, (p * log_p).sum(axis=1))
        order = np.argsort(cells, kind="stable")
        present, starts = np.unique(cells[order], return_index=True)
        self._sums[present] += np.add.reduceat(p[order], starts, axis=0)

    def state(self) -> list[np.ndarray]:
        return [] if self._sums is None else [self._counts, self._negative_entropy, self._sums]

    def absorb(self, state: list[np.ndarray]) -> None:
        if state:
            counts, negative_entropy, sums = state
            self._counts += counts
            self._negative_entropy += negative_entropy
            self._sums = sums if self._sums is None else self._sums + sums

    def finish(self) -> SplitScores:
        if self._sums is None or (self._counts.reshape(self._shape).sum(1) == 0).any():
            raise InputError("The Inception Score has a split without images; give it more images.")
        cells = [array.reshape(*self._shape, -1) for array in (self._counts, self._negative_entropy, self._sums)]
        whole = [array.sum(1) for array in cells]
        others = [total[:, None] - part for total, part in zip(whole, cells, strict=True)]
        return SplitScores(_scores(*whole), _scores(*others) if self._shape[1] > 1 else np.empty((len(whole[0]), 0)))


def _scores(counts: np.ndarray, negative_entropy: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """[...] from counts and sums of p log p [..., 1] and of p [..., C]."""
    return np.exp((negative_entropy / counts)[..., 0] + entropy(sums / counts))


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


def equal_splits(num_rows: int | None) -> CollectedSplits:
    """fd_evaluator's ten splits of equal size of rows that RandomState(0) has shuffled; the rest does not count."""
    num_rows = _known(num_rows)
    if num_rows < NUM_SPLITS:
        raise InputError(f"The Inception Score needs at least {NUM_SPLITS} images, one per split; got {num_rows}.")
    size = num_rows // NUM_SPLITS
    split_of = np.full(num_rows, -1, dtype=np.int64)
    order = np.random.RandomState(FDEVAL_SEED).permutation(num_rows)
    split_of[order[: size * NUM_SPLITS]] = np.repeat(np.arange(NUM_SPLITS), size)
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


def mean_and_spread(splits: SplitScores, reference: None, context: Context) -> Score:
    """torch-fidelity's definition: the mean over the splits, and in the details their standard deviation."""
    details = {"splits": len(splits.values), "split_std": float(splits.values.std())}
    return Score(float(splits.values.mean()), splits.stderr, details=details)


def mean_alone(splits: SplitScores, reference: None, context: Context) -> Score:
    """The definition of the ADM evaluator and of fd_evaluator: the mean over the splits."""
    return Score(float(splits.values.mean()), splits.stderr, details={"splits": len(splits.values)})


IS = Metric(mean_and_spread, shuffled_splits, output="logits", needs_reference=False)
IS_ADM = Metric(mean_alone, consecutive_splits, output="logits", needs_reference=False)
IS_FDEVAL = Metric(mean_alone, equal_splits, output="logits", needs_reference=False)
