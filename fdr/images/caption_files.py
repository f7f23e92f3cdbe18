"""Reads files of captions: JSON lines, CSV, TSV, plain text, JSON lists, and the files of COCO and MJHQ-30K."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdr.errors import InputError, first_line
from fdr.images.labels import MAX_JSON_BYTES
from fdr.runtime import decode_json, human_bytes, missing_path, quoted

PROMPT_KEYS = ("prompt", "caption", "text")
NAME_KEYS = ("file_name", "filename", "id", "image_id")
"""The first of these that a record has names its image."""
CATEGORY_KEY = "category"


@dataclass(frozen=True)
class Records:
    """The records of a file of captions."""

    prompts: list[str]
    names: list[str] | None
    """None if no record names its image."""
    categories: list[str] | None
    images: list[str] | None = None
    """The file name of the real image of each prompt, where the file says it."""


def read_records(path: Path) -> Records:
    """The records of a file, in the format that its ending says. Raises `InputError` for anything else."""
    readers: dict[str, Callable[[Path], Records]] = {
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
        ".json": _json,
        ".csv": lambda path: _table(path, ","),
        ".tsv": lambda path: _table(path, "\t"),
        ".txt": _text,
    }
    if path.suffix.lower() not in readers:
        raise InputError(
            f"Captions are read from {', '.join(readers)}; got {str(path)!r}. docs/text-to-image.md shows each format."
        )
    return readers[path.suffix.lower()](path)


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"{path} is a folder; name a file of captions." if path.is_dir() else missing_path(path))
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            size = human_bytes(path.stat().st_size)
            raise InputError(f"{path} has {size}; captions are read from files of up to {human_bytes(MAX_JSON_BYTES)}.")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def _decoded(path: Path) -> str:
    try:
        return _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8.") from None


def _text(path: Path) -> Records:
    """One prompt a line. An empty line within the file is an empty prompt."""
    lines = _decoded(path).splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    return Records([line.strip() for line in lines], None, None)


def _json_lines(path: Path) -> Records:
    lines = enumerate(_decoded(path).split("\n"), 1)
    return _records((f"line {number} of {path}", _parsed(line, path, number)) for number, line in lines if line.strip())


def _parsed(line: str, path: Path, number: int) -> Any:
    try:
        return decode_json(line.encode())
    except ValueError as error:
        raise InputError(f"Line {number} of {path} is not JSON ({first_line(error)}).") from None


def _table(path: Path, delimiter: str) -> Records:
    """A table whose first line names the columns."""
    try:
        rows = list(csv.reader(io.StringIO(_decoded(path), newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise InputError(f"{path} is not a table of captions ({first_line(error)}).") from None
    if not rows:
        raise InputError(f"{path} is empty; its first line names the columns, such as prompt.")
    header = [name.strip() for name in rows[0]]
    if len(set(header)) < len(header):
        raise InputError(f"{path} has two columns of one name ({', '.join(header)}).")
    if not set(PROMPT_KEYS) & set(header):
        raise InputError(
            f"{path} has no column {_either(PROMPT_KEYS)}, but {', '.join(map(quoted, header))}; its first line must "
            "name the columns."
        )
    for number, row in enumerate(rows[1:], 2):
        if row and len(row) != len(header):
            raise InputError(f"Record {number} of {path} has {len(row)} fields, and its header {len(header)}.")
    filled = ((number, row) for number, row in enumerate(rows[1:], 2) if row)
    return _records((f"record {number} of {path}", dict(zip(header, row, strict=True))) for number, row in filled)


def _json(path: Path) -> Records:
    """A list of records, COCO's annotations, or records by the name of their image, as MJHQ-30K has them."""
    try:
        data = decode_json(_bytes(path))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({first_line(error)}).") from None
    if isinstance(data, list):
        return _records((f"record {number} of {path}", record) for number, record in enumerate(data))
    if isinstance(data, Mapping) and isinstance(data.get("annotations"), list):
        return _coco(data, path)
    if isinstance(data, Mapping) and data and all(isinstance(record, Mapping) for record in data.values()):
        return _records((f"{name!r} of {path}", {**record, "file_name": name}) for name, record in data.items())
    raise InputError(
        f"{path} holds no captions: expected a list of records, COCO's annotations, or records by the name of their "
        "image."
    )


def _coco(data: Mapping[str, Any], path: Path) -> Records:
    """Captions of COCO, in the order of their ids, with the file name of the image of each."""
    images = data.get("images")
    files: dict[Any, str] = {}
    for number, image in enumerate(images if isinstance(images, list) else []):
        where = f"image {number} of {path}"
        files[_field(image, "id", int, where)] = _field(image, "file_name", str, where)
    found: list[tuple[int, str, str | None]] = []
    for number, annotation in enumerate(data["annotations"]):
        where = f"annotation {number} of {path}"
        caption, image = _field(annotation, "caption", str, where), _field(annotation, "image_id", int, where)
        if files and image not in files:
            raise InputError(f"{where.capitalize()} names the image {image}, which the file does not list.")
        found.append((_field(annotation, "id", int, where), caption.strip(), files.get(image)))
    found.sort(key=lambda record: record[0])
    names = [str(number) for number, *_ in found]
    own = [file for *_, file in found if file is not None]
    return Records([caption for _, caption, _ in found], names, None, own if files else None)


def _field(record: Any, key: str, kind: type, where: str) -> Any:
    value = record.get(key) if isinstance(record, Mapping) else None
    if type(value) is not kind:
        words = {int: "a whole number", str: "a text"}[kind]
        raise InputError(f"{where[0].upper()}{where[1:]} has {quoted(value)} as its {key}, where {words} is expected.")
    return value


def _records(records: Iterator[tuple[str, Any]]) -> Records:
    """The fields of records, each with the words that say where it is. All of them have the same fields."""
    prompts, names, categories = [], [], []
    for where, record in records:
        if not isinstance(record, Mapping):
            raise _wrong(where, f"is {quoted(record)}, where an object with a prompt is expected")
        keys = [key for key in PROMPT_KEYS if key in record]
        if len(keys) != 1:
            found = f"both {keys[0]} and {keys[1]}" if keys else f"none of {_either(PROMPT_KEYS)}"
            raise _wrong(where, f"has {found}, where exactly one of them is expected")
        prompts.append(_as_text(record[keys[0]], keys[0], where).strip())
        name = next((key for key in NAME_KEYS if key in record), None)
        names.append(None if name is None else _as_text(record[name], name, where))
        has_category = CATEGORY_KEY in record
        categories.append(_as_text(record[CATEGORY_KEY], CATEGORY_KEY, where) if has_category else None)
        for what, values in (("name of its image", names), ("category", categories)):
            if (values[0] is None) != (values[-1] is None):
                raise _wrong(where, f"has {'no' if values[-1] is None else 'a'} {what}, unlike the records before it")
    return Records(prompts, _all_or_none(names), _all_or_none(categories))


def _all_or_none(values: list[str | None]) -> list[str] | None:
    given = [value for value in values if value is not None]
    return given or None


def _as_text(value: Any, key: str, where: str) -> str:
    """A text, or for names a whole number as text."""
    if type(value) is int and key in NAME_KEYS:
        return str(value)
    if not isinstance(value, str):
        raise _wrong(where, f"has {quoted(value)} as its {key}, where a text is expected")
    if not value.strip() and key not in PROMPT_KEYS:
        raise _wrong(where, f"has an empty {key}")
    return value


def _wrong(where: str, what: str) -> InputError:
    return InputError(f"{where[0].upper()}{where[1:]} {what}.")


def _either(keys: tuple[str, ...]) -> str:
    return f"{', '.join(keys[:-1])} or {keys[-1]}"
