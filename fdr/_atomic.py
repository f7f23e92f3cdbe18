"""What the cache needs of the file system: staged files, whose they are, a short lock, and clear error sentences."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fdr.errors import RunError
from fdr.files import sync_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

DEAD_TMP_AGE = 60.0  # seconds; a temporary file lives well under a second, so a dead process's is old by then
ANY_TMP_AGE = 24 * 3600.0  # for processes of other hosts, whose life cannot be asked
LOCK_TIMEOUT = 60.0  # the lock is held for milliseconds
STALE_LOCK_AGE = 30.0  # of a lock file, where flock does not work

_HOST = re.sub(r"[^A-Za-z0-9_-]", "_", socket.gethostname()) or "host"
_TOKEN = secrets.token_hex(4)  # tells this process from an earlier one with the same pid (containers reuse them)
_COUNTER = itertools.count()
_TMP_NAME = re.compile(
    r"\.(?P<host>[A-Za-z0-9_-]+)\.(?P<pid>\d+)\.(?P<token>[0-9a-f]{8})\.\d+\.tmp"
    r"(\.npz(\.\w+\.tmp)?)?$"  # moments, and the file from which `Moments.save` makes them in turn
)
_NO_FLOCK = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def owner() -> str:
    """This process, among all hosts and times."""
    return f"{_HOST}.{os.getpid()}.{_TOKEN}"


def tmp_path(final: Path) -> Path:
    """A name beside `final` that says whose it is, unique over hosts, processes and threads."""
    suffix = ".tmp.npz" if final.suffix == ".npz" else ".tmp"
    return final.with_name(f"{final.name}.{owner()}.{next(_COUNTER)}{suffix}")


@contextlib.contextmanager
def staged(final: Path, write: Callable[[Path], None]) -> Iterator[Path]:
    """A temporary file beside `final`, filled by `write` and fsynced; gone at exit unless it was published."""
    tmp = tmp_path(final)
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
    """`staged` for bytes at hand."""

    def write(tmp: Path) -> None:
        with open(tmp, "xb") as file:
            file.write(data)

    return staged(final, write)


def is_tmp(path: Path) -> bool:
    """True for a temporary file that this module named."""
    return _TMP_NAME.search(path.name) is not None


def sweep_tmp(folder: Path) -> None:
    """Remove the temporary files that dead processes left in `folder`; those of live ones stay."""
    for path in list(folder.iterdir()):
        match = _TMP_NAME.search(path.name)
        if match is None:
            continue
        with contextlib.suppress(FileNotFoundError):
            age = time.time() - path.stat().st_mtime
            is_dead = match["host"] == _HOST and not _is_alive(int(match["pid"]), match["token"])
            if age > (DEAD_TMP_AGE if is_dead else ANY_TMP_AGE):
                path.unlink()


def _is_alive(pid: int, token: str | None = None) -> bool:
    if pid == os.getpid():
        return token is None or token == _TOKEN
    if os.name == "nt":  # os.kill(pid, 0) would send CTRL-C there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def folder_lock(folder: Path, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Exclude other processes (and threads) from changing `folder`, for the milliseconds of a publish.

    flock, which the kernel drops when a process dies; a lock file where the file system or the system has no flock.
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
            if path.read_text(encoding="ascii") == holder:
                path.unlink()


def _break_stale_lock(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        host, _, rest = path.read_text(encoding="ascii").partition(".")
        age = time.time() - path.stat().st_mtime
        is_dead = host == _HOST and rest.split(".")[0].isdigit() and not _is_alive(int(rest.split(".")[0]))
        if is_dead or age > STALE_LOCK_AGE:
            path.unlink()


def _wait_or_give_up(path: Path, deadline: float, timeout: float) -> None:
    if time.monotonic() > deadline:
        raise RunError(
            f"Another process has held {path} for over {timeout:.0f} s, where milliseconds are expected; "
            "look for a stopped fdr process, or pass --cache DIR or --no-cache."
        )
    time.sleep(0.01)


def write_error(error: OSError, folder: Path, needed: int) -> RunError:
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
