"""Progress of long work. The library reports it, the command line draws it, and by default nothing is shown."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fdr.runtime.ranks.group import Group

EXCHANGE_INTERVAL = 0.1
"""Seconds between two exchanges of progress: raising it makes the bar jump, lowering it costs time."""


class ProgressTask(Protocol):
    """One running task."""

    def advance(self, amount: float = 1) -> None:
        """Report that `amount` more units are done."""

    def resume(self, amount: float) -> None:
        """Report `amount` units of an earlier run: they count as done, but not towards the rate."""


class Progress(Protocol):
    """Opens tasks."""

    def task(self, title: str, total: float | None, unit: str = "images") -> AbstractContextManager[ProgressTask]:
        """A task of `total` units (None: unknown), shown from `__enter__` to `__exit__`."""


class SilentProgress:
    """Shows nothing; the default everywhere in the library."""

    def task(self, title: str, total: float | None, unit: str = "images") -> SilentProgress:
        return self

    def __enter__(self) -> SilentProgress:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def advance(self, amount: float = 1) -> None:
        return None

    def resume(self, amount: float) -> None:
        return None


class SharedTask:
    """The progress of work that the ranks divide: rank 0's `task` shows the sum over all ranks."""

    def __init__(self, task: ProgressTask, group: Group) -> None:
        self._shows = (task.advance, task.resume)
        self._counts = (group.counter(), group.counter())
        self._done = [0, 0]
        self._waiting = [0, 0]
        self._next = 0.0

    def advance(self, amount: int = 0) -> None:
        """Report that this rank has done `amount` more; 0 only updates what the others have done."""
        self._add(0, amount)

    def resume(self, amount: int) -> None:
        """Report that an earlier run had done `amount` of this rank's work."""
        self._add(1, amount)

    def _add(self, kind: int, amount: int) -> None:
        self._waiting[kind] += amount
        now = time.monotonic()
        if amount and now < self._next:
            return
        self._next = now + EXCHANGE_INTERVAL
        for which, (show, count) in enumerate(zip(self._shows, self._counts, strict=True)):
            done = count(self._waiting[which])
            if done > self._done[which]:
                show(done - self._done[which])
            self._done[which], self._waiting[which] = done, 0

    @property
    def done(self) -> int:
        """Units that all ranks together had done at the last exchange."""
        return sum(self._done)


def human_bytes(size: float) -> str:
    """1234567 -> "1.2 MB" (powers of 1000, as disks and hubs count)."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
