"""Explanations that `fdr explain --json` wrote: the most harmful images of a sample set, and those nearest to the
reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any

from fdr.errors import InputError
from fdr.reports import Report, reports_from_dict
from fdr.runtime import NUMBER, TABLE, TABLES, TEXT, TEXTS, Kind, field_problems, is_number

SCHEMA = "fdr-explain/1"
NUM_SHOWN = 12
"""Most harmful images, and images nearest to the reference, that a page shows for each encoder. Raising it makes larger
pages."""


def _is_grid(values: Any) -> bool:
    """True for rows of equal length, of numbers from 0 to 1."""
    rows = values if isinstance(values, list) and values and all(isinstance(row, list) for row in values) else [[]]
    is_even = len(rows[0]) > 0 and all(len(row) == len(rows[0]) for row in rows)
    return is_even and all(is_number(value) and 0 <= value <= 1 for row in rows for value in row)


_WHOLE = {"report": TABLE, "encoders": TABLES}
_ENCODER = {
    "encoder": TEXT, "output": TEXT, "fd": NUMBER, "n": NUMBER, "worst": TABLE, "images": TABLES,
    "classes": TABLES.or_nothing, "closest": TABLE.or_nothing, "notes": TEXTS.or_nothing,
}  # fmt: skip
_WORST = {"n": NUMBER, "share": NUMBER, "fd_without": NUMBER}
_CLOSEST = {"median_distance": NUMBER, "images": TABLES}
_IMAGE = {
    "id": TEXT, "influence": NUMBER, "class": TEXT.or_nothing, "nearest": TEXT.or_nothing,
    "distance": NUMBER.or_nothing, "heat_map": TABLE.or_nothing,
}  # fmt: skip
_HEAT_MAP = {
    "values": Kind(_is_grid, "a list of rows of numbers from 0 to 1"),
    "box": Kind(lambda box: isinstance(box, list) and len(box) == 4 and all(map(is_number, box)), "four numbers"),
}
_CLASS = {
    "name": TEXT, "count": NUMBER, "influence": NUMBER, "reference_count": NUMBER.or_nothing,
    "fd_debiased": NUMBER.or_nothing,
}  # fmt: skip


@dataclass(frozen=True)
class ExplainedImage:
    """One image of a sample set."""

    id: str
    influence: float
    """By how much FD would fall without it, to first order."""
    label: str | None
    nearest: str | None
    """The nearest reference image; None where it is not known."""
    distance: float | None
    """The distance to it, between features."""
    heat_map: Mapping[str, Any] | None = None
    """`values` [h, w] in [0, 1] and `box` (left, top, right, bottom in shares of the image) of its heat-map, if any."""


@dataclass(frozen=True)
class ExplainedEncoder:
    """An explanation under one encoder."""

    encoder: str
    fd: float
    count: int
    worst_count: int
    worst_share: float
    """The share of the worst 1 % of the images in all influence that raises FD."""
    fd_without: float
    """FD of the other images."""
    worst: tuple[ExplainedImage, ...]
    """The most harmful images, the worst first."""
    closest: tuple[ExplainedImage, ...]
    """The images that lie nearest to a reference image, the nearest first; empty unless they were asked for."""
    median_distance: float | None
    classes: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Explained:
    """An explanation of one sample set."""

    report: Report
    encoders: tuple[ExplainedEncoder, ...]


def explained_from(data: Mapping[str, Any], where: str) -> Explained:
    """The explanation in the JSON of the file `where`. Raises `InputError` if it is of another version or damaged."""
    if data.get("schema") != SCHEMA:
        raise InputError(
            f"{where} is an explanation of schema {data.get('schema')!r}, expected {SCHEMA!r}; another version of fdr "
            "wrote it, so run fdr explain again with this one."
        )
    _check(where, "the explanation", data, _WHOLE)
    (report,) = reports_from_dict(data["report"], where)
    return Explained(report, tuple(_encoder(one, where) for one in data["encoders"]))


def _encoder(one: Mapping[str, Any], where: str) -> ExplainedEncoder:
    _check(where, "an encoder", one, _ENCODER)
    _check(where, "the worst images", one["worst"], _WORST)
    closest = one.get("closest") or {"median_distance": 0, "images": ()}
    _check(where, "the closest images", closest, _CLOSEST if one.get("closest") else {})
    classes = tuple(one.get("classes") or ())
    for each in classes:
        _check(where, "a class", each, _CLASS)
    return ExplainedEncoder(
        one["encoder"],
        one["fd"],
        int(one["n"]),
        int(one["worst"]["n"]),
        one["worst"]["share"],
        one["worst"]["fd_without"],
        _with_nearest(_images(one["images"], where)),
        _images(closest["images"], where),
        closest["median_distance"] if one.get("closest") else None,
        classes,
        tuple(one.get("notes") or ()),
    )


def _images(lines: Sequence[Mapping[str, Any]], where: str) -> tuple[ExplainedImage, ...]:
    shown = list(islice(lines, NUM_SHOWN))
    for line in shown:
        _check(where, "an image", line, _IMAGE)
        if line.get("heat_map") is not None:
            _check(where, "a heat-map", line["heat_map"], _HEAT_MAP)
    names = ("class", "nearest", "distance", "heat_map")
    return tuple(ExplainedImage(line["id"], line["influence"], *map(line.get, names)) for line in shown)


def _with_nearest(images: tuple[ExplainedImage, ...]) -> tuple[ExplainedImage, ...]:
    """The first images, as far as their nearest reference image is known; all if that of the first is not."""
    return tuple(takewhile(lambda image: image.nearest is not None, images)) or images


def _check(where: str, what: str, data: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    for problem in field_problems(what, data, fields):
        raise InputError(f"Damaged explanation {where}: {problem}; write it again with fdr explain --json.")


def set_of(explained: Explained, sets: Mapping[str, Report]) -> str | None:
    """The name of the set that an explanation is of: of the same digest, or without digests of the same source."""
    own = explained.report.samples
    for name, report in sets.items():
        if own.get("digest") and report.samples.get("digest") == own["digest"]:
            return name
    for name, report in sets.items():
        if not (own.get("digest") and report.samples.get("digest")) and report.samples["source"] == own["source"]:
            return name
    return None


def with_explained(sets: Mapping[str, Report], explained: Sequence[Explained]) -> dict[str, Report]:
    """The sets, and the report of each explanation that is of none of them."""
    found = dict(sets)
    for one in explained:
        if set_of(one, found) is None:
            name = str(one.report.samples["source"])
            found[name if name not in found else f"{name} (explained)"] = one.report
    return found
