"""Work in threads with results in order and a bounded look-ahead; it stops when the caller stops reading."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
_END = object()


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], num_workers: int, ahead: int
) -> Generator[R, None, None]:
    """`map(function, items)` in `num_workers` threads, in order, at most `ahead` items begun and not yet yielded.

    `items` is advanced in the caller's thread. With no workers everything runs there, one item at a time. Closing the
    generator, or any exception, drops what has not begun and waits for the items in work only.
    """
    if num_workers == 0:
        yield from map(function, items)
        return
    pending: deque[Future[R]] = deque()
    executor = ThreadPoolExecutor(num_workers, thread_name_prefix="fdr-images")
    try:
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def read_ahead(items: Iterator[T], ahead: int) -> Generator[T, None, None]:
    """The same items in order, read ahead by one thread: for streams that only read and decompress."""
    with_end = ordered_map(lambda _: next(items, _END), itertools.count(), 1, ahead)
    try:
        for item in with_end:
            if item is _END:
                return
            yield item  # type: ignore[misc]
    finally:
        with_end.close()
