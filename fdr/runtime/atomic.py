"""Atomic writing: a reader, or a kill at any moment, meets the old content of a file or the new one.

A file is written under a temporary name that tells which process writes it, synced, and renamed. What a killed process
leaves is removed by a later one.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fdr.errors import as_utf8
from fdr.runtime.files import write_error

DEAD_TMP_AGE = 60.0
"""Seconds after its last change until a dead process's temporary file is removed; raising it keeps litter longer."""
ANY_TMP_AGE = 24 * 3600.0
"""The same for processes of other hosts, which may still be running: lowering it risks files that are being written."""
SAFE_NAME_BYTES = 120
"""Every file system takes names of this length (eCryptfs, the strictest, ends at 143)."""

HOST = re.sub(r"[^A-Za-z0-9_-]", "_", socket.gethostname()) or "host"
HOST = HOST if len(HOST) <= 24 else f"{HOST[:15]}-{hashlib.sha256(HOST.encode()).hexdigest()[:8]}"
TOKEN = secrets.token_hex(4)  # distinguishes this process from an earlier one with the same pid
_COUNTER = itertools.count()
_TEMPORARY = re.compile(r"\.(?P<host>[A-Za-z0-9_-]+)\.(?P<pid>\d+)\.(?P<token>[0-9a-f]{8})\.\d+\.tmp(\.npz)?$")
_SWEPT: set[Path] = set()


def beside(path: Path, tail: str) -> Path:
    """A hidden path in the folder of `path`: its name and `tail`, shortened to what the file system allows."""
    name, room = path.name, max(len(os.fsencode(path.name)), SAFE_NAME_BYTES) - len(tail) - 1
    if len(os.fsencode(name)) > room:
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
        while len(os.fsencode(name)) > room - len(digest):
            name = name[:-1]
        name += digest
    return path.with_name(f".{name}{tail}")


def owner() -> str:
    """An identifier of this process that is unique over hosts and time."""
    return f"{HOST}.{os.getpid()}.{TOKEN}"


def temporary_path(final: Path) -> Path:
    """A path beside `final` that names its owner and is unique over hosts, processes and threads."""
    return beside(final, f".{owner()}.{next(_COUNTER)}.tmp{'.npz' if final.suffix == '.npz' else ''}")


def is_temporary(path: Path) -> bool:
    """True for a name of `temporary_path`."""
    return _TEMPORARY.search(path.name) is not None


def sweep_temporaries(folder: Path) -> None:
    """Remove the temporary files that dead processes left in `folder`; those of live ones stay."""
    with os.scandir(folder) as entries:
        found = [(entry, match) for entry in entries if (match := _TEMPORARY.search(entry.name)) is not None]
    for entry, match in found:
        with contextlib.suppress(FileNotFoundError):
            age = time.time() - entry.stat().st_mtime
            is_dead = match["host"] == HOST and not is_alive(int(match["pid"]), match["token"])
            if age > (DEAD_TMP_AGE if is_dead else ANY_TMP_AGE):
                os.unlink(entry)


def _sweep_once(folder: Path) -> None:
    """Run `sweep_temporaries` before this process writes its first file into `folder`; its failures are ignored."""
    folder = folder.absolute()
    if folder not in _SWEPT:
        _SWEPT.add(folder)
        with contextlib.suppress(OSError):
            sweep_temporaries(folder)


def is_alive(pid: int, token: str | None = None) -> bool:
    """True when a process of this host is running, or may be."""
    if pid == os.getpid():
        return token is None or token == TOKEN
    if os.name == "nt":  # os.kill(pid, 0) would send CTRL-C there
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def staged(final: Path, write: Callable[[Path], None]) -> Iterator[Path]:
    """A temporary file beside `final`, filled by `write` and synced; removed at exit unless it was published."""
    temporary = temporary_path(final)
    try:
        write(temporary)
        _sync_file(temporary)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def stage_bytes(final: Path, data: bytes) -> contextlib.AbstractContextManager[Path]:
    """`staged` for bytes that are already in memory."""

    def write(temporary: Path) -> None:
        with open(temporary, "xb") as file:
            file.write(data)

    return staged(final, write)


def publish(temporary: Path, final: Path) -> None:
    """Give a synced file its final name, atomically, and make the name durable."""
    os.replace(temporary, final)
    sync_folder(final.parent)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; on success it is synced and renamed to `path`, on failure it is removed.

    Raises `InputError` when the folder cannot be written, `RunError` when the disk is full.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(path.parent)
        open(temporary, "xb").close()
        yield temporary
        _sync_file(temporary)
        publish(temporary, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # the name is too long, or its folder is a file
            temporary.unlink()


def write_atomically(path: Path, data: bytes | str) -> None:
    """Replace `path` by `data` in one step; text is written `as_utf8`. A device or a pipe is written to directly."""
    content = as_utf8(data).encode() if isinstance(data, str) else data
    if _is_special(path):
        try:
            path.write_bytes(content)
        except OSError as error:
            raise write_error(path, error) from error
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _is_special(path: Path) -> bool:
    """True for a device or a pipe, which a new file must not replace."""
    with contextlib.suppress(OSError):  # a name that is too long
        return path.exists() and not path.is_file() and not path.is_dir()
    return False


def _sync_file(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
