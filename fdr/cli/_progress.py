"""Progress on stderr: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
import warnings
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import click

from fdr.errors import FdrWarning, printable
from fdr.runtime import Progress, SilentProgress, human_bytes

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID

PLAIN_INTERVAL = 30.0
"""Seconds between progress lines where stderr is no terminal."""
PLAIN_WIDTH = 79
"""Characters of such a line; the title is shortened to fit."""
RICH_INTERVAL = 0.1
"""Seconds between two updates of a bar; a terminal shows no more, and each costs some 50 microseconds."""


def progress_for(quiet: bool) -> Progress:
    """Bars on a terminal, a line every 30 s elsewhere, nothing when quiet (warnings fall silent too)."""
    if quiet:
        warnings.simplefilter("ignore", FdrWarning)
        return SilentProgress()
    return RichProgress() if sys.stderr.isatty() else PlainProgress()


class RichProgress:
    """One line per task that fits the terminal: title, bar, count, rate, time left."""

    def task(self, title: str, total: float | None, unit: str = "images") -> AbstractContextManager[RichTask]:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichBars
        from rich.table import Column

        bars = RichBars(
            TextColumn(
                "{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
            ),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[state]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=Console(stderr=True),
            expand=True,
        )
        return RichTask(bars, title, total, unit)


class RichTask:
    """A bar, from `__enter__` to `__exit__`."""

    def __init__(self, bars: RichBars, title: str, total: float | None, unit: str) -> None:
        self._bars = bars
        self._meter = Meter(total, unit)
        self._next = 0.0
        self._task: TaskID = bars.add_task(printable(title), total=total, state=self._meter.state())

    def __enter__(self) -> RichTask:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._draw()
        self._bars.stop()

    def advance(self, amount: float = 1) -> None:
        self._meter.add(amount)
        if time.monotonic() >= self._next:
            self._draw()

    def resume(self, amount: float) -> None:
        self._meter.resume(amount)
        if time.monotonic() >= self._next:
            self._draw()

    def _draw(self) -> None:
        self._next = time.monotonic() + RICH_INTERVAL
        self._bars.update(self._task, completed=self._meter.done, state=self._meter.state())


class PlainProgress:
    """A line every 30 s, and one at the end."""

    def task(self, title: str, total: float | None, unit: str = "images") -> AbstractContextManager[PlainTask]:
        return PlainTask(title, total, unit)


class PlainTask:
    """Prints whole lines only, so that logs stay readable."""

    def __init__(self, title: str, total: float | None, unit: str) -> None:
        self._title = printable(title)
        self._meter = Meter(total, unit)
        self._next = time.monotonic() + PLAIN_INTERVAL
        self._printed = 0.0

    def __enter__(self) -> PlainTask:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._meter.done != self._printed:
            self._print()

    def advance(self, amount: float = 1) -> None:
        self._meter.add(amount)
        self._print_now_and_then()

    def resume(self, amount: float) -> None:
        self._meter.resume(amount)
        self._print_now_and_then()

    def _print_now_and_then(self) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PLAIN_INTERVAL
            self._print()

    def _print(self) -> None:
        self._printed = self._meter.done
        state = self._meter.state()
        click.echo(f"{shortened(self._title, PLAIN_WIDTH - len(state) - 2)}: {state}", err=True)


def shortened(text: str, width: int) -> str:
    """`text` cut in the middle to at most `width` characters, but not below twelve."""
    width = max(width, 12)
    if len(text) <= width:
        return text
    half = (width - 3) // 2
    return f"{text[: width - 3 - half]}...{text[len(text) - half :]}"


class Meter:
    """Counts, and says "512/50000 images, 91.3/s, 9 min 2 s left"; what was done before enters no rate."""

    def __init__(self, total: float | None, unit: str) -> None:
        self.done = 0.0
        self._new = 0.0
        self._total = total
        self._unit = unit
        self._start = time.monotonic()

    def add(self, amount: float) -> None:
        """`amount` more units are done."""
        self.done += amount
        self._new += amount

    def resume(self, amount: float) -> None:
        """`amount` units were done before; until something is new, the clock has not begun."""
        self.done += amount
        if self._new == 0:
            self._start = time.monotonic()

    def state(self) -> str:
        """Count, rate, and time left, as far as they can be told."""
        as_text = human_bytes if self._unit == "B" else "{:.0f}".format
        total = "" if self._total is None else f"/{as_text(self._total)}"
        counted = f"{as_text(self.done)}{total}" + ("" if self._unit == "B" else f" {self._unit}")
        seconds = time.monotonic() - self._start
        if self._new == 0 or seconds <= 0:
            return counted
        rate = self._new / seconds
        speed = (
            f"{human_bytes(rate)}/s"
            if self._unit == "B"
            else f"{rate:.{0 if rate >= 1000 else 1 if rate >= 1 else 3}f}/s"
        )
        is_open = self._total is not None and self.done < self._total
        left = f", {human_seconds((self._total - self.done) / rate)} left" if is_open and self._total else ""
        return f"{counted}, {speed}{left}"


def human_seconds(seconds: float) -> str:
    """75 -> "1 min 15 s"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
