"""What npy, npz and HDF5 share: which array holds the images, the sentences when none does, and reading by rows."""

from __future__ import annotations

import math
import os
import threading
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from fdr.errors import InputError, RunError

PREFERRED = ("arr_0", "images", "image", "samples", "data", "x")
LABEL_KEYS = ("arr_1", "labels", "label", "y")


@dataclass(frozen=True)
class ArrayInfo:
    """The header of one array in a file."""

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool = False

    def __str__(self) -> str:
        return f"{self.key} {self.dtype} {list(self.shape)}"

    @property
    def is_images(self) -> bool:
        """True for uint8 [N, H, W, C] with 1, 3 or 4 channels, and for uint8 [N, H, W]."""
        if self.dtype != np.uint8 or self.is_fortran or 0 in self.shape:
            return False
        return len(self.shape) in (3, 4) and (self.shape[-1] in (1, 3, 4)) == (len(self.shape) == 4)


def find_images(name: str, arrays: Sequence[ArrayInfo]) -> ArrayInfo:
    """The array that holds the images: a preferred name first, else the only one of image shape.

    Raises `InputError` that says what the file holds instead.
    """
    by_leaf = {array.key.rpartition("/")[2].lower(): array for array in reversed(arrays)}
    for key in PREFERRED:
        if key in by_leaf and by_leaf[key].is_images:
            return by_leaf[key]
    found = [array for array in arrays if array.is_images]
    if len(found) == 1:
        return found[0]
    listed = "; ".join(map(str, arrays[:8])) or "nothing"
    if len(found) > 1:
        raise InputError(f"{name} holds several arrays of images ({listed}); name the one to use arr_0.")
    named = next((by_leaf[key] for key in PREFERRED if key in by_leaf), None)
    likely = [array for array in arrays if len(array.shape) in (3, 4, 5)]
    suspect = named or (likely[0] if len(likely) == 1 else None)
    if suspect is not None:
        raise InputError(f"{name}: {_fault(suspect)}")
    if {"mu", "sigma"} <= by_leaf.keys():
        raise InputError(
            f"{name} is a statistics file (mu, sigma), not images; give it as the reference (--ref {name})."
        )
    raise InputError(f"{name} holds no images; expected arr_0 as uint8 [N, H, W, 3], found {listed}.")


def _fault(array: ArrayInfo) -> str:
    """Why an array that should be images is not."""
    found = f"{array.key} is {array.dtype} {list(array.shape)}"
    wanted = "expected uint8 [N, H, W, C] with 1, 3 or 4 channels"
    if array.dtype.hasobject:
        return f"{array.key} is an array of Python objects, which is never unpickled; {wanted}: np.stack the images."
    if array.is_fortran:
        return f"{found} in Fortran order; save np.ascontiguousarray of it."
    if 0 in array.shape:
        return f"{found}, without a single image."
    if len(array.shape) == 3 and array.shape[-1] in (1, 3, 4):
        return f"{found}, which is one image; {wanted}."
    if len(array.shape) not in (3, 4):
        return f"{found}; {wanted}."
    if len(array.shape) == 4 and array.shape[1] in (1, 3, 4) and array.shape[3] not in (1, 3, 4):
        return f"{found} (NCHW); {wanted}: save x.transpose(0, 2, 3, 1)."
    if len(array.shape) == 4 and array.shape[3] not in (1, 3, 4):
        return f"{found} with {array.shape[3]} channels; {wanted}."
    if array.dtype.kind == "f":
        return f"{found}; {wanted}: save np.rint(255 * x).astype(np.uint8) for x in [0, 1]."
    return f"{found}; {wanted}."


def label_key(arrays: Sequence[ArrayInfo], images: ArrayInfo) -> str | None:
    """The integer array [N] or [N, 1] of class labels beside the images, or None."""
    count = images.shape[0]
    fitting = {
        array.key.rpartition("/")[2].lower(): array.key
        for array in arrays
        if array.dtype.kind in "iu" and array.shape in ((count,), (count, 1))
    }
    return next((fitting[key] for key in LABEL_KEYS if key in fitting), None)


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and dtype from the header of an npy stream, which is left at the first value.

    Raises `ValueError` when it is no npy data.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        return read(file)
    except (SyntaxError, tokenize.TokenError, TypeError, RecursionError) as error:
        raise ValueError(f"its header is no array header: {error}") from error


class OffsetReader:
    """Reads of a file at any offset, from any thread; open as long as it lives."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end of the file."""
        try:
            if hasattr(os, "pread"):
                return os.pread(self._file.fileno(), size, offset)
            with self._lock:
                self._file.seek(offset)
                return self._file.read(size)
        except OSError as error:
            raise RunError(f"{self._path} can no longer be read: {error.strerror}.") from error

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


class RowReader:
    """Rows of a C-ordered uint8 array that lies uncompressed in a file, each read at its offset.

    A read, not a mapping: mapped pages would count as memory of the process, and a file cut short meanwhile would
    kill it instead of raising.
    """

    def __init__(self, path: Path, offset: int, shape: Sequence[int]) -> None:
        self._name, self._offset, self._shape = path.name, offset, tuple(shape[1:])
        self._row_bytes = math.prod(self._shape)
        if path.stat().st_size < offset + shape[0] * self._row_bytes:
            raise InputError(f"{path.name} is truncated: it ends before the last of its {shape[0]} images.")
        self._file = OffsetReader(path)

    def read(self, row: int) -> np.ndarray:
        """uint8 image `row`; raises `InputError` when the file has become shorter."""
        data = self._file.read(self._offset + row * self._row_bytes, self._row_bytes)
        if len(data) != self._row_bytes:
            raise InputError(f"{self._name} was cut short while it was read: image {row} is incomplete.")
        return np.frombuffer(data, np.uint8).reshape(self._shape)
