"""`LabelledMoments`: the moments of all features and of their classes, and from both the covariance within classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fdr.errors import InputError
from fdr.frechet.class_moments import ClassMoments, ClassSums
from fdr.frechet.covariance import as_numpy
from fdr.frechet.moments import Moments

BLOCK_ROWS = 4096
"""Features that are centred at once. Raising it takes more memory."""


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
        numbers, places = np.unique(labels, return_inverse=True)
        if names is not None and not (numbers.min() >= 0 and numbers.max() < len(names)):
            raise InputError(f"Labels go from {numbers.min()} to {numbers.max()}, and {len(names)} names were given.")
        total = replace(Moments.from_features(features), rows=features)
        named = [str(number) if names is None else names[number] for number in numbers.tolist()]
        sums = ClassSums()
        for part in _blocks(len(features)):
            sums.add(features[part], places[part])
        return cls(total, sums.finish(named), places.astype(np.int64))

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
        if self.total.rows is None:
            assert weights is None, "weights need rows"
            return self._within_from_total()
        own = classes.within_weights
        weights = own if weights is None else weights
        scales = np.sqrt(weights * (classes.total - 1) / np.maximum(classes.counts - 1, 1))
        rows = np.empty(self.total.rows.shape, self.total.rows.dtype)
        if classes.total > self.total.dim and np.allclose(weights, own, rtol=1e-12, atol=0):
            for _ in self._centred(scales, rows):
                pass
            return replace(self._within_from_total(), rows=rows)
        found = Moments.from_features(self._centred(scales, rows))
        return replace(found, mu=np.zeros(found.dim), rows=rows)

    def _centred(self, scales: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
        """The features less the mean of their class, times its scale, block by block; they are kept in `rows`."""
        features, labels = self.total.rows, self.labels
        assert features is not None and labels is not None
        for part in _blocks(len(rows)):
            block = (features[part] - self.classes.means[labels[part]]) * scales[labels[part], None]
            rows[part] = block
            yield block

    def _within_from_total(self) -> Moments:
        """S_W as the scatter of all features less that of the class means."""
        classes, total = self.classes, self.total
        assert total.count is not None
        offsets = (classes.means - total.mu) * np.sqrt(classes.counts)[:, None]
        scatter = total.sigma * (total.count - total.ddof) - offsets.T @ offsets
        sigma = scatter / (classes.total - len(classes.names))
        return Moments(np.zeros(total.dim), (sigma + sigma.T) / 2, total.count)


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK_ROWS, count)) for start in range(0, count, BLOCK_ROWS))
