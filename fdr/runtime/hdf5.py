"""Opening HDF5 files for reading: without locks, without values from other files, and within a time limit.

HDF5 reads a damaged file in C, where Python can neither end an endless loop nor survive a crash. So the structure of a
file whose metadata carry no checksums is read once in a child process with a time limit before it is read here.
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdr.errors import InputError

if TYPE_CHECKING:
    import h5py

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
SURVEY_SECONDS = 30.0
"""Seconds for reading a file's structure, plus one for each `_BYTES_PER_SECOND`; raising it delays the error."""
_BYTES_PER_SECOND = 50e6
_SEARCHED_BYTES = 256 << 20
"""Larger files are always surveyed, because a child process costs less than searching their bytes."""
_HEAP = b"GCOL"
_surveyed: dict[tuple[int, ...], str | None] = {}
"""The fault in the structure of each surveyed file, or None; the key is device, inode, size and time of change."""


@contextlib.contextmanager
def open_h5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """The file, open for reading. Raises `InputError` for one that another process writes, or that cannot be read.

    No lock is taken, since many network file systems have none.
    """
    import h5py

    _check_no_writer(path)
    _check_structure(Path(path))
    with h5py.File(os.fspath(path), "r", locking=False) as file:
        yield file


def item_of(group: Any, key: str) -> Any:
    """The group or dataset `key` of this very file. Raises `InputError` where the way to it leads through a link."""
    import h5py

    parts = [part for part in key.split("/") if part]
    for depth in range(1, len(parts) + 1):
        above = "/".join(parts[:depth])
        if not isinstance(group.get(above, getlink=True, default=h5py.HardLink()), h5py.HardLink):
            raise InputError(f"{group.file.filename!r}: {above} is a link to elsewhere, which is not followed.")
    return group[key]


def dataset_of(group: Any, key: str) -> h5py.Dataset:
    """The dataset `key`, of which every value lies in this file. Raises `KeyError` where there is none.

    A link may lead to another file, a virtual dataset or external storage may take values from one: whoever sends such
    a file chooses which file is read, and a change there changes the values of a file that looks unchanged.
    """
    import h5py

    dataset = item_of(group, key)
    if not isinstance(dataset, h5py.Dataset):
        raise KeyError(f"{key} is no dataset")
    check_dataset(dataset)
    return dataset


def check_dataset(dataset: h5py.Dataset) -> None:
    """Raise `InputError` for a dataset whose values lie in other files, or were never written."""
    where = f"{dataset.file.filename!r}: {dataset.name.lstrip('/')}"
    if dataset.is_virtual:
        raise InputError(f"{where} is a virtual dataset, whose values lie in other files; copy them into one dataset.")
    if dataset.external:
        raise InputError(
            f"{where} keeps its values in another file ({dataset.external[0][0]}); copy them into this one."
        )
    found, expected = _written(dataset)
    if found < expected:
        raise InputError(
            f"{where} was not written to its end: {expected - found} of {expected} blocks have no values, and would be "
            "read as zeros; write it again."
        )


def _written(dataset: h5py.Dataset) -> tuple[int, int]:
    """How many blocks of storage a dataset has, and how many it needs."""
    if dataset.shape is None or 0 in dataset.shape:
        return 0, 0
    if dataset.chunks:
        sides = zip(dataset.shape, dataset.chunks, strict=True)
        return dataset.id.get_num_chunks(), math.prod(-(-side // chunk) for side, chunk in sides)
    return int(dataset.id.get_storage_size() > 0), 1


def _check_no_writer(path: str | os.PathLike[str]) -> None:
    """Raise `InputError` where another process holds the lock that HDF5 takes for writing."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{os.fspath(path)!r} is locked: another process holds it open for writing; try again after that."
            ) from None
        except OSError:  # a file system without locks
            return


def _check_structure(path: Path) -> None:
    state = os.stat(path)
    key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    is_program = not sys.executable or getattr(sys, "frozen", False)  # then there is no Python to start
    if key not in _surveyed:
        _surveyed[key] = None if is_program or _has_checksums(path) else _survey_in_child(path, state.st_size)
    if (fault := _surveyed[key]) is not None:
        raise InputError(f"{str(path)!r} is damaged: {fault}.")


def _survey_in_child(path: Path, size: int) -> str | None:
    """The fault of a file that hangs or kills the process that reads it; None for other files."""
    limit = SURVEY_SECONDS + size / _BYTES_PER_SECOND
    program = "import sys; sys.path[:0] = sys.argv[2:]; from fdr.runtime.hdf5 import survey; survey(sys.argv[1])"
    command = [sys.executable, "-P", "-c", program, os.fspath(path), *filter(None, sys.path)]
    try:
        code = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit).returncode
    except subprocess.TimeoutExpired:
        return f"its structure could not be read within {limit:.0f} s"
    except OSError:  # no child can be started here
        return None
    return f"the HDF5 library crashes on it (signal {-code})" if code < 0 else None


def _has_checksums(path: Path) -> bool:
    """True for a small file of the second version of the superblock or a later one, without a heap of texts.

    Since then groups and headers carry checksums; the heap of texts of any length has none.
    """
    if os.path.getsize(path) > _SEARCHED_BYTES:
        return False
    data = path.read_bytes()
    return data.startswith(HDF5_MAGIC) and data[8:9] >= b"\2" and _HEAP not in data


def survey(path: str) -> None:
    """Read everything that this package reads of a file's structure, ignoring errors: only a hang or a crash counts."""
    import h5py

    with contextlib.suppress(Exception), h5py.File(path, "r", locking=False) as file:
        _survey(file)


def _survey(file: h5py.File) -> None:
    import h5py

    def visit(_: str, item: Any) -> None:
        with contextlib.suppress(Exception):
            dict(item.attrs)
        if isinstance(item, h5py.Dataset):
            with contextlib.suppress(Exception):
                _written(item)
                if item.shape and 0 not in item.shape and not item.is_virtual and not item.external:
                    item[(0,) * item.ndim]
                    item[tuple(side - 1 for side in item.shape)]

    visit("", file)
    file.visititems(visit)
