"""All that a terminal shows: progress on stderr, tables on stdout. The only place for rich."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fdr.errors import FdrWarning, as_utf8, printable
from fdr.runtime import Progress, SilentProgress

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID
    from rich.table import Table

    from fdr.comparison import Comparison, Effect
    from fdr.gate import Verdict
    from fdr.reports import Report

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


class LiveTable:
    """A table on stderr that is drawn over itself, from `__enter__` to `__exit__`."""

    def __init__(self, columns: Sequence[tuple[str, str]]) -> None:
        from rich.console import Console
        from rich.live import Live

        self._columns = columns
        self._live = Live(console=Console(stderr=True), refresh_per_second=4)

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    @contextmanager
    def still(self) -> Iterator[None]:
        """Leave the table as it is inside, where something else is drawn; after it, go on below."""
        self._live.stop()
        try:
            yield
        finally:
            self._live.start()

    def show(self, rows: Iterable[Sequence[str]], lines: Iterable[str]) -> None:
        """The rows, and the lines below them."""
        from rich.console import Group
        from rich.text import Text

        self._live.update(Group(_table(self._columns, rows), *(Text(line) for line in lines if line)))


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


def human_bytes(size: float) -> str:
    """1234567 -> "1.2 MB" (powers of 1000, as disks and hubs count)."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def human_seconds(seconds: float) -> str:
    """75 -> "1 min 15 s"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def print_table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """A table on stdout; `columns` are (header, "left" | "right")."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=max(120, console.width), soft_wrap=True)
    console.print(_table(columns, rows, title))


def _table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for header, justify in columns:
        table.add_column(header, justify="right" if justify == "right" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # a name in brackets is no markup
    return table


def print_reports(reports: Sequence[Report]) -> None:
    """One table over all sample sets, a row per encoder; then notes, and every signature once."""
    first = reports[0]
    if first.reference is not None:
        count = first.reference.get("count")
        facts = [
            *([f"{count} images"] if count else []),
            *(["no --ref was given"] if "is_default" in first.reference else []),
        ]
        click.echo(f"reference  {first.reference['name']}" + (f" ({', '.join(facts)})" if facts else ""))
    headers, rows = report_table(reports)
    left = ("samples", "encoder")
    print_table([(text, "left" if text in left else "right") for text in headers], rows)
    for note in dict.fromkeys(_notes(reports)):
        click.echo(f"note: {note}")
    for signature in dict.fromkeys(result.signature for report in reports for result in report):
        click.echo(signature)


def print_autoencoder_report(report: Report) -> None:
    """How neighbours were drawn, the distances of every encoder, the qualities of reconstructions, the signatures."""
    from fdr.reports import format_number, metric_label

    about = report.run["ifid"]
    others = about["neighbours"]
    model = report.run["autoencoder"]
    click.echo(
        f"autoencoder  {model['name']} ({model['posterior']}), latents {'x'.join(map(str, about['latent_shape']))}"
    )
    click.echo(f"images       {report.samples['source']} ({report.samples['count']})")
    entropy, most = (format_number(value) for value in (about["neighbour_entropy"], math.log(about["top_k"])))
    click.echo(
        f"neighbours   {others['source']} ({others['count']}), one of {about['top_k']} by closeness, entropy {entropy} "
        f"of {most}; {about['mode']}, alpha {about['alphas'][-1]:g}"
    )
    distances = [result for result in report if result.encoder is not None]
    rest = [result for result in report if result.encoder is None]
    headers, rows = report_table([replace(report, results=tuple(distances))])
    print_table([(name, "left" if name == "encoder" else "right") for name in headers[1:]], [row[1:] for row in rows])
    arrows = {True: "↓", False: "↑"}
    qualities = (f"{metric_label(r)} {arrows[r.lower_is_better]} {format_number(r.value)}" for r in rest)
    click.echo("reconstructions: " + "   ".join(qualities))
    for note in dict.fromkeys(_notes([report])):
        click.echo(f"note: {note}")
    for signature in dict.fromkeys(result.signature for result in report):
        click.echo(signature)


def report_table(reports: Sequence[Report]) -> tuple[list[str], list[list[str]]]:
    """Headers and cells: a row per sample set and encoder, a column per metric; FDr^k has a row of its own."""
    from fdr.reports import format_value, is_inception, metric_label

    results = [result for report in reports for result in report]
    columns: dict[str, str] = {}
    for result in results:
        metric = "fdr" if result.metric == "fdr_k" else result.metric
        labels = {metric_label(r) for r in results if r.metric == metric} or {"FDr"}
        label = labels.pop() if len(labels) == 1 else min(labels).replace("FID", "FD")
        columns[metric] = f"{label} {'↓' if result.lower_is_better else '↑'}"
    is_mixed = len({is_inception(result.encoder) for result in results if result.encoder}) > 1
    rows: dict[tuple[int, str], dict[str, str]] = {}
    for index, report in enumerate(reports):
        for result in report:
            if result.metric == "fdr_k":
                row, metric = f"{metric_label(result)} (mean of {result.k})", "fdr"
            else:
                row, metric = (
                    (result.encoder or "") + (" (FID)" if is_mixed and is_inception(result.encoder) else ""),
                    result.metric,
                )
            cells = rows.setdefault((index, row), {"n": str(result.count)})
            cells[metric] = format_value(result)
    table = [
        [str(reports[index].samples["source"]), row, cells["n"], *(cells.get(metric, "") for metric in columns)]
        for (index, row), cells in rows.items()
    ]
    return ["samples", "encoder", "n", *columns.values()], table


def print_verdict(verdict: Verdict) -> None:
    """A row per check, four sentences for each that does not pass, what was not checked, and the result."""
    from fdr.gate import missing_sentence, sentences_of, table_of

    texts, numbers = ("samples", "number"), ("value", "limit", "beyond the limit")
    columns = [(name, "left") for name in texts] + [(name, "right") for name in numbers] + [("outcome", "left")]
    print_table(columns, table_of(verdict))
    for missing in verdict.missing:
        click.echo(f"skipped: {missing_sentence(missing, verdict.options.allow_missing)}")
    for check in verdict.checks:
        if check.outcome != "pass":
            click.echo("\n".join([f"{check.outcome}:", *(f"  {text}" for text in sentences_of(check))]))
    if verdict.unchecked:
        click.echo("neither limit nor baseline: " + ", ".join(dict.fromkeys(row.key for _, row in verdict.unchecked)))
    for warning in verdict.warnings:
        click.echo(f"warning: {warning}")
    counted = "" if verdict.result != "inconclusive" else f" (counts as {'pass' if verdict.passes else 'fail'})"
    click.echo(f"result: {verdict.result}{counted}")


def print_comparison(name_a: str, name_b: str, comparison: Comparison, effects: tuple[Effect, ...]) -> None:
    """A row per pair of numbers, then what differs and how much that usually moves FD."""
    from fdr.comparison import explanations
    from fdr.reports import format_number, format_value

    click.echo(f"a  {name_a}\nb  {name_b}")
    rows = []
    for pair in comparison.pairs:
        relative = pair.relative_change
        change = format_number(pair.change) + ("" if relative is None else f" ({100 * relative:+.2f} %)")
        key = pair.a.key if pair.a.key == pair.b.key else f"{pair.a.key}, {pair.b.key}"
        rows.append((key, format_value(pair.a), format_value(pair.b), change, "yes" if pair.is_comparable else "no"))
    if rows:
        columns = [("number", "left"), ("a", "right"), ("b", "right"), ("b − a", "right"), ("comparable", "left")]
        print_table(columns, rows)
    for line in explanations(comparison, effects):
        click.echo(line)


def _notes(reports: Sequence[Report]) -> Iterable[str]:
    for report in reports:
        several = f"{report.samples['source']}: " if len(reports) > 1 else ""
        for result in report:
            yield from (f"{several}{result.encoder}: {note}" for note in result.notes)
        skipped = report.samples["skipped"]
        if skipped:
            named = ", ".join(item["id"] for item in skipped[:5]) + (", ..." if len(skipped) > 5 else "")
            yield f"{several}{len(skipped)} image(s) skipped: {named}"
        if report.run.get("ifid", {}).get("same_class"):
            yield f"{several}classes from {report.samples.get('labels_from')}"
        left_out = report.samples.get("left_out")
        if left_out:
            from fdr.images import left_out_text

            yield f"{several}left out: {left_out_text(left_out)}"


def write_text(path: Path, text: str) -> None:
    """To a file (atomically), or to stdout for "-"."""
    if str(path) == "-":
        click.echo(as_utf8(text), nl=False)
        return
    from fdr.runtime import write_atomically

    write_atomically(path, text)


def dump(data: Any) -> str:
    """JSON with a newline at the end."""
    from fdr.reports import json_text

    return json_text(data)
