"""The verdict of a page in sentences: how good one set is, or how each set compares with the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from fdr.comparison import Contrast, compare_reports, explanations, load_effects, ranking_notes
from fdr.metrics import mean_of, ratio_of
from fdr.pages.table import Entry, NumberRow, NumberTable
from fdr.reports import Report, Result, format_number, format_stderr, format_value

MAX_PLACES = 4
"""Numbers that a note lists by name. Raising it makes longer notes."""
_MARKS = {"better": "✓", "worse": "✗", "mixed": "±", "same": "≈", "known": "●"}


@dataclass(frozen=True)
class Sentence:
    """One sentence of the verdict."""

    kind: str
    """"better", "worse", "mixed", "same" or "known"."""
    text: str

    @property
    def mark(self) -> str:
        """A sign beside the colour, so that colour is not the only cue."""
        return _MARKS[self.kind]


def verdict(table: NumberTable) -> list[Sentence]:
    """One sentence for every set but the first; for a single set, what its first number says. Then failures."""
    sentences = list(_against_first(table)) if len(table.names) > 1 else list(_alone(table))
    failed = [f"{entry.failure.key} of {name}" for name, _, row in table.columns() for entry in row if entry.failure]
    if failed:
        sentences.append(Sentence("worse", f"{len(failed)} could not be computed: {_list(failed)}."))
    return sentences


def _against_first(table: NumberTable) -> Iterator[Sentence]:
    first, *others = table.names
    for index, name in enumerate(others, start=1):
        entries = [row.entries[index] for row in table.rows]
        counts = Counter(entry.verdict for entry in entries if entry is not None and entry.verdict)
        apart = sum(entry is not None and entry.standing == "apart" for entry in entries)
        yield Sentence(_kind(counts), f"{name} against {first}: {_tally(counts, apart)}.")


def _kind(counts: Counter[str]) -> str:
    if counts["better"] and counts["worse"]:
        return "mixed"
    return "better" if counts["better"] else "worse" if counts["worse"] else "same"


def _tally(counts: Counter[str], apart: int) -> str:
    total = sum(counts.values())
    if not total:
        return "no number can be compared" + (f", as {apart} were measured in another way" if apart else "")
    parts = [f"better in {counts['better']} of {total} numbers", f"worse in {counts['worse'] or 'none'}"]
    parts += [f"not told apart in {counts['not told apart']}"] if counts["not told apart"] else []
    parts += [f"no verdict on {counts['no verdict']} without a standard error"] if counts["no verdict"] else []
    parts += [f"{apart} more cannot be compared"] if apart else []
    return ", ".join(parts)


def _alone(table: NumberTable) -> Iterator[Sentence]:
    rows = [(row, row.entries[0].result) for row in table.rows if row.entries[0] and row.entries[0].result]
    if not rows:
        return
    row, result = rows[0]
    name = table.names[0]
    of = f" of {row.encoder}" if row.encoder else ""
    text = f"{row.label}{of} is {format_value(result)} for {name}"
    base = mean_of(result.metric) or result.metric
    yield Sentence("known", text + (f": {_ratio_words(result)}." if ratio_of(base) else "."))
    held, trained = (
        _value_of(table, f"{result.metric.partition(':')[0]}:{group}") for group in ("held_out", "trained")
    )
    if held is not None and trained is not None:
        ratio = format_number(held.value / trained.value, 3) if trained.value > 0 else ""
        yield Sentence(
            "worse" if held.value > trained.value else "known",
            f"On held-out encoders it is {format_number(held.value, 4)}, on those that the generator was trained on "
            f"{format_number(trained.value, 4)}" + (f", a ratio of {ratio}." if ratio else "."),
        )


def _ratio_words(result: Result) -> str:
    if result.value <= 0:
        return "the samples cannot be told from the reference"
    times = format_number(result.value, 3)
    return f"the samples lie {times} times as far from the reference as held-out real images do"


def _value_of(table: NumberTable, key: str) -> Result | None:
    row = next((row for row in table.rows if row.key == key), None)
    entry = None if row is None else row.entries[0]
    return None if entry is None else entry.result


def difference_words(contrast: Contrast) -> str:
    """The difference from the first set with its standard error, signed."""
    text = format_number(contrast.difference, 3)
    text = text.replace("-", "−") if contrast.difference < 0 else f"+{text}"
    return text if contrast.stderr is None else f"{text} ± {format_stderr(contrast.stderr)}"


def value_words(row: NumberRow, entry: Entry | None) -> str:
    """The value in a cell of a table in text; "failed" for a failure, "" where there is nothing."""
    if entry is None:
        return ""
    return "failed" if entry.result is None else format_value(entry.result)


def notes(table: NumberTable) -> list[str]:
    """What a reader must know of the numbers: notes, warnings, failures, skipped images, and what is not comparable.

    A note that several numbers share is listed once, with their names."""
    found: dict[str, dict[str, None]] = {}
    for name, report in table.sets.items():
        for text, place in _remarks(name, report):
            found.setdefault(text, {})[place] = None
    lines = [f"{text} ({_list(list(places))})" for text, places in found.items()]
    return [*lines, *_comparability(table), *ranking_notes(table.rankings)]


def _list(places: list[str]) -> str:
    if len(places) <= MAX_PLACES:
        return ", ".join(places)
    return f"{', '.join(places[: MAX_PLACES - 1])} and {len(places) - MAX_PLACES + 1} others"


def _remarks(name: str, report: Report) -> Iterator[tuple[str, str]]:
    """(remark, what it is about) of one set; what is said of the whole set has the name of the set."""
    yield from ((note, f"{row.encoder or row.key} of {name}") for row in report for note in row.notes)
    yield from ((text, name) for text in report.warnings)
    yield from ((f"failed: {failure.sentence}", f"{failure.key} of {name}") for failure in report.failed)
    if report.samples["skipped"]:
        yield f"{len(report.samples['skipped'])} images were skipped because they could not be read", name


def _comparability(table: NumberTable) -> Iterator[str]:
    """The lines of `fdr compare` about each set that is not comparable with the first in everything."""
    first, *others = table.sets.items()
    effects = load_effects()
    for name, report in others:
        comparison = compare_reports(first[1], report)
        if not comparison.is_comparable:
            lines = [line for line in explanations(comparison, effects) if not line.startswith(("note", "only"))]
            yield from (f"a = {first[0]}, b = {name}: {line.strip()}" for line in lines)
