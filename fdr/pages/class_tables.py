"""The tables of classes that the details of some numbers hold, such as FD per class and the accuracy by class.

A number that one set has is a table of its own; a number that several sets have is one table with a column for each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fdr.comparison import combined_stderr
from fdr.metrics import metric_info
from fdr.pages.table import NumberTable
from fdr.reports import Result, format_number, format_stderr, metric_label
from fdr.runtime import is_number

MAX_CLASSES = 40
"""Classes that a page shows: the worst half and the best half of so many. The data of the page hold all."""
FEW_IMAGES = 100
"""A class with fewer images is marked. Raising it marks more classes."""


@dataclass(frozen=True)
class ClassCell:
    """One cell: its text, the number that it is sorted by, and whether its class has few images."""

    text: str
    sort: float | str
    is_small: bool = False


@dataclass(frozen=True)
class ClassTable:
    """One number by class."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[ClassCell, ...], ...]
    caption: str

    @property
    def cells(self) -> list[list[tuple[str, float | str]]]:
        """The text and the key of every cell, with a mark at values of small classes."""
        return [[(f"{cell.text}*" if cell.is_small else cell.text, cell.sort) for cell in row] for row in self.rows]


@dataclass(frozen=True)
class ClassColumn:
    """One number by class of one sample set."""

    name: str
    row: Result
    classes: Mapping[str, Mapping[str, Any]]
    is_apart: bool
    """True if it cannot be compared with the first set, so that it has no differences."""


def class_tables(table: NumberTable) -> list[ClassTable]:
    """A table for every number whose details have an entry for each class; sets that share it stand side by side."""
    found: dict[str, list[ClassColumn]] = {}
    apart = {
        (row.key, name)
        for row in table.rows
        for name, entry in zip(table.names, row.entries, strict=True)
        if entry is not None and entry.standing == "apart"
    }
    for name, report in table.sets.items():
        for row in report:
            if classes := _classes(row):
                column = ClassColumn(name, row, classes, (row.key, name) in apart)
                found.setdefault(row.key, []).append(column)
    return [
        _side_by_side(columns)
        if len(columns) > 1
        else _table(columns[0].name if len(table.names) > 1 else "", columns[0].row, columns[0].classes)
        for columns in found.values()
    ]


def _classes(row: Result) -> dict[str, Mapping[str, Any]]:
    found = row.details.get("classes")
    if not isinstance(found, Mapping):
        return {}
    parts = {str(key): part if isinstance(part, Mapping) else {"value": part} for key, part in found.items()}
    return parts if any(map(_value, parts.values())) else {}


def _value(part: Mapping[str, Any]) -> tuple[str, float] | None:
    """The number that a class is judged by: its first one that is no count and no standard error."""
    return next(((key, value) for key, value in part.items() if not _is_side(key) and is_number(value)), None)


def _is_side(key: str) -> bool:
    return key in ("n", "stderr", "count") or key.endswith(("_n", "_count"))


def _table(name: str, row: Result, classes: Mapping[str, Mapping[str, Any]]) -> ClassTable:
    return class_table(f"{_title(row)}{f', {name}' if name else ''}", classes, row.lower_is_better)


def class_table(title: str, classes: Mapping[str, Mapping[str, Any]], lower_is_better: bool = True) -> ClassTable:
    """The table of one number by class, with what else is known of each; the first number decides the order."""

    def worst_first(key: str) -> float:
        value = _value(classes[key])
        return float("inf") if value is None else -value[1] if lower_is_better else value[1]

    order = sorted(classes, key=worst_first)
    shown, left = _ends(order)
    keys = tuple(dict.fromkeys(key for part in classes.values() for key in part if key != "stderr"))
    keys = tuple(key for key in keys if any(not isinstance(part.get(key), list | Mapping) for part in classes.values()))
    rows = tuple((ClassCell(key, key), *_cells(classes[key], keys)) for key in shown)
    heads = ("class", *(key.replace("_", " ") for key in keys))
    return ClassTable(title, heads, rows, " ".join(filter(None, (left, _small(rows)))))


def _title(row: Result) -> str:
    label = metric_label(row) if metric_info(row.metric) is not None else row.metric
    return f"{label} of {row.encoder}" if row.encoder else label


def _ends(order: Sequence[str], what: str = "") -> tuple[Sequence[str], str]:
    """The classes that a page shows of those in order, and a sentence if some are left out."""
    half = MAX_CLASSES // 2
    if len(order) <= MAX_CLASSES:
        return order, ""
    return [*order[:half], *order[-half:]], f"The {half} worst and the {half} best{what} of {len(order):,} classes."


def _small(rows: Sequence[Sequence[ClassCell]]) -> str:
    is_any = any(cell.is_small for row in rows for cell in row)
    return f"* fewer than {FEW_IMAGES} images: the value is noisy." if is_any else ""


def _cells(part: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[ClassCell]:
    judged = _value(part)
    for key in keys:
        value = part.get(key)
        if not is_number(value):
            yield ClassCell("" if value is None else str(value), "" if value is None else str(value))
            continue
        assert value is not None
        is_judged = judged is not None and key == judged[0]
        text = f"{value:,}" if isinstance(value, int) else format_number(value, 4)
        if is_judged and is_number(part.get("stderr")):
            text += f" ± {format_stderr(part['stderr'])}"
        yield ClassCell(text, value, is_judged and _is_few(part))


def _is_few(part: Mapping[str, Any]) -> bool:
    counts = [value for key, value in part.items() if _is_side(key) and key != "stderr" and is_number(value)]
    return bool(counts) and min(counts) < FEW_IMAGES


# ---------------------------------------------------------------------------------------------------- side by side


def _side_by_side(columns: Sequence[ClassColumn]) -> ClassTable:
    """One table of several sets, with the differences from the first one, the class that became worst first."""
    base, *others = columns
    judged = next(found[0] for part in base.classes.values() if (found := _value(part)))
    shown, left = _ends(_by_worst_change(base, others, judged), " changes")
    rows = tuple((ClassCell(key, key), *_cells_of_sets(base, others, key, judged)) for key in shown)
    heads = ("class", base.name, *(head for column in others for head in _heads(base, column)))
    apart = ", ".join(column.name for column in others if column.is_apart)
    has_errors = any("±" in cell.text for row in rows for cell in row)
    remarks = (
        left,
        "Standard errors of differences take the noise of two sets as independent." if has_errors else "",
        f"Not comparable with {base.name}, so without differences: {apart}." if apart else "",
        _small(rows),
    )
    return ClassTable(_title(base.row), heads, rows, " ".join(filter(None, remarks)))


def _by_worst_change(base: ClassColumn, others: Sequence[ClassColumn], judged: str) -> list[str]:
    """The classes by their largest change for the worse; those without a change come last, or are left out of many."""
    sign = 1 if base.row.lower_is_better else -1
    found = {}
    for key in dict.fromkeys(key for column in (base, *others) for key in column.classes):
        changes = [sign * change[0] for other in others if (change := _change(base, other, key, judged))]
        value = _number(base, key, judged)
        found[key] = (max(changes, default=-math.inf), -math.inf if value is None else sign * value)
    order = sorted(found, key=lambda key: found[key], reverse=True)
    changed = [key for key in order if found[key][0] > -math.inf]
    return changed if changed and len(order) > MAX_CLASSES else order


def _heads(base: ClassColumn, other: ClassColumn) -> Iterator[str]:
    yield other.name
    if not other.is_apart:
        yield f"{other.name} − {base.name}"


def _cells_of_sets(base: ClassColumn, others: Sequence[ClassColumn], key: str, judged: str) -> Iterator[ClassCell]:
    yield from _cells(base.classes.get(key, {}), (judged,))
    for other in others:
        yield from _cells(other.classes.get(key, {}), (judged,))
        if not other.is_apart:
            yield _difference(base, other, key, judged)


def _change(base: ClassColumn, other: ClassColumn, key: str, judged: str) -> tuple[float, float | None] | None:
    """The difference of a class from the first set, and its standard error; None where there is none."""
    first, second = (_number(column, key, judged) for column in (base, other))
    if other.is_apart or first is None or second is None:
        return None
    return second - first, combined_stderr(*(_number(column, key, "stderr") for column in (base, other)))


def _number(column: ClassColumn, key: str, name: str) -> float | None:
    """A number of a class of one set; None where there is none."""
    value = column.classes.get(key, {}).get(name)
    return value if is_number(value) else None


def _difference(base: ClassColumn, other: ClassColumn, key: str, judged: str) -> ClassCell:
    change = _change(base, other, key, judged)
    if change is None:
        return ClassCell("", "")
    value, stderr = change
    text = f"{'−' if value < 0 else '+'}{format_number(abs(value), 3)}"
    text += "" if stderr is None else f" ± {format_stderr(stderr)}"
    return ClassCell(text, value, any(_is_few(column.classes[key]) for column in (base, other)))
