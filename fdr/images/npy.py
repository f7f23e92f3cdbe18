"""Images in .npy files, read row by row."""

from __future__ import annotations

from pathlib import Path

from fdr.errors import InputError
from fdr.images.array_file import ArraySource, IndexedRows, OffsetRows, find_images, open_arrays, read_header
from fdr.images.file_parts import ArrayInfo, OffsetReader
from fdr.images.files import Place
from fdr.images.options import ImageOptions


def open_npy(place: Place, options: ImageOptions) -> ArraySource:
    """The source for .npy files; raises `InputError` when one holds no uint8 images or is damaged."""
    if place.choice is not None:
        raise InputError(f"{place.path} holds one array, so there is none to choose; leave out :{place.choice}.")
    return open_arrays("npy", place, options, _read)


def _read(path: Path, choice: str | None) -> IndexedRows:
    with path.open("rb") as file:
        shape, is_fortran, dtype = read_header(file)
        offset = file.tell()
    find_images(str(path), [ArrayInfo("the array", shape, dtype, is_fortran)])
    return IndexedRows(path, ArrayInfo("row", shape, dtype), None, OffsetRows(OffsetReader(path), offset, shape, dtype))
