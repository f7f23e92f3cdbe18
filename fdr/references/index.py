"""Reads `reference.json`, the index of a folder of moments, as untrusted data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fdr.errors import InputError
from fdr.runtime import COUNT, NUMBER, TABLE, TABLES, TEXT, Kind, decode_json, field_problems, file_digest

INDEX_NAME = "reference.json"
INDEX_SCHEMA = "fdr-reference/1"
MAX_BYTES = 1 << 26
"""Larger index files are refused. An index that lists a million bad images is smaller than this."""


def _is_file_name(value: Any) -> bool:
    return isinstance(value, str) and value not in ("", ".", "..") and not re.search(r"[/\\\0:]", value)


_INDEX = {"schema": TEXT, "name": TEXT, "images": TABLE, "skipped": TABLES.or_nothing, "encoders": TABLES}
_IMAGES = {"source": TEXT, "digest": TEXT.or_nothing, "count": COUNT, "policy": TABLE.or_nothing}
_ENCODER = {
    "name": TEXT,
    "spec_hash": TEXT,
    "file": Kind(_is_file_name, "the name of a file in this folder"),
    "sha256": Kind(lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value)), "a sha256"),
    "val_fd": NUMBER.or_nothing,
    "val_count": COUNT.or_nothing,
}


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
        index = decode_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"Folder {str(folder)!r} is no reference: it has no {INDEX_NAME} ({error.strerror})."
        ) from error
    except ValueError as error:
        raise InputError(f"{str(path)!r} is damaged ({error}); run fdr stats again.") from error
    schema = index.get("schema") if isinstance(index, dict) else None
    if isinstance(schema, str) and schema != INDEX_SCHEMA:
        raise InputError(f"{str(path)!r} has schema {schema[:60]!r}; expected {INDEX_SCHEMA!r}.")
    fault = next(_faults(index), None)
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


def _faults(index: Any) -> Iterator[str]:
    """What is wrong with an index, as half a sentence each; each part is read only if those before are sound."""
    if not isinstance(index, dict):
        yield "it is no object"
    yield from field_problems("the index", index, _INDEX)
    yield from field_problems("images", index["images"], _IMAGES)
    for row in index.get("skipped") or ():
        yield from field_problems("a skipped image", row, {"id": TEXT, "reason": TEXT})
    for row in index["encoders"]:
        yield from field_problems("an encoder", row, _ENCODER)
