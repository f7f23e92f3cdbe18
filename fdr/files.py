"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fdr.errors import InputError, RunError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; on success it is synced and takes the name, on failure it vanishes.

    Raises `InputError` when the folder cannot be written, `RunError` when the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise write_error(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def check_writable(path: Path) -> None:
    """Raise now what writing `path` would raise later, leaving nothing behind."""
    if path.is_dir():
        raise InputError(f"Cannot write {str(path)!r}: it is a folder; name a file.")
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"Cannot write {str(path)!r}: {str(folder)!r} is not a folder.")
    if not os.access(folder, os.W_OK):
        raise InputError(f"Cannot write {str(path)!r}: folder {str(folder)!r} is not writable.")


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_error(path: Path, error: OSError) -> InputError | RunError:
    """The sentence for a file or folder that could not be written: `RunError` for a full disk, else `InputError`."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"Cannot write {str(path)!r}: {reason}; free some space or name another place.")
    return InputError(f"Cannot write {str(path)!r}: {reason}.")
