"""sha256 of files, remembered by what `stat` tells, so that an unchanged folder is known again without reading it.

A remembered hash is used only for the same path, device, inode, size, mtime and ctime. It is remembered only when both
times lay more than two seconds before the hashing began: a file written in the same tick of the clock could otherwise
change without a trace (git calls such entries racy). ctime cannot be set by programs, so a forged mtime is noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fdr.runtime import available_cpus, cache_home

SETTLED_NS = 2_000_000_000
MAX_MEMOS = 256  # memo files kept, the least recently written go first

Memo = dict[str, list]
"""Absolute path -> [device, inode, size, mtime_ns, ctime_ns, sha256]."""


def file_digests(paths: Sequence[str | Path], scope: str) -> list[str]:
    """sha256 of each file, in order; one memo file per `scope` (the source's own path).

    A file that cannot be read gets the text of its error, so that a skipped file has a digest too.
    """
    began = time.time_ns()
    memo_path = cache_home() / "digests" / f"{hashlib.sha256(os.fsencode(scope)).hexdigest()[:24]}.json"
    memo = _read(memo_path)
    keys = [os.path.abspath(path) for path in paths]
    entries = {key: entry for key in keys if (entry := _remembered(memo, key)) is not None}
    missing = [key for key in dict.fromkeys(keys) if key not in entries]
    with ThreadPoolExecutor(min(16, available_cpus())) as pool:
        fresh = dict(zip(missing, pool.map(_hash, missing), strict=True))
    settled = {key: entry for key, entry in fresh.items() if _is_settled(entry, began)}
    if settled:
        _write(memo_path, memo | settled)
    entries |= fresh
    return [entries[key][-1] for key in keys]


def file_stamp(path: str | Path) -> list[int] | None:
    """What `stat` tells of a file: it differs after every change. None for a file that is not there."""
    try:
        return _identity(os.stat(path))
    except OSError:
        return None


def _identity(stat: os.stat_result) -> list[int]:
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _remembered(memo: Memo, key: str) -> list | None:
    entry = memo.get(key)
    return entry if entry is not None and entry[:-1] == file_stamp(key) else None


def _hash(key: str) -> list:
    try:
        with open(key, "rb") as file:
            before = _identity(os.fstat(file.fileno()))
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            changed = _identity(os.fstat(file.fileno())) != before
    except OSError as error:
        return [f"unreadable: {error.strerror}"]
    return [digest] if changed else [*before, digest]


def _is_settled(entry: list, began: int) -> bool:
    return len(entry) == 6 and max(entry[3], entry[4]) < began - SETTLED_NS


def _read(path: Path) -> Memo:
    """The memo, or an empty one when there is none or it is not what we wrote."""
    try:
        memo = json.loads(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return {}
    if not isinstance(memo, dict):
        return {}
    return {key: entry for key, entry in memo.items() if _is_entry(entry)}


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 6
        and all(isinstance(value, int) for value in entry[:5])
        and isinstance(entry[5], str)
        and len(entry[5]) == 64
    )


def _write(path: Path, memo: Memo) -> None:
    """Replace the memo in one step; a folder that cannot be written costs the memory, not the run."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                json.dump(memo, file)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        memos = sorted(path.parent.glob("*.json"), key=lambda memo: memo.stat().st_mtime)
        for old in memos[:-MAX_MEMOS]:
            old.unlink(missing_ok=True)


def container_digest(paths: Sequence[str | Path], rows: np.ndarray | None) -> str:
    """Hash of whole files and of the rows taken from them."""
    digest = hashlib.sha256("\n".join(file_digests(paths, scope=os.path.abspath(paths[0]))).encode())
    digest.update(b"" if rows is None else np.ascontiguousarray(rows, dtype="<i8").tobytes())
    return digest.hexdigest()
