"""Temporary files, named after the process that writes them and removed after it was killed; locks on one file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

DEAD_TMP_AGE = 60.0
"""Seconds after its last change until a dead process's temporary file is removed; raising it keeps litter longer."""
ANY_TMP_AGE = 24 * 3600.0
"""The same for processes of other hosts, which may still be running: lowering it risks files that are being written."""
SAFE_NAME_BYTES = 120
"""Every file system takes names of this length (eCryptfs, the strictest, ends at 143)."""
HELD = ".held"
"""The suffix of a marker file that replaces a lock on file systems without locks."""
NO_FLOCK = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

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


def sweep_once(folder: Path) -> None:
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
def locked_file(path: Path, *, blocking: bool = True) -> Iterator[None]:
    """Hold a lock on `path`; where the file system has no locks, a marker file beside it serves as one.

    Raises `filelock.Timeout` when another process holds it and `blocking` is false.
    """
    from filelock import FileLock, SoftFileLock

    lock: FileLock | SoftFileLock = FileLock(path, blocking=blocking)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        lock = SoftFileLock(path.with_name(path.name + HELD), blocking=blocking)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
