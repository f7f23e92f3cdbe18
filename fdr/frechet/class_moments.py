"""`ClassMoments`: count, mean and spread of the features of each class, as sums collect them and as files hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fdr.errors import InputError
from fdr.frechet.covariance import real_array

CLASS_ARRAYS = ("class_names", "class_counts", "class_means", "class_spreads")
"""The names of the arrays that a file holds of classes."""


@dataclass(frozen=True, eq=False)
class ClassMoments:
    """What is known of each of C classes. `spreads` are traces of covariances, which a few images are enough for; a
    covariance [D, D] of each class would need many more images than dimensions.

    Raises `InputError` for arrays that disagree, values that are not finite, a negative spread or a count below 1.
    """

    names: tuple[str, ...]
    """[C] the name of each class, or its number as text; all differ."""
    counts: np.ndarray
    """int64 [C]: images n_c of each class, at least 1."""
    means: np.ndarray
    """float64 [C, D]: m_c."""
    spreads: np.ndarray
    """float64 [C]: tr S_c with the unbiased covariance S_c; 0 where n_c = 1."""

    def __post_init__(self) -> None:
        counts = np.array(self.counts)
        means, spreads = real_array(self.means, "class means"), real_array(self.spreads, "class spreads")
        size = len(self.names)
        if means.ndim != 2 or not (len(means) == size == len(set(self.names))) or size == 0:
            raise InputError(
                f"Class means have shape {list(means.shape)} for {size} names; expected [C, D] and C different names."
            )
        if counts.shape != (size,) or spreads.shape != (size,) or counts.dtype.kind not in "iu" or counts.min() < 1:
            raise InputError("Class counts and spreads must be [C] each, and every count a whole number of at least 1.")
        if spreads.min() < 0:
            raise InputError("A class has a negative spread; the file was altered.")
        for name, values in (("counts", counts.astype(np.int64)), ("means", means), ("spreads", spreads)):
            values.flags.writeable = False
            object.__setattr__(self, name, values)

    @property
    def total(self) -> int:
        """N, the images of all classes."""
        return int(self.counts.sum())

    @property
    def shares(self) -> np.ndarray:
        """pi_c = n_c / N, [C]."""
        return self.counts / self.total

    @property
    def within_dof(self) -> int:
        """N - C, the degrees of freedom of the pooled covariance."""
        return self.total - len(self.names)

    @property
    def within_weights(self) -> np.ndarray:
        """(n_c - 1) / (N - C), [C]: the weight of S_c in the pooled covariance."""
        return (self.counts - 1) / max(self.within_dof, 1)

    @property
    def mean(self) -> np.ndarray:
        """The mean of all features, [D]."""
        return self.shares @ self.means

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What files hold, by `CLASS_ARRAYS`; the names as the bytes of a JSON list, uint8."""
        names = np.frombuffer(json.dumps(list(self.names)).encode(), np.uint8)
        return dict(zip(CLASS_ARRAYS, (names, self.counts, self.means, self.spreads), strict=True))

    @classmethod
    def of(cls, arrays: Mapping[str, Any]) -> ClassMoments | None:
        """The classes that a file holds; None if it holds none. Raises `InputError` where they are damaged."""
        if not any(name in arrays for name in CLASS_ARRAYS):
            return None
        try:
            coded, *values = (np.asarray(arrays[name]) for name in CLASS_ARRAYS)
            names = json.loads(coded.astype(np.uint8).tobytes())
            if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
                raise ValueError("no list of names")
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise InputError(f"The classes of these moments are damaged ({error}); compute them again.") from None
        return cls(tuple(names), *values)

    def __reduce__(self) -> tuple[Any, ...]:
        return ClassMoments, (self.names, self.counts, self.means, self.spreads)


class ClassSums:
    """Running counts, means and spreads of classes 0, 1, ..., in float64; the memory is that of one mean a class.

    Parts are merged as in `Sums` (Chan, Golub and LeVeque 1979), so that a large mean costs no digits.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(0, np.int64)
        self._means = np.zeros((0, 0))
        self._squares = np.zeros(0)

    def add(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Add features [n, D] of the classes [n], which are 0 or more."""
        if len(labels):
            self._make_room(int(labels.max()) + 1, features.shape[1])
        order = np.argsort(labels, kind="stable")
        numbers, starts = np.unique(labels[order], return_index=True)
        for number, rows in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
            block = features[rows].astype(np.float64)
            mean = block.mean(0)
            self._merge(number, len(block), mean, float(np.square(block - mean).sum()))

    def _merge(self, number: int, count: int, mean: np.ndarray, square: float) -> None:
        total, gap = self._counts[number] + count, mean - self._means[number]
        self._squares[number] += square + float(gap @ gap) * (self._counts[number] * count / total)
        self._means[number] += gap * (count / total)
        self._counts[number] = total

    def _make_room(self, num_classes: int, dim: int) -> None:
        missing = num_classes - len(self._counts)
        if missing > 0:
            means = self._means if len(self._means) else np.zeros((0, dim))
            self._counts = np.concatenate([self._counts, np.zeros(missing, np.int64)])
            self._squares = np.concatenate([self._squares, np.zeros(missing)])
            self._means = np.pad(means, ((0, missing), (0, 0)))

    def state(self) -> list[np.ndarray]:
        """Counts [K], means [K, D] and sums of squared distances from the means [K]; none if nothing was added."""
        return [self._counts, self._means, self._squares] if len(self._counts) else []

    def absorb(self, state: list[np.ndarray]) -> None:
        """Add the `state` of other sums; exact up to rounding."""
        if state:
            counts, means, squares = state
            self._make_room(*means.shape)
            for number in np.flatnonzero(counts).tolist():
                self._merge(number, int(counts[number]), means[number], float(squares[number]))

    def finish(self, names: Sequence[str] | None = None) -> ClassMoments:
        """The moments of the classes that occurred; `names` [K] are those of all classes. `InputError` if none did."""
        numbers = np.flatnonzero(self._counts)
        if names is not None and len(self._counts) > len(names):
            raise InputError(f"Labels go up to {len(self._counts) - 1}, and {len(names)} names were given.")
        named = tuple(str(number) if names is None else names[number] for number in numbers.tolist())
        counts = self._counts[numbers]
        spreads = self._squares[numbers] / np.maximum(counts - 1, 1)
        return ClassMoments(named, counts, self._means[numbers], spreads)


def label_code(num_classes: int) -> np.ndarray:
    """The code e(c) of each of C classes, [C, C - 1]: one-hot codes, turned so that the direction in which all agree is
    the last axis, which is left out.

    Any two classes are √2 apart, as one-hot codes are, and the covariance of the code has full rank, which that of
    one-hot codes has not. The rotation is a Householder reflection.
    """
    vector = np.full(num_classes, 1 / math.sqrt(num_classes))
    vector[-1] -= 1
    norm = float(vector @ vector)
    reflection = np.eye(num_classes) - (2 / norm) * np.outer(vector, vector) if norm else np.eye(num_classes)
    return reflection[:, :-1]
