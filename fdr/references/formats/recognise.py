"""Recognises the format of a statistics file by its content and opens it; the file name does not matter."""

from __future__ import annotations

import functools
import importlib
import os
import zipfile
from pathlib import Path

from fdr.errors import InputError
from fdr.frechet import damaged, first_bytes
from fdr.references.formats.base import Format, StatisticsFile, Writer
from fdr.references.formats.registry import FORMATS
from fdr.runtime import DAMAGE, as_path, check_writable, stand_in_of

EXPECTED = (
    "statistics are read from npz (mu and sigma, ADM, FD-loss, clean-fid, dgm-eval), EDM2 and FD-loss pickles, torch "
    "files, npy features, and fdr's own HDF5"
)


def open_statistics(path: str | os.PathLike[str]) -> StatisticsFile:
    """Open a statistics file of any known format.

    Raises `InputError` for a file that is missing, damaged or not statistics.
    """
    path = as_path(path, "the statistics").expanduser()
    return _format_of(path).open(path)


def is_statistics_file(path: Path) -> bool:
    """True if the content of `path` is statistics, not images. Never raises an error and reads no array."""
    try:
        return _format_of(path).is_statistics(path)
    except (InputError, *DAMAGE):
        return False


def check_target(path: Path) -> None:
    """Raise `InputError` if statistics cannot be written to `path`, or would replace a file that is not statistics."""
    check_writable(path)
    if not path.is_file() or path.stat().st_size == 0:
        return
    try:
        open_statistics(path)
    except InputError as error:
        raise InputError(
            f"{str(path)!r} is there and holds no statistics, which would replace it; name another file."
        ) from error


def writers() -> dict[str, Writer]:
    """How to write each layout, by its name."""
    return {name: writer for module in FORMATS for name, writer in _load(module).writers.items()}


def _format_of(path: Path) -> Format:
    start = first_bytes(path)
    members = _members(path) if start.startswith(b"PK") else []
    for module in FORMATS:
        if _load(module).recognises(start, members):
            return _load(module)
    stand_in = stand_in_of(start)
    if stand_in is not None:
        raise InputError(f"{str(path)!r} {stand_in}.")
    what = "is a zip archive without arrays" if start.startswith(b"PK") else "is no statistics file"
    raise InputError(f"{str(path)!r} {what}; {EXPECTED}.")


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except DAMAGE as error:
        raise damaged(str(path), error) from None


@functools.cache
def _load(module: str) -> Format:
    found: Format = importlib.import_module(f"fdr.references.formats.{module}").FORMAT
    return found
