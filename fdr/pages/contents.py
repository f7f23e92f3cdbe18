"""What a page shows, as texts that are ready for its template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fdr.comparison import pair_cells
from fdr.pages.table import Entry, NumberRow, NumberTable, bounds
from fdr.pages.words import difference_words
from fdr.reports import Report, Result, format_number, format_stderr
from fdr.runtime import is_number

MAX_CARDS = 4
"""Numbers above the table. Raising it moves the table down."""
_MARKS = {"better": "✓ ", "worse": "✗ ", "not told apart": "≈ ", "no verdict": "? "}


@dataclass(frozen=True)
class Cell:
    """One number in the table."""

    value: str
    spread: str
    interval: str
    sort: str
    """The number that the column is sorted by, in full precision."""
    difference: str
    verdict: str
    """"better", "worse", "not told apart", "no verdict" or ""."""
    is_best: bool
    is_apart: bool
    facts: tuple[tuple[str, str], ...]
    """What unfolds: name and text."""

    @property
    def mark(self) -> str:
        return _MARKS.get(self.verdict, "")


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    label: str
    arrow: str
    better: str
    encoder: str
    group: str
    cells: tuple[Cell | None, ...]


def lines_of(table: NumberTable) -> list[Line]:
    """The rows of the table."""
    return [
        Line(row.label, row.arrow, "lower is better" if row.lower_is_better else "higher is better", row.encoder,
             row.group, tuple(_cell(row, entry, table.confidence) for entry in row.entries))
        for row in table.rows
    ]  # fmt: skip


def cards_of(table: NumberTable, lines: Sequence[Line]) -> list[Line]:
    """The numbers that stand above the table: means over encoders first, then one of each metric without a mean."""
    means = [line for line, row in zip(lines, table.rows, strict=True) if row.key.partition(":")[0].endswith("_k")]
    bases = {row.key.partition(":")[0] for row in table.rows}
    others: dict[str, Line] = {}
    for line, row in zip(lines, table.rows, strict=True):
        metric, _, _ = row.key.partition(":")
        if line not in means and f"{metric}_k" not in bases:
            others.setdefault(metric, line)
    return [*means, *others.values()][:MAX_CARDS]


def _cell(row: NumberRow, entry: Entry | None, confidence: float) -> Cell | None:
    if entry is None:
        return None
    if entry.failure is not None:
        facts = (("why", entry.failure.sentence), ("signature", entry.failure.signature))
        return Cell("failed", "", "", "", "", "", False, False, facts)
    result = entry.result
    assert result is not None
    limits = bounds(result, confidence)
    return Cell(
        format_number(result.value),
        "" if result.stderr is None else f"± {format_stderr(result.stderr)}",
        "" if limits is None else f"{format_number(limits[0], 3)} to {format_number(limits[1], 3)}",
        repr(result.value),
        "" if entry.contrast is None else difference_words(entry.contrast),
        entry.verdict,
        entry.standing == "best",
        entry.standing == "apart",
        tuple(_facts(result, entry, confidence)),
    )


def _facts(result: Result, entry: Entry, confidence: float) -> Iterator[tuple[str, str]]:
    yield "signature", result.signature
    yield "value", repr(result.value)
    if result.stderr is not None:
        yield "standard error", repr(result.stderr)
    limits = bounds(result, confidence)
    if limits is not None:
        yield f"{100 * confidence:g} % interval", f"{format_number(limits[0])} to {format_number(limits[1])}"
    if result.interval is not None:
        yield "range", f"{format_number(result.interval[0])} to {format_number(result.interval[1])}"
    yield "images", f"{result.count:,}" + (f", reference {result.reference_count:,}" if result.reference_count else "")
    if entry.contrast is not None and entry.contrast.p_value is not None:
        yield "p-value of the difference", f"{entry.contrast.p_value:.2g} ({entry.contrast.kind})"
    for name, value in result.details.items():
        if isinstance(value, str | bool) or is_number(value):
            yield name.replace("_", " "), format_number(value, 6) if isinstance(value, float) else str(value)
    yield from (("note", note) for note in result.notes)


def differences_of(table: NumberTable) -> list[tuple[str, ...]]:
    """A row for every pair of sets and number: number, pair, difference, stderr, p, p (Holm), kind, verdict."""
    labels = {row.key: f"{row.label} {row.arrow} {row.encoder}".strip() for row in table.rows}
    order = {row.key: place for place, row in enumerate(table.rows)}
    rankings = sorted(table.rankings, key=lambda ranking: order[ranking.key])
    return [
        (labels[ranking.key], *pair_cells(found, ranking, found.a, found.b))
        for ranking in rankings
        for found in ranking.contrasts
    ]


@dataclass(frozen=True)
class Origin:
    """How the numbers of one set were measured."""

    name: str
    facts: tuple[tuple[str, str], ...]
    encoders: tuple[tuple[str, str], ...]
    """Each encoder with its whole specification."""


def origins(sets: Mapping[str, Report]) -> list[Origin]:
    """How each set was measured."""
    return [Origin(name, tuple(_origin(report)), tuple(_encoders(report))) for name, report in sets.items()]


def _origin(report: Report) -> Iterator[tuple[str, str]]:
    samples = report.samples
    yield "samples", f"{samples['source']}, {samples['count']:,} images"
    if samples.get("digest"):
        yield "digest of the samples", str(samples["digest"])
    if samples.get("policy"):
        yield "policy", _words(samples["policy"])
    for what, side in (("reference", report.reference), ("training set", report.training_set)):
        if side is not None:
            counted = f", {side['count']:,} images" if side.get("count") else ""
            yield what, f"{side['name']}{counted}"
            yield f"digest of the {what}", _words(side.get("digest") or "unknown")
    for name in ("device", "ranks", "seed", "trained_on"):
        if report.run.get(name) is not None:
            yield name.replace("_", " "), _words(report.run[name])
    yield "versions", _words({"fdr": report.fdr_version, **(report.run.get("versions") or {})})


def _encoders(report: Report) -> Iterator[tuple[str, str]]:
    for name, spec in (report.run.get("encoders") or {}).items():
        yield str(name), _words(spec)


def _words(value: Any) -> str:
    """A value of a report in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value)) or "none"
    return "none" if value is None else str(value)
