"""Keeps the features of a random part of the images in bounded memory, for what moments alone cannot give."""

from __future__ import annotations

import numpy as np

from fdr.metrics import AbstractCollector

ROWS_BYTES = 2**28
"""Bytes of features that are kept for each encoder: 32,768 images of 2,048 dimensions. Raising it makes the leverage
curve and the noise floor of large references more exact, and takes more memory and time."""
SLACK = 1.25
"""The share of these bytes that may be filled before the surplus is dropped. Raising it drops it less often."""


class RandomRows(AbstractCollector):
    """The features, float32 [M, D], of the M images that come first in a random order, in the order of the images.

    All are kept if they fit in `ROWS_BYTES`. The random order is that of `random_keys`, so the part depends neither on
    the batches nor on the number of ranks.
    """

    def __init__(self, num_rows: int | None = None) -> None:
        self._rows: list[np.ndarray] = []
        self._features: list[np.ndarray] = []
        self._count = 0

    def add(self, rows: np.ndarray, features: np.ndarray) -> None:
        self._rows.append(np.array(rows, dtype=np.int64))
        self._features.append(np.array(features, dtype=np.float32))
        self._count += len(rows)
        most = max(2, ROWS_BYTES // (4 * features.shape[1]))
        if self._count > SLACK * most:
            self._keep(most)

    def _keep(self, most: int) -> None:
        rows, features = np.concatenate(self._rows), np.concatenate(self._features)
        if len(rows) > most:
            first = np.argpartition(random_keys(rows), most - 1)[:most]
            rows, features = rows[first], features[first]
        self._rows, self._features, self._count = [rows], [features], len(rows)

    def state(self) -> list[np.ndarray]:
        if not self._rows:
            return []
        self._keep(max(2, ROWS_BYTES // (4 * self._features[0].shape[1])))
        return [self._rows[0], self._features[0]]

    def absorb(self, state: list[np.ndarray]) -> None:
        if state:
            self.add(*state)

    def finish(self) -> np.ndarray:
        rows, features = self.state()
        return features[np.argsort(rows)]


def random_keys(rows: np.ndarray) -> np.ndarray:
    """uint64 [n]: a fixed random number for each row number [n], no two alike (splitmix64, Steele et al. 2014)."""
    keys = (rows.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
