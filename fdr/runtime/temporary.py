"""Temporary files: names that say whose they are, and their removal after a kill; locks on any file system."""

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

DEAD_TMP_AGE = 60.0  # seconds; a temporary file is written in less than that after its last change
ANY_TMP_AGE = 24 * 3600.0  # for processes of other hosts, whose life cannot be asked
SAFE_NAME_BYTES = 120
"""Every file system takes names of this length (eCryptfs, the strictest, ends at 143)."""
HELD = ".held"
"""What a marker file is called behind the name of the lock that it stands for."""
NO_FLOCK = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

HOST = re.sub(r"[^A-Za-z0-9_-]", "_", socket.gethostname()) or "host"
HOST = HOST if len(HOST) <= 24 else f"{HOST[:15]}-{hashlib.sha256(HOST.encode()).hexdigest()[:8]}"
TOKEN = secrets.token_hex(4)  # tells this process from an earlier one with the same pid (containers reuse them)
_COUNTER = itertools.count()
_TEMPORARY = re.compile(r"\.(?P<host>[A-Za-z0-9_-]+)\.(?P<pid>\d+)\.(?P<token>[0-9a-f]{8})\.\d+\.tmp(\.npz)?$")
_SWEPT: set[Path] = set()


def beside(path: Path, tail: str) -> Path:
    """A hidden name in the folder of `path`: its own, and `tail`; cut where file systems with room for `path` end."""
    name, room = path.name, max(len(os.fsencode(path.name)), SAFE_NAME_BYTES) - len(tail) - 1
    if len(os.fsencode(name)) > room:
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
        while len(os.fsencode(name)) > room - len(digest):
            name = name[:-1]
        name += digest
    return path.with_name(f".{name}{tail}")


def owner() -> str:
    """This process, among all hosts and times."""
    return f"{HOST}.{os.getpid()}.{TOKEN}"


def temporary_path(final: Path) -> Path:
    """A name beside `final` that says whose it is, unique over hosts, processes and threads."""
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
    """`sweep_temporaries` at the first file that this process writes into `folder`; it never stops the writing."""
    folder = folder.absolute()
    if folder not in _SWEPT:
        _SWEPT.add(folder)
        with contextlib.suppress(OSError):
            sweep_temporaries(folder)


def is_alive(pid: int, token: str | None = None) -> bool:
    """True when a process of this host runs, or might."""
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
    """Hold a lock on `path`, by a marker file beside it where the file system has no locks.

    Raises `filelock.Timeout` when another holds it and `blocking` is false.
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
