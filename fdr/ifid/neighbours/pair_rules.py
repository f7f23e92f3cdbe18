"""Which pairs of query and reference count: not an image with itself, and within one class if labels are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fdr.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Pair = tuple[np.ndarray, np.ndarray]
"""One integer for every query row, and one for every reference row."""


class PairRules:
    """The rules of one search.

    A pair with equal `identities` does not count, since it is an image and itself. With `labels`, only pairs of one
    class count. None switches a rule off.
    """

    def __init__(self, identities: Pair | None, labels: Pair | None, num_rows: tuple[int, int]) -> None:
        self._identities = _checked(identities, num_rows, "identities")
        self._labels = _checked(labels, num_rows, "labels")

    @property
    def facts(self) -> list[np.ndarray]:
        """The arrays that the rules depend on."""
        return [array for pair in (self._identities, self._labels) if pair is not None for array in pair]

    def order(self, rows: np.ndarray) -> np.ndarray:
        """The order that sorts the queries `rows` by class, so that each class is contiguous."""
        if self._labels is None:
            return np.arange(len(rows))
        return np.argsort(self._labels[0][rows], kind="stable")

    def concerned(self, queries: np.ndarray, references: np.ndarray) -> slice:
        """The slice of the ordered query rows `queries` that can have a neighbour among the rows `references`."""
        if self._labels is None or not len(references):
            return slice(0, len(queries))
        own, theirs = self._labels[0][queries], self._labels[1][references]
        return slice(int(np.searchsorted(own, theirs.min())), int(np.searchsorted(own, theirs.max(), side="right")))

    def forbid(self, scores: Tensor, queries: np.ndarray, references: np.ndarray) -> None:
        """Set the scores [q, t] of the pairs that do not count to minus infinity."""
        import torch

        if self._labels is not None:
            own, theirs = self._labels[0][queries], self._labels[1][references]
            if own.min() != own.max() or theirs.min() != theirs.max() or own[0] != theirs[0]:
                first, second = (torch.from_numpy(side).to(scores.device) for side in (own, theirs))
                scores.masked_fill_(first[:, None] != second, -torch.inf)
        if self._identities is not None:
            i, j = _equal(self._identities[0][queries], self._identities[1][references])
            if len(i):
                scores[torch.from_numpy(i).to(scores.device), torch.from_numpy(j).to(scores.device)] = -torch.inf

    def check_counts(self, queries: np.ndarray, num_references: int, top_k: int) -> None:
        """Raise `InputError` if one of the query rows has fewer than K references, counting all that may exist."""
        counts = self._counts(queries, num_references)
        short = np.flatnonzero(counts < top_k)
        if len(short):
            raise self.too_few(int(queries[short[0]]), int(counts[short[0]]), top_k)

    def too_few(self, row: int, count: int, top_k: int) -> InputError:
        """The error for the query in `row`, which has only `count` references."""
        whose, what = f"The query in row {row}", "of the reference set"
        if self._labels is not None:
            whose, what = f"{whose} (class {self._labels[0][row]})", "of its class"
        less = ", the image itself not counted" if self._identities is not None else ""
        return InputError(
            f"{whose} has {count:,} latents {what} to choose from{less}, but {top_k} nearest are to be found; give "
            f"more reference images{', or search all classes' if self._labels is not None else ''}, or lower top-k to "
            f"{max(1, count)}."
        )

    def _counts(self, queries: np.ndarray, num_references: int) -> np.ndarray:
        """int64 [q]: how many references count for each of the query rows."""
        counts = np.full(len(queries), num_references)
        if self._labels is not None:
            counts = _occurrences(self._labels[1], self._labels[0][queries])
        if self._identities is not None:
            own, theirs = self._identities[0][queries], self._identities[1]
            if self._labels is not None:
                codes = np.unique(np.concatenate([own, theirs]), return_inverse=True)[1]
                classes, labels = np.unique(
                    np.concatenate([self._labels[0][queries], self._labels[1]]), return_inverse=True
                )
                both = codes * np.int64(len(classes)) + labels
                own, theirs = both[: len(own)], both[len(own) :]
            counts = counts - _occurrences(theirs, own)
        return counts


def _checked(pair: Pair | None, num_rows: tuple[int, int], what: str) -> Pair | None:
    if pair is None:
        return None
    arrays = np.asarray(pair[0]), np.asarray(pair[1])
    for array, count in zip(arrays, num_rows, strict=True):
        if array.shape != (count,) or array.dtype.kind not in "iu":
            raise ValueError(f"{what} are {array.dtype} {array.shape}; expected integers ({count},)")
    return arrays[0].astype(np.int64), arrays[1].astype(np.int64)


def _occurrences(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How often each of `wanted` occurs in `values`."""
    ordered = np.sort(values)
    return np.searchsorted(ordered, wanted, side="right") - np.searchsorted(ordered, wanted)


def _equal(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (i, j) with first[i] == second[j], as two arrays."""
    order = np.argsort(first, kind="stable")
    ordered = first[order]
    start, stop = np.searchsorted(ordered, second), np.searchsorted(ordered, second, side="right")
    counts = stop - start
    j = np.repeat(np.arange(len(second)), counts)
    place = np.arange(len(j)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[np.repeat(start, counts) + place], j
