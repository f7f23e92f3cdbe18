"""Code shared by npy, npz and HDF5: finding the arrays of images and labels, and the source over their rows."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import threading
import tokenize
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from fdr.errors import FdrWarning, InputError, RunError, unknown
from fdr.images.base import ImageOptions, ImageSource, Loader
from fdr.images.decode import Picture
from fdr.images.digests import container_digest
from fdr.images.files import Place
from fdr.images.ids import JoinedIds, RowIds
from fdr.images.labels import Labels, array_labels, may_be_labels
from fdr.images.values import array_picture
from fdr.runtime import Group, Progress

PREFERRED = ("arr_0", "images", "image", "samples", "data", "x")
LABEL_KEYS = ("arr_1", "labels", "label", "y")
_LABELS_OF = (("x_", "y_"), ("X_", "y_"), ("_x", "_y"), ("images", "labels"), ("image", "label"), ("data", "labels"))
"""Parts of an image array's name and their counterparts in the name of its labels: x_train and y_train."""


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


def find_images(name: str, arrays: Sequence[ArrayInfo], choice: str | None = None) -> ArrayInfo:
    """The array that holds the images: the chosen one, else that of a preferred name, else the only one of image shape.

    Raises `InputError` that says what the file holds instead.
    """
    if choice is not None:
        return _chosen(name, arrays, choice)
    by_leaf = {array.key.rpartition("/")[2].lower(): array for array in reversed(arrays)}
    found = [array for array in arrays if array.is_images]
    for key in PREFERRED:
        if key in by_leaf and by_leaf[key].is_images:
            _warn_of_others(name, by_leaf[key], found)
            return by_leaf[key]
    if len(found) == 1:
        return found[0]
    listed = "; ".join(map(str, arrays[:8])) or "nothing"
    if len(found) > 1:
        raise InputError(f"{name} holds several arrays of images ({listed}); choose one, as in {name}:{found[0].key}.")
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


def _warn_of_others(name: str, taken: ArrayInfo, found: Sequence[ArrayInfo]) -> None:
    others = [array for array in found if array.key != taken.key]
    if others:
        warnings.warn(
            f"{name}: of {len(found)} arrays of images, {taken.key} is measured; {name}:{others[0].key} takes another "
            "one.",
            FdrWarning,
            stacklevel=2,
        )


def _chosen(name: str, arrays: Sequence[ArrayInfo], choice: str) -> ArrayInfo:
    by_key = {array.key: array for array in arrays}
    wanted = choice.strip("/").removesuffix(".npy")
    if wanted not in by_key:
        raise unknown(f"array of {name}", choice, by_key)
    if not by_key[wanted].is_images:
        raise InputError(f"{name}: {_fault(by_key[wanted])}")
    return by_key[wanted]


def _fault(array: ArrayInfo) -> str:
    """The reason why an array cannot be images."""
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


def find_labels(
    name: str, arrays: Sequence[ArrayInfo], images: ArrayInfo, read: Callable[[str], np.ndarray]
) -> Labels | None:
    """The labels beside the images, which `read` reads by name; warns of an array that is called so and is none."""
    by_leaf = {array.key.rpartition("/")[2].lower(): array for array in reversed(arrays)}
    leaf = images.key.rpartition("/")[2]
    own = [leaf.replace(old, new).lower() for old, new in _LABELS_OF if old in leaf]
    found = [by_leaf[key] for key in (*own, *LABEL_KEYS) if key in by_leaf and by_leaf[key].key != images.key]
    for array in found:
        if may_be_labels(array.shape, array.dtype, images.shape[0]):
            labels = array_labels(read(array.key), array.key)
            if labels is not None:
                return labels
    if found and not found[0].is_images:
        warnings.warn(
            f"{name}: {found[0]} is not taken as labels of {images.shape[0]} images, which are whole numbers [N], or "
            "one-hot [N, K]; the images have none.",
            FdrWarning,
            stacklevel=2,
        )
    return None


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and dtype from the header of an npy stream, which is left at the first value.

    Raises `ValueError` when it is no npy data.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, is_fortran, dtype = read(file)
    except (SyntaxError, tokenize.TokenError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"its header is no array header: {error}") from error
    if any(side < 0 for side in shape):
        raise ValueError(f"its header has the shape {list(shape)}")
    return tuple(map(int, shape)), is_fortran, dtype


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


Shown = Callable[[np.ndarray, int], Picture]
"""One stored image and its row, as a picture."""


class ArrayPart(ABC):
    """One array of images in one file. Subclasses read its rows."""

    kind: str
    has_checksum = False
    """True where the file has a checksum that reading by rows does not check; see `fdr.images.digests`."""

    def __init__(self, path: Path, info: ArrayInfo, labels: Labels | None) -> None:
        self.path, self.info, self.labels = path, info, labels
        self.prefix = info.key
        """The prefix of the ids of the rows."""

    @abstractmethod
    def loaders(self, rows: np.ndarray, shown: Shown) -> Iterator[Loader]:
        """One loader for each of these ascending rows."""


class StoredRows(ArrayPart):
    """uint8 [N, H, W, C] or [N, H, W] that lies uncompressed in a file."""

    def __init__(self, kind: str, path: Path, info: ArrayInfo, offset: int, labels: Labels | None = None) -> None:
        super().__init__(path, info, labels)
        self.kind = kind
        self._reader = RowReader(path, offset, info.shape)

    def loaders(self, rows: np.ndarray, shown: Shown) -> Iterator[Loader]:
        for row in rows:
            yield functools.partial(self._load, int(row), shown)

    def _load(self, row: int, shown: Shown) -> Picture:
        return shown(self._reader.read(row), row)


def open_arrays(place: Place, options: ImageOptions, read: Callable[[Path, str | None], ArrayPart]) -> ArraySource:
    """The images of all files of `place`, each read by `read`, as one set."""
    return ArraySource(place, options, [read(path, place.choice) for path in place.files])


class ArraySource(ImageSource):
    """The rows of one array of images, or of several files' arrays one after the other."""

    def __init__(self, place: Place, options: ImageOptions, parts: Sequence[ArrayPart]) -> None:
        self.kind = parts[0].kind
        prefixes = [part.prefix for part in parts]
        if len(parts) > 1:
            top = os.path.commonpath([part.path.absolute().parent for part in parts])
            prefixes = [f"{os.path.relpath(p.path.absolute(), top)}: {p.prefix}" for p in parts]
        counts = [part.info.shape[0] for part in parts]
        ids = JoinedIds([RowIds(prefix, count) for prefix, count in zip(prefixes, counts, strict=True)])
        super().__init__(place.name, options, ids, _joined_labels(place.name, parts))
        if len(parts) == 1 and self.kind == "npz" and place.choice is None:
            self.path = parts[0].path
        self._parts, self._choice = parts, place.choice
        self._starts = np.cumsum([0, *counts])

    def _loaders(self, start: int, stop: int | None) -> Iterator[Loader]:
        assert self.rows is not None
        if any(part.has_checksum for part in self._parts):
            _ = self.digest  # which compares stored arrays with their checksums
        rows = self.rows[start:stop]
        for part, first, end in zip(self._parts, self._starts, self._starts[1:], strict=False):
            wanted = rows[(rows >= first) & (rows < end)] - first
            if len(wanted):
                yield from part.loaders(wanted, functools.partial(self._picture, part))

    def _picture(self, part: ArrayPart, array: np.ndarray, row: int) -> Picture:
        where = f"{self.name}: {part.prefix}[{row}]"
        return array_picture(array, 2 if len(part.info.shape) == 4 else None, self.options, where)

    def _files(self, start: int = 0, stop: int | None = None) -> Sequence[Path]:
        return [part.path for part in self._parts]

    def _content_digest(self, group: Group, progress: Progress) -> str:
        content = container_digest(self._files(), self.rows, group, progress)
        return content if self._choice is None else hashlib.sha256(f"{content} {self._choice}".encode()).hexdigest()


def _joined_labels(name: str, parts: Sequence[ArrayPart]) -> Labels | None:
    found = [part.labels for part in parts if part.labels is not None]
    if len(found) == len(parts):
        names = found[0].names if all(labels.names == found[0].names for labels in found) else None
        return Labels(np.concatenate([labels.values for labels in found]), names, found[0].origin)
    if found:
        warnings.warn(
            f"{name}: {len(found)} of {len(parts)} files have labels, so the set has none.", FdrWarning, stacklevel=2
        )
    return None
