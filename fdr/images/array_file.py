"""Finds the arrays of images and labels in a file, and gives the source of their rows."""

from __future__ import annotations

import math
import os
import tokenize
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from fdr.errors import InputError, unknown, warn
from fdr.images.file_parts import ArrayInfo, FilePart, FileSource, OffsetReader, StoredPart, refuse_damage
from fdr.images.files import Place
from fdr.images.ids import RowIds
from fdr.images.labels import Labels, array_labels, may_be_labels
from fdr.images.options import ImageOptions
from fdr.images.values import to_numpy

PREFERRED = ("arr_0", "images", "image", "samples", "data", "x")
LABEL_KEYS = ("arr_1", "labels", "label", "y")
_LABELS_OF = (("x_", "y_"), ("X_", "y_"), ("_x", "_y"), ("images", "labels"), ("image", "label"), ("data", "labels"))
"""Parts of the name of an array of images, and the corresponding parts for its labels: x_train has y_train."""


def find_images(name: str, arrays: Sequence[ArrayInfo], choice: str | None = None) -> ArrayInfo:
    """The array of images: the chosen one, or else one with a preferred name, or else the only one of image shape.

    Raises `InputError` that says which arrays there are.
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
        warn(
            f"{name}: of {len(found)} arrays of images, {taken.key} is measured; {name}:{others[0].key} takes another "
            "one."
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
    """The labels of the images; `read` reads an array by its name.

    Warns if an array is named like labels, but cannot be labels.
    """
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
        warn(
            f"{name}: {found[0]} is not taken as labels of {images.shape[0]} images, which are whole numbers [N], or "
            "one-hot [N, K]; the images have none."
        )
    return None


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and dtype from the header of an npy stream. The stream is then at the first value.

    Raises `ValueError` if it is not in the npy format.
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


class OffsetRows:
    """An array in C order that lies uncompressed in a file; an index reads one row, from any thread."""

    def __init__(self, file: OffsetReader, offset: int, shape: Sequence[int], dtype: np.dtype) -> None:
        self._file, self._offset, self.shape, self.dtype = file, offset, tuple(shape), dtype
        self._row_bytes = math.prod(self.shape[1:]) * dtype.itemsize
        if file.size < offset + math.prod(self.shape) * dtype.itemsize:
            raise InputError(f"{file.path.name} is truncated: it ends before the last of its {shape[0]} images.")

    def __getitem__(self, row: int) -> np.ndarray:
        data = self._file.read(self._offset + row * self._row_bytes, self._row_bytes)
        if len(data) != self._row_bytes:
            raise InputError(f"{self._file.path.name} was cut short while it was read: image {row} is incomplete.")
        return np.frombuffer(data, self.dtype).reshape(self.shape[1:])


@dataclass
class IndexedRows(StoredPart):
    """Images in one array of which an index reads a row."""

    rows: Any
    """A tensor, `OffsetRows`, or anything else of which an index gives one image."""
    axis: int | None = None
    """0 where the channels come first in an image."""

    def read(self, row: int) -> np.ndarray:
        array = to_numpy(self.rows[row])
        return array.transpose(1, 2, 0) if self.axis == 0 else array


class ArraySource(FileSource):
    """The rows of one array of images, or of several files' arrays one after the other."""

    def __init__(self, kind: str, place: Place, options: ImageOptions, parts: Sequence[FilePart]) -> None:
        prefixes = [part.info.key for part in parts]
        if len(parts) > 1:
            top = os.path.commonpath([part.path.absolute().parent for part in parts])
            prefixes = [f"{os.path.relpath(p.path.absolute(), top)}: {p.info.key}" for p in parts]
        ids = RowIds(*zip(prefixes, [part.info.shape[0] for part in parts], strict=True))
        super().__init__(kind, place, options, parts, ids, _joined_labels(place.name, parts))
        if len(parts) == 1 and kind == "npz" and place.choice is None:
            self.path = parts[0].path

    def _chosen(self) -> bytes:
        return b"" if self._place.choice is None else f" {self._place.choice}".encode()


def open_arrays(
    kind: str, place: Place, options: ImageOptions, read: Callable[[Path, str | None], FilePart]
) -> ArraySource:
    """The images of all files of `place` as one set. `read` opens one file and finds what was chosen in it; what it
    raises for damaged bytes becomes an `InputError`."""
    parts = []
    for path in place.files:
        with refuse_damage(path, kind):
            parts.append(read(path, place.choice))
    return ArraySource(kind, place, options, parts)


def _joined_labels(name: str, parts: Sequence[FilePart]) -> Labels | None:
    found = [part.labels for part in parts if part.labels is not None]
    if len(found) == len(parts):
        names = found[0].names if all(labels.names == found[0].names for labels in found) else None
        return Labels(np.concatenate([labels.values for labels in found]), names, found[0].origin)
    if found:
        warn(f"{name}: {len(found)} of {len(parts)} files have labels, so the set has none.")
    return None
