"""How long work tells how far it is. The library calls; the command line draws; the default is silence."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol


class ProgressTask(Protocol):
    """One running task."""

    def advance(self, amount: float = 1) -> None:
        """`amount` more units are done."""

    def resume(self, amount: float) -> None:
        """`amount` units were done before this run: they count as done, and not into the rate."""


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
