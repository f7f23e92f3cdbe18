"""Images in .npy files, read row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fdr.errors import InputError
from fdr.images.array_file import ArrayInfo, ArraySource, StoredRows, find_images, open_arrays, read_header
from fdr.images.base import ImageOptions
from fdr.images.files import Place
from fdr.runtime import DAMAGE


def open_npy(place: Place, options: ImageOptions) -> ArraySource:
    """The source for .npy files; raises `InputError` when one holds no uint8 images."""
    if place.choice is not None:
        raise InputError(f"{place.path} holds one array, so there is none to choose; leave out :{place.choice}.")
    return open_arrays(place, options, _read)


def _read(path: Path, choice: str | None) -> StoredRows:
    with path.open("rb") as file:
        try:
            shape, is_fortran, dtype = read_header(file)
        except DAMAGE as error:
            raise InputError(f"{path} is not an npy file, or is damaged ({error}).") from error
        offset = file.tell()
    info = find_images(str(path), [ArrayInfo("the array", shape, np.dtype(dtype), is_fortran)])
    part = StoredRows("npy", path, info, offset)
    part.prefix = "row"
    return part
