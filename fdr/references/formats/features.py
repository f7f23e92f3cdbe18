"""Reads features [N, D] from files in blocks, so that memory does not grow with N."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

import numpy as np

from fdr.errors import InputError

BLOCK_BYTES = 1 << 23


def check_features(where: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raise `InputError` unless this is the header of features."""
    if dtype.hasobject:
        raise InputError(f"{where} is an array of Python objects, which is never unpickled; save plain floats.")
    if len(shape) != 2 or 0 in shape or dtype.kind != "f":
        raise InputError(f"{where} is {dtype} {list(shape)}; expected features as floats [N, D].")


def stream_rows(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype, is_fortran: bool) -> Iterator[np.ndarray]:
    """Yield the rows of an npy stream in blocks [n, D]; its header must have been read."""
    count, dim = shape
    if is_fortran:  # in this order a row is not contiguous, so all rows are read at once
        yield _read(file, count * dim, dtype).reshape(dim, count).T
        return
    step = max(1, BLOCK_BYTES // (dim * dtype.itemsize))
    for start in range(0, count, step):
        rows = min(step, count - start)
        yield _read(file, rows * dim, dtype).reshape(rows, dim)


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
