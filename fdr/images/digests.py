"""sha256 of files, remembered together with `stat`, so that an unchanged folder is recognised without reading it.

A remembered hash is used only if path, device, inode, size, mtime and ctime are the same. It is remembered only if both
times are more than two seconds before the hashing began. Otherwise a file could change within one tick of the clock
unnoticed (git calls such entries racy). Programs cannot set ctime, so a forged mtime is noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import numpy as np

from fdr.errors import FdrError, InputError, RunError
from fdr.runtime import (
    DAMAGE,
    SOLO,
    Group,
    Progress,
    available_cpus,
    cache_home,
    check_zip,
    part_of,
    run_on_rank0,
    write_atomically,
)

SETTLED_NS = 2_000_000_000
"""Age in nanoseconds from which the hash of a file is remembered. Lowering it risks stale hashes on coarse clocks."""
PROBED_FILES = 64
"""Ranks compare the first and last bytes of up to this many files; raising it makes the start of a run slower."""
_PROBE_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 18
SHOWN_BYTES = 1 << 30
"""Progress is shown from this many bytes on. Raising it hides longer waits."""
_DAMAGED = "damaged: "
MAX_MEMOS = 256
"""Memo files that are kept. The least recently written are removed first; raising it takes more disk space."""

Memo = dict[str, list]
"""Absolute path -> [device, inode, size, mtime_ns, ctime_ns, sha256]."""


def file_digests(
    paths: Sequence[str | Path], scope: str, group: Group = SOLO, progress: Progress | None = None
) -> list[str]:
    """sha256 of each file, in order; one memo file per `scope` (the source's own path).

    A file that cannot be read gets the text of its error, so that a skipped file has a digest too. The ranks of a
    `group` hash a part each, and only rank 0 keeps the memo. `progress` shows the reading of `SHOWN_BYTES` and more.
    """
    memo_path = cache_home() / "digests" / f"{hashlib.sha256(os.fsencode(scope)).hexdigest()[:24]}.json"
    keys = [os.path.abspath(path) for path in paths]
    _check_same(keys, group)
    found = run_on_rank0(group, lambda: _remembered(_read(memo_path), keys))
    missing = [index for index in range(len(keys)) if index not in found]
    stamps = run_on_rank0(group, lambda: {index: file_stamp(keys[index]) for index in missing})
    began = time.time_ns()
    mine = part_of(group, missing)
    with _shown(progress, [keys[index] for index in mine]) as done, ThreadPoolExecutor(_num_threads()) as pool:
        hashed = pool.map(lambda index: _hash(keys[index], done), mine)
        parts = group.gather(dict(zip(mine, hashed, strict=True)))
    fresh = {index: entry for part in parts for index, entry in part.items()}
    seen = {keys[index]: _as_seen_here(fresh[index], stamp) for index, stamp in stamps.items()}
    settled = {key: entry for key, entry in seen.items() if _is_settled(entry, began)}
    run_on_rank0(group, lambda: _remember(memo_path, settled))
    found |= {index: entry[-1] for index, entry in fresh.items()}
    return [found[index] for index in range(len(keys))]


def _num_threads() -> int:
    return min(16, available_cpus())


@contextlib.contextmanager
def _shown(progress: Progress | None, keys: Sequence[str]) -> Iterator[Callable[[int], None]]:
    """A function that adds to the number of bytes read of the files `keys`. Any thread may call it."""
    stamps = map(file_stamp, keys) if progress is not None else ()
    total = sum(stamp[2] for stamp in stamps if stamp is not None)
    if progress is None or total < SHOWN_BYTES:
        yield lambda _: None
        return
    lock, name = threading.Lock(), os.path.basename(keys[0])
    title = f"reading {name}" if len(keys) == 1 else f"reading {len(keys)} files ({name}, ...)"
    with progress.task(title, total, unit="B") as task:

        def done(amount: int) -> None:
            with lock:
                task.advance(amount)

        yield done


def _check_same(keys: Sequence[str], group: Group) -> None:
    """Raise `RunError` if ranks see different files, by number and size, and of few files by their first and last
    bytes."""
    if group.size == 1:
        return
    probe = hashlib.sha256()
    for key in keys:
        stamp = file_stamp(key)
        probe.update(os.fsencode(f"{os.path.basename(key)} {stamp and stamp[2]}"))
        if len(keys) <= PROBED_FILES:
            probe.update(_ends(key))
    seen = group.gather((len(keys), probe.hexdigest()))
    for rank, other in enumerate(seen):
        if other != seen[0]:
            raise RunError(
                f"Rank {rank} and rank 0 do not see the same files ({other[0]} and {seen[0][0]} beside {keys[0]}); "
                "give every rank the same files, and let nothing write there."
            )


def _ends(key: str) -> bytes:
    try:
        with open(key, "rb") as file:
            first = file.read(_PROBE_BYTES)
            file.seek(-min(_PROBE_BYTES, os.path.getsize(key)), os.SEEK_END)
            return first + file.read()
    except OSError:
        return b""


def file_stamp(path: str | Path) -> list[int] | None:
    """The identity of a file by `stat`, which every change alters; None for a missing file."""
    try:
        return _identity(os.stat(path))
    except OSError:
        return None


def _identity(stat: os.stat_result) -> list[int]:
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _remembered(memo: Memo, keys: Sequence[str]) -> dict[int, str]:
    """The hashes in the memo of the files that have not changed since, by position in `keys`."""
    entries = ((index, key, memo.get(key)) for index, key in enumerate(keys))
    return {i: entry[-1] for i, key, entry in entries if entry is not None and entry[:-1] == file_stamp(key)}


def _hash(key: str, done: Callable[[int], None]) -> list:
    try:
        with open(key, "rb", buffering=0) as file:
            before = _identity(os.fstat(file.fileno()))
            digest = _sha256(file, done)
            if key.lower().endswith(".npz"):
                _check_stored(key)
            changed = _identity(os.fstat(file.fileno())) != before
    except OSError as error:
        return [f"unreadable: {error.strerror}"]
    except DAMAGE as error:
        return [f"{_DAMAGED}{error}"]
    return [digest] if changed else [*before, digest]


def _sha256(file: FileIO, done: Callable[[int], None]) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_CHUNK_BYTES))
    while size := file.readinto(buffer):
        digest.update(buffer[:size])
        done(size)
    return digest.hexdigest()


def _check_stored(key: str) -> None:
    """Compare the uncompressed arrays of an npz with their checksums, while the file is still cached by the system."""
    with zipfile.ZipFile(key) as archive:
        stored = [member.filename for member in archive.infolist() if member.compress_type == zipfile.ZIP_STORED]
    check_zip(key, stored)


def _as_seen_here(entry: list, stamp: list[int] | None) -> list:
    """The hash that a rank found, with the identity of the file on this machine; the hash alone if the files may
    differ."""
    is_same = len(entry) == 6 and stamp is not None and entry[2:4] == stamp[2:4]
    return [*stamp, entry[-1]] if is_same and stamp is not None else entry[-1:]


def _is_settled(entry: list, began: int) -> bool:
    return len(entry) == 6 and max(entry[3], entry[4]) < began - SETTLED_NS


def _read(path: Path) -> Memo:
    """The memo; empty if the file is missing or was not written by fdr."""
    try:
        memo = json.loads(path.read_text(encoding="ascii"))
    except (OSError, ValueError, RecursionError):
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


def _remember(path: Path, entries: Memo) -> None:
    """Add entries to the memo in one step; in a read-only folder hashes are not remembered and the run goes on."""
    if not entries:
        return
    with contextlib.suppress(OSError, FdrError):
        write_atomically(path, json.dumps(_read(path) | entries))
        memos = sorted(path.parent.glob("*.json"), key=lambda memo: memo.stat().st_mtime)
        for old in memos[:-MAX_MEMOS]:
            old.unlink(missing_ok=True)


def container_digest(
    paths: Sequence[str | Path], rows: np.ndarray | None, group: Group, progress: Progress | None = None
) -> str:
    """Hash of whole files and of the rows taken from them. Raises `InputError` if a checksum does not agree."""
    digests = file_digests(paths, os.path.abspath(paths[0]), group, progress)
    for path, found in zip(paths, digests, strict=True):
        if found.startswith(_DAMAGED):
            raise InputError(f"{path} is damaged: {found.removeprefix(_DAMAGED)}; copy or write it again.")
    digest = hashlib.sha256("\n".join(digests).encode())
    digest.update(b"" if rows is None else np.ascontiguousarray(rows, dtype="<i8").tobytes())
    return digest.hexdigest()
