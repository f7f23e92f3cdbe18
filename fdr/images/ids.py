"""The ids of images, computed on demand, so that millions of rows need no list of strings."""

from __future__ import annotations

import bisect
import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np

T = TypeVar("T")


class Selected(Sequence[T]):
    """The items of `items` at the positions `rows`, not copied."""

    def __init__(self, items: Sequence[T], rows: np.ndarray) -> None:
        self._items, self._rows = items, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return Selected(self._items, self._rows[index])
        return self._items[int(self._rows[operator.index(index)])]


class RowIds(Sequence[str]):
    """ "arr_0[0]", "arr_0[1]", ...: the ids of the rows of one array."""

    def __init__(self, prefix: str, total: int) -> None:
        self._prefix, self._total = prefix, total

    def __len__(self) -> int:
        return self._total

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._total))]
        return f"{self._prefix}[{range(self._total)[index]}]"


class JoinedIds(Sequence[str]):
    """The ids of several parts, one after the other."""

    def __init__(self, parts: Sequence[Sequence[str]]) -> None:
        self._parts = parts
        self._ends = list(itertools.accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        number = bisect.bisect_right(self._ends, at)
        return self._parts[number][at - self._ends[number]]


class EndlessIds(Sequence[str]):
    """ "item[0]", "item[1]", ...: the ids of an iterable of unknown length."""

    def __len__(self) -> int:
        raise TypeError("the number of images is not known")

    def __iter__(self) -> Iterator[str]:
        raise TypeError("the number of images is not known")

    def __getitem__(self, index: Any) -> Any:
        return f"item[{operator.index(index)}]"
