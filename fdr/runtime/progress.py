"""Progress of long work. The library reports it, the command line draws it, and by default nothing is shown."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol


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


def human_bytes(size: float) -> str:
    """1234567 -> "1.2 MB" (powers of 1000, as disks and hubs count)."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
