"""Work in threads: closing drops what has not begun, and an error does too."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from fdr.runtime import ordered_map, read_ahead


@pytest.mark.parametrize("is_error", [False, True])
def test_what_has_not_begun_is_dropped(is_error: bool) -> None:
    """One worker is busy with the second item when the caller leaves; the six that wait behind it never begin."""
    begun: list[int] = []
    is_busy, may_end = threading.Event(), threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            is_busy.set()
            assert may_end.wait(20)
        return item

    results = ordered_map(work, range(100), 1, 8)
    assert next(results) == 0 and is_busy.wait(20)
    threading.Timer(0.05, may_end.set).start()
    if is_error:
        with contextlib.suppress(KeyError):
            results.throw(KeyError())
    else:
        results.close()
    assert begun == [0, 1]


def test_reading_ahead_gives_the_same_items_and_stops_with_its_reader() -> None:
    taken: list[int] = []

    def items() -> Iterator[int | None]:
        for item in (0, None, 2, 3, 4, 5, 6, 7, 8, 9):
            taken.append(1)
            yield item

    assert list(read_ahead(items(), 3)) == [0, None, 2, 3, 4, 5, 6, 7, 8, 9]
    taken.clear()
    reader = read_ahead(items(), 3)
    assert next(reader) == 0
    reader.close()
    assert len(taken) <= 4
    assert list(read_ahead(iter(()), 3)) == []
