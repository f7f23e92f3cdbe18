"""`ClassMoments`: count, mean and spread of the features of each class; `LabelledMoments`: these with all features'
moments, which together give the pooled covariance within the classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fdr.errors import InputError
from fdr.frechet.covariance import as_numpy, real_array
from fdr.frechet.moments import Moments

BLOCK_ROWS = 4096
"""Features that are centred at once. Raising it takes more memory."""


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
    def within_weights(self) -> np.ndarray:
        """(n_c - 1) / (N - C), [C]: the weight of S_c in the pooled covariance."""
        return (self.counts - 1) / max(self.total - len(self.names), 1)

    @property
    def mean(self) -> np.ndarray:
        """The mean of all features, [D]."""
        return self.shares @ self.means


@dataclass(frozen=True, eq=False)
class LabelledMoments:
    """Moments of features and of their classes; from features, or from a file that holds both.

    Raises `InputError` where the two are of other widths or other numbers of images.
    """

    total: Moments
    """Of all features; with `rows` [N, D] where they are known."""
    classes: ClassMoments
    labels: np.ndarray | None = None
    """int64 [N]: the place of the class of each row in `classes.names`; None without rows."""

    def __post_init__(self) -> None:
        found, expected = self.classes.means.shape[1], self.total.dim
        if found != expected or self.total.count != self.classes.total:
            raise InputError(
                f"The classes are of {self.classes.total} features of width {found}, the moments of {self.total.count} "
                f"of width {expected}; the file was altered."
            )

    @classmethod
    def from_features(cls, features: Any, labels: Any, names: Sequence[str] | None = None) -> LabelledMoments:
        """Of features [N, D] with class numbers [N]; `names` [K] names class 0 to K - 1 and may name absent ones.

        Classes are those that occur, in ascending order. Raises `InputError` for other shapes and labels that are not
        whole numbers.
        """
        features, labels = as_numpy(features), as_numpy(labels)
        if features.ndim != 2 or labels.shape != features.shape[:1] or labels.dtype.kind not in "iu":
            raise InputError(
                f"Features have shape {list(features.shape)} and labels {list(labels.shape)} of {labels.dtype}; "
                "expected [N, D] and N whole numbers."
            )
        numbers, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
        if names is not None and not (numbers.min() >= 0 and numbers.max() < len(names)):
            raise InputError(f"Labels go from {numbers.min()} to {numbers.max()}, and {len(names)} names were given.")
        total = replace(Moments.from_features(features), rows=features)
        means, spreads = _means_and_spreads(features, places, counts)
        named = tuple(str(number) if names is None else names[number] for number in numbers.tolist())
        return cls(total, ClassMoments(named, counts, means, spreads), places.astype(np.int64))

    def within(self, weights: np.ndarray | None = None) -> Moments:
        """The pooled covariance within the classes, S_W = sum_c w_c S_c, as moments with mean 0.

        By default w_c = (n_c - 1) / (N - C), so that S_W is the scatter about the class means over N - C. Other
        `weights` [C], which sum to 1, need `rows`. With `rows` the moments have rows [N, D] as well: the centred
        features, scaled so that their covariance is S_W.

        Raises `InputError` where no class has two images.
        """
        classes = self.classes
        if classes.counts.max() < 2:
            raise InputError("Every class has one image, so there is no spread within classes; give more images.")
        if self.total.rows is None or self.labels is None:
            assert weights is None, "weights need rows"
            return self._within_from_total()
        weights = classes.within_weights if weights is None else weights
        scales = np.sqrt(weights * (classes.total - 1) / np.maximum(classes.counts - 1, 1))
        rows = np.empty(self.total.rows.shape, self.total.rows.dtype)

        def centred() -> Iterator[np.ndarray]:
            for part in _blocks(len(rows)):
                labels = self.labels[part]  # type: ignore[index]
                block = (self.total.rows[part] - classes.means[labels]) * scales[labels, None]  # type: ignore[index]
                rows[part] = block
                yield block

        found = Moments.from_features(centred())
        return replace(found, mu=np.zeros(found.dim), rows=rows)

    def _within_from_total(self) -> Moments:
        """S_W as the scatter of all features less that of the class means."""
        classes, total = self.classes, self.total
        assert total.count is not None
        offsets = (classes.means - total.mu) * np.sqrt(classes.counts)[:, None]
        scatter = total.sigma * (total.count - total.ddof) - offsets.T @ offsets
        sigma = scatter / (classes.total - len(classes.names))
        return Moments(np.zeros(total.dim), (sigma + sigma.T) / 2, total.count)


def _means_and_spreads(features: np.ndarray, places: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """m_c [C, D] and tr S_c [C] in float64, class by class."""
    means, squares = np.zeros((len(counts), features.shape[1])), np.zeros(len(counts))
    order = np.argsort(places, kind="stable")
    for c, rows in enumerate(np.split(order, np.cumsum(counts)[:-1])):
        for part in _blocks(len(rows)):
            means[c] += features[rows[part]].sum(0, dtype=np.float64)
        means[c] /= len(rows)
        for part in _blocks(len(rows)):
            squares[c] += np.square(features[rows[part]] - means[c]).sum()
    return means, squares / np.maximum(counts - 1, 1)


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK_ROWS, count)) for start in range(0, count, BLOCK_ROWS))


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
