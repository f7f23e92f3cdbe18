"""Reads `reference.json`, the index of a folder of moments, as untrusted data."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdr.errors import InputError
from fdr.runtime import file_digest

INDEX_NAME = "reference.json"
INDEX_SCHEMA = "fdr-reference/1"
MAX_BYTES = 1 << 26
"""Larger index files are refused. An index that lists a million bad images is smaller than this."""


@dataclass(frozen=True)
class _Optional:
    """A field that may be missing or null."""

    kind: Any


_FIELDS: dict[str, Any] = {
    "schema": str,
    "name": str,
    "images": {"source": str, "digest": _Optional(str), "count": int, "policy": _Optional(dict)},
    "skipped": _Optional([{"id": str, "reason": str}]),
    "encoders": [
        {
            **{"name": str, "spec_hash": str, "file": str, "sha256": str},
            **{"val_fd": _Optional(float), "val_count": _Optional(int)},
        }
    ],
}
"""The schema of an index: a type, a list of items of one kind, or an object with at least these fields."""
_NAMES = {str: "a text", int: "a whole number", float: "a number", dict: "an object"}


def reference_folder(path: Path) -> Path | None:
    """The folder of moments if `path` is that folder or its index; else None."""
    folder = path.parent if path.name == INDEX_NAME and path.is_file() else path
    return folder if (folder / INDEX_NAME).is_file() else None


def read_index(folder: Path) -> dict[str, Any]:
    """Read the `reference.json` of a folder. Raises `InputError` if it is not an index that `fdr stats` wrote."""
    path = folder / INDEX_NAME
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{str(path)!r} has more than {MAX_BYTES >> 20} MB; an index of a reference is small.")
        index = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"Folder {str(folder)!r} is no reference: it has no {INDEX_NAME} ({error.strerror})."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is damaged ({error}); run fdr stats again.") from error
    schema = index.get("schema") if isinstance(index, dict) else None
    if isinstance(schema, str) and schema != INDEX_SCHEMA:
        raise InputError(f"{str(path)!r} has schema {schema[:60]!r}; expected {INDEX_SCHEMA!r}.")
    fault = _fault(index, _FIELDS, "it") or _fault_of_files(index["encoders"])
    if fault is not None:
        raise InputError(f"{str(path)!r} is damaged ({fault}); run fdr stats again.")
    return index


def indexed_file(folder: Path, row: dict[str, Any]) -> Path:
    """The path of the file of one row of the index, checked against the digest in the index.

    Raises `InputError` if the file is missing, damaged or another file.
    """
    path = folder / row["file"]
    if not path.is_file():
        raise InputError(f"Reference {str(folder)!r} lists {path.name}, which is missing; run fdr stats again.")
    digest = file_digest(path)
    if digest != row["sha256"]:
        raise InputError(
            f"{str(path)!r} is damaged or another file: its sha256 is {digest[:12]}, and {INDEX_NAME} lists "
            f"{row['sha256'][:12]}; copy it again, or run fdr stats again."
        )
    return path


def _fault(value: Any, kind: Any, where: str) -> str | None:
    """The first place where `value` does not match `kind`, as half a sentence; None if it matches."""
    if isinstance(kind, _Optional):
        return None if value is None else _fault(value, kind.kind, where)
    if isinstance(kind, list):
        if not isinstance(value, list):
            return f"{where} is no list"
        return next(filter(None, (_fault(item, kind[0], f"{where}[{i}]") for i, item in enumerate(value))), None)
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            return f"{where} is no object"
        return next(filter(None, (_fault(value.get(key), of, f"{key} of {where}") for key, of in kind.items())), None)
    if isinstance(value, bool) or not isinstance(value, int | float if kind is float else kind):
        return f"{where} is not {_NAMES[kind]}"
    is_in_range = kind not in (int, float) or (0 <= value < 1 << 63 if kind is int else abs(value) < math.inf)
    return None if is_in_range else f"{where} is out of range"


def _fault_of_files(rows: list[dict[str, Any]]) -> str | None:
    for row in rows:
        name = row["file"]
        if name in ("", ".", "..") or re.search(r"[/\\\0:]", name):
            return f"{name[:60]!r} is not the name of a file in this folder"
        if not re.fullmatch("[0-9a-f]{64}", row["sha256"]):
            return f"the sha256 of {name[:60]!r} is none"
    return None
