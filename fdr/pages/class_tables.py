"""The tables of classes that the details of some numbers hold, such as FD per class and the accuracy by class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

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


def class_tables(table: NumberTable) -> list[ClassTable]:
    """A table for every number whose details have an entry for each class."""
    return [
        _table(name if len(table.names) > 1 else "", row, classes)
        for name, report in table.sets.items()
        for row in report
        if (classes := _classes(row))
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
    def worst_first(key: str) -> float:
        value = _value(classes[key])
        return float("inf") if value is None else -value[1] if row.lower_is_better else value[1]

    order = sorted(classes, key=worst_first)
    half = MAX_CLASSES // 2
    shown = order if len(order) <= MAX_CLASSES else [*order[:half], *order[-half:]]
    keys = tuple(dict.fromkeys(key for part in classes.values() for key in part if key != "stderr"))
    keys = tuple(key for key in keys if any(not isinstance(part.get(key), list | Mapping) for part in classes.values()))
    left = "" if len(shown) == len(order) else f"The {half} worst and the {half} best of {len(order):,} classes. "
    few = any(_is_few(classes[key]) for key in shown)
    small = f"* fewer than {FEW_IMAGES} images: the value is noisy." if few else ""
    info, encoder = metric_info(row.metric), f" of {row.encoder}" if row.encoder else ""
    title = f"{metric_label(row) if info is not None else row.metric}{encoder}{f', {name}' if name else ''}"
    rows = tuple((ClassCell(key, key), *_cells(classes[key], keys)) for key in shown)
    return ClassTable(title, ("class", *(key.replace("_", " ") for key in keys)), rows, f"{left}{small}".strip())


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
