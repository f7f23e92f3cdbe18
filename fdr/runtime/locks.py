"""Locks between processes: a short one on a folder while it is changed, and one on a file for as long as a run."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

from fdr.errors import RunError
from fdr.runtime.atomic import HOST, is_alive, owner

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_TIMEOUT = 60.0
"""Seconds to wait for the lock, which is held for milliseconds; raising it delays the error for a stuck process."""
STALE_LOCK_AGE = 30.0
"""Seconds after which a lock file counts as abandoned; lock files are used only where flock does not work."""

HELD = ".held"
"""The suffix of the file that replaces a lock on file systems without locks."""
_NO_FLOCK = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_COUNTER = itertools.count()


@contextlib.contextmanager
def folder_lock(folder: Path, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Keep other processes (and threads) from changing `folder` for the milliseconds of a publish.

    The lock is flock, which the kernel drops when a process dies, or a lock file where there is no flock.
    Raises `RunError` when the lock stays taken for `timeout` seconds.
    """
    path = folder / "lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is None or not _flock(fd, path, timeout):
            with _lock_file(folder / f"lock{HELD}", timeout):
                yield
        else:
            yield
    finally:
        os.close(fd)


def _flock(fd: int, path: Path, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in _NO_FLOCK:
                return False
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EINTR):
                raise
        _wait_or_give_up(path, deadline, timeout)


@contextlib.contextmanager
def _lock_file(path: Path, timeout: float) -> Iterator[None]:
    deadline = time.monotonic() + timeout
    holder = f"{owner()}.{next(_COUNTER)}"
    while True:
        try:
            with open(path, "x", encoding="ascii") as file:
                file.write(holder)
            break
        except FileExistsError:
            _break_stale_lock(path)
        _wait_or_give_up(path, deadline, timeout)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            if path.read_text(encoding="ascii", errors="replace") == holder:
                path.unlink()


def _break_stale_lock(path: Path) -> None:
    with contextlib.suppress(OSError):  # gone meanwhile, or no file at all
        host, _, rest = path.read_text(encoding="ascii", errors="replace").partition(".")
        age = time.time() - path.stat().st_mtime
        is_dead = host == HOST and rest.split(".")[0].isdigit() and not is_alive(int(rest.split(".")[0]))
        if is_dead or age > STALE_LOCK_AGE:
            path.unlink()


def _wait_or_give_up(path: Path, deadline: float, timeout: float) -> None:
    if time.monotonic() > deadline:
        raise RunError(
            f"Another process has held {path} for over {timeout:.0f} s, where milliseconds are expected; "
            "look for a stopped fdr process, or pass --cache DIR or --no-cache."
        )
    time.sleep(0.01)


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
        if error.errno not in _NO_FLOCK:
            raise
        lock = SoftFileLock(path.with_name(path.name + HELD), blocking=blocking)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
