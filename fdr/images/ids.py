"""Ids of images that are computed when they are asked for, so that millions of rows need no list of strings."""

from __future__ import annotations

import bisect
import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


class Selected(Sequence[str]):
    """The ids at the positions `rows` of `items`, which are not copied."""

    def __init__(self, items: Sequence[str], rows: np.ndarray) -> None:
        self._items, self._rows = items, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Selected(self._items, self._rows[index])
        return self._items[int(self._rows[operator.index(index)])]


class RowIds(Sequence[str]):
    """ "arr_0[0]", "arr_0[1]", ...: the ids of the rows of arrays, given by name and length, one after the other."""

    def __init__(self, *arrays: tuple[str, int]) -> None:
        self._names = [name for name, _ in arrays]
        self._starts = [0, *itertools.accumulate(length for _, length in arrays)]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        number = bisect.bisect_right(self._starts, row) - 1
        return f"{self._names[number]}[{row - self._starts[number]}]"


class EndlessIds(Sequence[str]):
    """ "item[0]", "item[1]", ...: the ids of an iterable of unknown length."""

    def __len__(self) -> int:
        raise TypeError("the number of images is not known")

    def __iter__(self) -> Iterator[str]:
        raise TypeError("the number of images is not known")

    def __getitem__(self, index: Any) -> Any:
        return f"item[{operator.index(index)}]"
