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
    def arrays(self) -> list[np.ndarray]:
        """The arrays that the rules depend on."""
        return [array for pair in self._rules() for array in pair]

    def order(self, rows: np.ndarray) -> np.ndarray:
        """The order that sorts the queries `rows` by class, so that each class is contiguous."""
        if self._labels is None:
            return np.arange(len(rows))
        return np.argsort(self._labels[0][rows], kind="stable")

    def concerned(self, queries: np.ndarray, references: np.ndarray) -> slice:
        """The slice of the ordered query rows `queries` that can have a neighbour among the rows `references`."""
        if self._labels is None or not len(references):
            return slice(0, len(queries))
        own, theirs = self._of(self._labels, queries, references)
        return slice(int(np.searchsorted(own, theirs.min())), int(np.searchsorted(own, theirs.max(), side="right")))

    def forbid(self, scores: Tensor, queries: np.ndarray, references: np.ndarray) -> None:
        """Set the scores [q, t] of the pairs that do not count to minus infinity."""
        import torch

        if self._labels is not None:
            own, theirs = (
                torch.from_numpy(each).to(scores.device) for each in self._of(self._labels, queries, references)
            )
            scores.masked_fill_(own[:, None] != theirs, -torch.inf)
        if self._identities is not None:
            first, second = self._of(self._identities, queries, references)
            known = np.flatnonzero(np.isin(second, first))
            i, j = np.nonzero(first[:, None] == second[known])
            scores[torch.from_numpy(i).to(scores.device), torch.from_numpy(known[j]).to(scores.device)] = -torch.inf

    def check_counts(self, queries: np.ndarray, references: np.ndarray, top_k: int) -> None:
        """Raise `InputError` if one of the query rows `queries` has fewer than K of the reference rows `references`."""
        counts = self._counts(queries, references)
        short = np.flatnonzero(counts < top_k)
        if not len(short):
            return
        row, count = int(queries[short[0]]), int(counts[short[0]])
        whose, what, advice = f"The query in row {row}", "of the reference set", ""
        if self._labels is not None:
            whose, what = f"{whose} (class {self._labels[0][row]})", "of its class"
            advice = ", or search all classes"
        less = ", the image itself not counted" if self._identities is not None else ""
        raise InputError(
            f"{whose} has {count:,} latents {what} to choose from{less}, but {top_k} nearest are to be found; give "
            f"more reference images{advice}, or lower top-k to {max(1, count)}."
        )

    def _counts(self, queries: np.ndarray, references: np.ndarray) -> np.ndarray:
        """int64 [q]: how many of the references count for each of the query rows."""
        counts = np.full(len(queries), len(references))
        if self._labels is not None:
            own, theirs = self._of(self._labels, queries, references)
            counts = _occurrences(theirs, own)
        if self._identities is not None:
            keys = np.stack([np.concatenate(self._of(rule, queries, references)) for rule in self._rules()])
            codes = np.unique(keys, axis=1, return_inverse=True)[1].reshape(-1)
            counts = counts - _occurrences(codes[len(queries) :], codes[: len(queries)])
        return counts

    def _rules(self) -> list[Pair]:
        return [pair for pair in (self._identities, self._labels) if pair is not None]

    @staticmethod
    def _of(rule: Pair, queries: np.ndarray, references: np.ndarray) -> Pair:
        return rule[0][queries], rule[1][references]


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
