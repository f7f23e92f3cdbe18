"""Shows a training run: as a live table on a terminal, as lines elsewhere."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import click

from fdr.cli._render import LiveTable
from fdr.errors import FdrWarning
from fdr.runtime import PLAIN_INTERVAL, PlainProgress, RichProgress, Task, human_bytes, human_seconds
from fdr.training import SilentView, View

if TYPE_CHECKING:
    from fdr.training import AlarmRecord, StepRecord

_NUMBERS = ("FD", "since the start", "debiased", "fresh FD", "FDr")


def view_for(quiet: bool, is_main: bool) -> View:
    """A live table on a terminal, lines elsewhere; nothing on ranks beside the main one, or when quiet, which silences
    warnings as well."""
    if quiet:
        warnings.simplefilter("ignore", FdrWarning)
    if quiet or not is_main:
        return SilentView()
    return LiveView() if sys.stderr.isatty() else PlainView()


class _Pace:
    """The speed of the steps, and the time that the remaining ones take."""

    def __init__(self, steps: int, done: int) -> None:
        self.steps, self.step = steps, done
        self._first, self._began = done, time.monotonic()

    def words(self, record: StepRecord | None) -> str:
        """ "step 500/62500, 81.2 images/s, 3 h 2 min left"; steps of an earlier call do not count for the estimate."""
        speed = "" if record is None else f", {record.images_per_second:.1f} images/s"
        counted = f"step {self.step}/{self.steps}{speed}"
        if self.step in (self._first, self.steps):
            return counted
        seconds = (time.monotonic() - self._began) * (self.steps - self.step) / (self.step - self._first)
        return f"{counted}, {human_seconds(seconds)} left"


class PlainView(PlainProgress):
    """Prints the first record, one every 30 s, and the last; the step alone if nothing was logged since."""

    def __init__(self) -> None:
        self._pace = _Pace(0, 0)
        self._record: StepRecord | None = None
        self._printed: StepRecord | None = None
        self._alarm: AlarmRecord | None = None
        self._next = 0.0

    @contextmanager
    def running(self, steps: int, done: int) -> Iterator[None]:
        self._pace = _Pace(steps, done)
        self._next = time.monotonic() + PLAIN_INTERVAL
        yield
        if self._record is not self._printed:
            self._print()

    def reached(self, step: int) -> None:
        self._pace.step = step
        if time.monotonic() >= self._next:
            self._print()
            self._next = time.monotonic() + PLAIN_INTERVAL

    def show(self, record: StepRecord) -> None:
        is_first, self._record = self._record is None, record
        self._pace.step = max(self._pace.step, record.step)
        if is_first:
            self._print()

    def show_alarm(self, record: AlarmRecord) -> None:
        self._alarm = record

    def _print(self) -> None:
        record = self._record
        if record is None or record is self._printed:
            click.echo(self._pace.words(record), err=True)
            return
        self._printed = record
        fds = ", ".join(_fd_words(record, self._alarm, name) for name in record.fd)
        numbers = "; ".join(filter(None, (fds, _mean_words(record), _class_words(record), _machine(record))))
        click.echo(f"{self._pace.words(record)}: {numbers}", err=True)


class LiveView(RichProgress):
    """Draws a table again at every logged step; it stands still while the bar of an evaluation moves."""

    def __init__(self) -> None:
        self._pace = _Pace(0, 0)
        self._first: StepRecord | None = None
        self._record: StepRecord | None = None
        self._alarm: AlarmRecord | None = None
        self._table: LiveTable | None = None
        self._rows: list[tuple[str, ...]] = []
        self._machine = ""

    @contextmanager
    def running(self, steps: int, done: int) -> Iterator[None]:
        self._pace = _Pace(steps, done)
        with LiveTable(("encoder", *_NUMBERS, ""), right=_NUMBERS) as self._table:
            yield
        self._table = None

    @contextmanager
    def task(self, title: str, total: float | None, unit: str = "images") -> Iterator[Task]:
        with nullcontext() if self._table is None else self._table.still(), super().task(title, total, unit) as task:
            yield task

    def reached(self, step: int) -> None:
        self._pace.step = step
        self._draw()

    def show(self, record: StepRecord) -> None:
        self._first, self._record = self._first or record, record
        self._rows = [_row(record, self._first, self._alarm, name) for name in record.fd]
        self._machine = "; ".join(filter(None, (_mean_words(record), _class_words(record), _machine(record))))
        self._draw()

    def show_alarm(self, record: AlarmRecord) -> None:
        self._alarm = record

    def _draw(self) -> None:
        if self._table is not None:
            self._table.show(self._rows, [self._pace.words(self._record), self._machine])


def _row(record: StepRecord, first: StepRecord, alarm: AlarmRecord | None, name: str) -> tuple[str, ...]:
    start, now = first.fd.get(name, 0.0), record.fd[name]
    change = f"{now / start - 1:+.1%}" if start > 0 else ""
    ratio = f"{record.fdr[name]:.4g}" if name in record.fdr else ""
    debiased = f"{record.fd_debiased[name]:.4g}" if name in record.fd_debiased else ""
    is_watched = "watched" if name in record.watched else ""
    return _title(record, name), f"{now:.5g}", change, debiased, _fresh(alarm, name), ratio, is_watched


def _title(record: StepRecord, name: str) -> str:
    return f"{name} (quadratic loss)" if record.is_quadratic else name


def _fresh(alarm: AlarmRecord | None, name: str) -> str:
    """The FD of fresh images at the newest alarm, with its error."""
    if alarm is None or name not in alarm.fresh:
        return ""
    return f"{alarm.fresh[name].value:.4g} ± {alarm.fresh[name].error:.2g}"


def _fd_words(record: StepRecord, alarm: AlarmRecord | None, name: str) -> str:
    fresh = _fresh(alarm, name)
    rows = {"debiased": record.fd_debiased, "FDr": record.fdr}
    more = ", ".join(f"{word} {values[name]:.4g}" for word, values in rows.items() if name in values)
    return (
        f"{'watched ' if name in record.watched else ''}{_title(record, name)} {record.fd[name]:.5g}"
        + (f" ({more})" if more else "")
        + (f" (fresh {fresh})" if fresh else "")
    )


def _mean_words(record: StepRecord) -> str:
    """ "FDr^3 1.2, of trained 0.9, of held-out 1.8"; empty for a single encoder, and without validation FDs."""
    words = {"all": f"FDr^{len(record.fd)}", "trained": "of trained", "held_out": "of held-out"}
    return ", ".join(f"{word} {record.fdr_k[group]:.4g}" for group, word in words.items() if group in record.fdr_k)


def _class_words(record: StepRecord) -> str:
    """ "class distance of inception 0.31, of clip 2.6"; empty without --conditional."""
    words = ", ".join(f"of {name} {value:.4g}" for name, value in record.class_distance.items())
    return f"class distance {words}" if words else ""


def _machine(record: StepRecord) -> str:
    """Learning rate, memory, and where the time goes."""
    total = sum(record.seconds.values()) or 1.0
    shares = " ".join(f"{name} {seconds / total:.0%}" for name, seconds in record.seconds.items())
    memory = "" if record.memory is None else f", {human_bytes(record.memory)}"
    skipped = f", {record.skipped} skipped" if record.skipped else ""
    return f"lr {record.lr:.2g}{memory}, {shares}{skipped}"
