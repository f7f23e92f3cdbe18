"""Changing a folder that several processes share: staged files, a short lock on the folder, and the cache's errors."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fdr.errors import RunError
from fdr.runtime.files import sync_folder
from fdr.runtime.temporary import HOST, NO_FLOCK, is_alive, owner, temporary_path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_TIMEOUT = 60.0
"""Seconds to wait for the lock, which is held for milliseconds; raising it delays the error for a stuck process."""
STALE_LOCK_AGE = 30.0
"""Seconds after which a lock file counts as abandoned; lock files are used only where flock does not work."""

_COUNTER = itertools.count()


@contextlib.contextmanager
def staged(final: Path, write: Callable[[Path], None]) -> Iterator[Path]:
    """A temporary file beside `final`, filled by `write` and synced; removed at exit unless it was published."""
    tmp = temporary_path(final)
    try:
        write(tmp)
        with open(tmp, "rb+") as file:
            os.fsync(file.fileno())
        yield tmp
    finally:
        tmp.unlink(missing_ok=True)


def publish(tmp: Path, final: Path) -> None:
    """Give `tmp` its final name, atomically, and make the name durable."""
    os.replace(tmp, final)
    sync_folder(final.parent)


def write_atomic(final: Path, data: bytes) -> None:
    """Replace the file `final` by `data`: readers and a kill at any moment see the old or the new content."""
    with stage_bytes(final, data) as tmp:
        publish(tmp, final)


def stage_bytes(final: Path, data: bytes) -> contextlib.AbstractContextManager[Path]:
    """`staged` for bytes that are already in memory."""

    def write(tmp: Path) -> None:
        with open(tmp, "xb") as file:
            file.write(data)

    return staged(final, write)


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
            with _lock_file(folder / "lock.held", timeout):
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
            if error.errno in NO_FLOCK:
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


def cache_write_error(error: OSError, folder: Path, needed: int) -> RunError:
    """The sentence for a cache `folder` that cannot be written, where some `needed` more bytes were to go."""
    reason = error.strerror or str(error)
    advice = "pass --cache DIR with another folder, or --no-cache"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        what = "The disk is full" if error.errno == errno.ENOSPC else f"A limit was reached ({reason})"
        return RunError(
            f"{what} while writing the feature cache {folder}: about {_megabytes(needed)} are still needed and "
            f"{_free(folder)} free; free the space and run the same command again to go on, or {advice}."
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return RunError(f"The feature cache {folder} cannot be written ({reason}); {advice}.")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return RunError(f"The feature cache {folder} cannot be a folder, for a file is in its place; {advice}.")
    if error.errno == errno.ENOENT:
        return RunError(f"The feature cache {folder} was removed during the run; run the same command again.")
    return RunError(f"Writing the feature cache {folder} failed ({reason}); {advice}.")


def _megabytes(size: int) -> str:
    return f"{max(1, round(size / 1e6)):,} MB"


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB are"
    except OSError:
        return "an unknown amount is"
