"""Reads and writes features [N, D] as npy data, such as the embeddings of CMMD, in blocks to save memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from fdr.errors import InputError
from fdr.frechet import damaged
from fdr.images import read_header
from fdr.references.formats.base import Content, Entry, Format, StatisticsFile, Writer
from fdr.references.formats.pickles import open_pickle
from fdr.runtime import DAMAGE, atomic_path

BLOCK_BYTES = 1 << 23
"""Size of a block of rows. Larger blocks take more memory and change no number."""


def _open(path: Path) -> StatisticsFile:
    """Open features, or a dictionary that `np.save` stored as an object; nothing is unpickled."""
    try:
        with open(path, "rb") as file:
            shape, _, dtype = read_header(file)
            start = file.tell()
    except DAMAGE as error:
        raise damaged(str(path), error) from None
    if shape == () and dtype.hasobject:
        return open_pickle(path, start)
    entry = features_entry("features", repr(str(path)), shape, dtype)
    return StatisticsFile(path, "npy", {entry: partial(read_rows, path, lambda: open(path, "rb"))})


def _is_statistics(path: Path) -> bool:
    with open(path, "rb") as file:
        shape, _, dtype = read_header(file)
    return (len(shape) == 2 and dtype.kind == "f") or (shape == () and dtype.hasobject)


def features_entry(name: str, where: str, shape: tuple[int, ...], dtype: np.dtype) -> Entry:
    """The entry of an array of features. Raises `InputError` that begins with `where` if it is not features."""
    if dtype.hasobject:
        raise InputError(f"{where} is an array of Python objects, which is never unpickled; save plain floats.")
    if len(shape) != 2 or 0 in shape or dtype.kind != "f":
        raise InputError(f"{where} is {dtype} {list(shape)}; expected features as floats [N, D].")
    return Entry(name, "features", shape[1], shape[0], str(dtype))


def read_rows(path: Path, open_stream: Callable[[], AbstractContextManager[IO[bytes]]]) -> Iterator[np.ndarray]:
    """Yield the rows of an npy stream in blocks [n, D]; `path` appears in errors."""
    try:
        with open_stream() as file:
            (count, dim), is_fortran, dtype = read_header(file)
            if is_fortran:  # in this order a row is not contiguous, so all rows are read at once
                yield _read(file, count * dim, dtype).reshape(dim, count).T
                return
            step = max(1, BLOCK_BYTES // (dim * dtype.itemsize))
            for start in range(0, count, step):
                rows = min(step, count - start)
                yield _read(file, rows * dim, dtype).reshape(rows, dim)
    except DAMAGE as error:
        raise damaged(str(path), error) from None


def _read(file: IO[bytes], size: int, dtype: np.dtype) -> np.ndarray:
    wanted = size * dtype.itemsize
    parts = []
    while wanted:
        part = file.read(min(wanted, BLOCK_BYTES))
        if not part:
            raise EOFError("the data end before the last row")
        parts.append(part)
        wanted -= len(part)
    return np.frombuffer(b"".join(parts), dtype)


def write_rows(file: IO[bytes], content: Content) -> None:
    """Write the features as npy data, block by block."""
    assert content.rows is not None
    shape = (content.main.count or 0, content.main.dim)
    header = {"descr": content.rows_dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for rows in content.rows():
        file.write(np.ascontiguousarray(rows, content.rows_dtype).tobytes())


def _write(path: Path, content: Content) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        write_rows(file, content)


FORMAT = Format(
    recognises=lambda start, members: start.startswith(b"\x93NUMPY"),
    open=_open,
    is_statistics=_is_statistics,
    writers={"npy": Writer(_write, "features alone, as CMMD keeps them", (".npy",), needs_rows=True)},
)
