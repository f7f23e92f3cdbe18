"""Shows progress on stderr: bars on a terminal, and a line every 30 s elsewhere."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fdr.errors import InputError, printable
from fdr.runtime.progress import Progress, SilentProgress, human_bytes

PLAIN_INTERVAL = 30.0
"""Seconds between progress lines if stderr is no terminal. Raising it makes logs shorter."""
PLAIN_WIDTH = 79
"""Characters of such a line. Raising it shortens fewer titles, and folds lines on a terminal of 80 columns."""
RICH_INTERVAL = 0.1
"""Seconds between two updates of a bar. Each costs some 50 microseconds; raising it makes bars jerky."""


def as_progress(progress: Progress | bool | None) -> Progress:
    """What shows the progress of a call: nothing for None and False, bars or lines on stderr for True.

    True gives bars on a terminal and in a notebook that has ipywidgets, and lines elsewhere. A `Progress` of the
    caller's is returned as it is. Raises `InputError` for anything else.
    """
    if progress is None or progress is False:
        return SilentProgress()
    if progress is True:
        return RichProgress() if sys.stderr.isatty() or _has_widgets() else PlainProgress()
    if not hasattr(progress, "task"):
        raise InputError(
            f"progress is {type(progress).__name__}; expected True for bars on stderr, False for none, or an object "
            "with a method task(title, total, unit)."
        )
    return progress


def _has_widgets() -> bool:
    """True in a Jupyter notebook in which rich can draw bars, for which it needs ipywidgets."""
    if "ipykernel" not in sys.modules:
        return False
    return importlib.util.find_spec("ipywidgets") is not None


class RichProgress:
    """One line per task that fits the terminal: title, bar, count, rate, time left."""

    @contextmanager
    def task(self, title: str, total: float | None, unit: str = "images") -> Iterator[Task]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        bars = Progress(
            TextColumn(
                "{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
            ),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[state]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=Console(stderr=True),
            expand=True,
        )
        task = Task(total, unit, lambda task: bars.update(bar, completed=task.done, state=task.state()), RICH_INTERVAL)
        bar = bars.add_task(printable(title), total=total, state=task.state())
        with bars:
            try:
                yield task
            finally:
                task.show()


class PlainProgress:
    """A whole line every 30 s, so that logs stay readable, and one at the end."""

    @contextmanager
    def task(self, title: str, total: float | None, unit: str = "images") -> Iterator[Task]:
        def show(task: Task) -> None:
            state = task.state()
            title_shown = shortened(printable(title), PLAIN_WIDTH - len(state) - 2)
            print(f"{title_shown}: {state}", file=sys.stderr, flush=True)

        task = Task(total, unit, show, PLAIN_INTERVAL, wait=PLAIN_INTERVAL)
        yield task
        if task.done != task.shown:
            task.show()


def shortened(text: str, width: int) -> str:
    """`text` cut in the middle to at most `width` characters, but not below twelve."""
    width = max(width, 12)
    if len(text) <= width:
        return text
    half = (width - 3) // 2
    return f"{text[: width - 3 - half]}...{text[len(text) - half :]}"


class Task:
    """Counts, and shows "512/50000 images, 91.3/s, 9 min 2 s left" at most every `interval` seconds."""

    def __init__(
        self, total: float | None, unit: str, show: Callable[[Task], None], interval: float, wait: float = 0.0
    ) -> None:
        self.done = 0.0
        self.shown = 0.0
        self._new = 0.0
        self._total, self._unit = total, unit
        self._show, self._interval = show, interval
        self._start = time.monotonic()
        self._next = self._start + wait

    def advance(self, amount: float = 1) -> None:
        """`amount` more units are done."""
        self.done += amount
        self._new += amount
        self._show_now_and_then()

    def resume(self, amount: float) -> None:
        """`amount` units were done before this run. They do not count for the rate, whose clock starts after them."""
        self.done += amount
        if self._new == 0:
            self._start = time.monotonic()
        self._show_now_and_then()

    def _show_now_and_then(self) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._interval
            self.show()

    def show(self) -> None:
        """Show the count as it is."""
        self.shown = self.done
        self._show(self)

    def state(self) -> str:
        """The count, and the rate and the time left once they are known."""
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
