"""Images in one .npy file, read row by row."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fdr.errors import InputError
from fdr.images.array_file import ArrayInfo, RowReader, find_images, read_header
from fdr.images.base import ImageOptions, ImageSource, Loader, RowIds
from fdr.images.decode import Picture
from fdr.images.values import array_picture


def open_npy(path: Path, options: ImageOptions) -> NpySource:
    """The source for a .npy file; raises `InputError` when it holds no uint8 images."""
    with path.open("rb") as file:
        try:
            shape, is_fortran, dtype = read_header(file)
        except ValueError as error:
            raise InputError(f"{path} is not an npy file, or is damaged ({error}).") from error
        offset = file.tell()
    info = find_images(str(path), [ArrayInfo("the array", shape, np.dtype(dtype), is_fortran)])
    return NpySource(path, options, info, RowReader(path, offset, info.shape))


class NpySource(ImageSource):
    """uint8 [N, H, W, C] or [N, H, W] in a .npy file."""

    kind = "npy"

    def __init__(self, path: Path, options: ImageOptions, info: ArrayInfo, reader: RowReader) -> None:
        super().__init__(path.name, options, RowIds("row", info.shape[0]))
        self._path, self._reader = path, reader
        self._axis = 2 if len(info.shape) == 4 else None

    def _loaders(self, start: int, stop: int | None) -> Iterator[Loader]:
        assert self.rows is not None
        for row in self.rows[start:stop]:
            yield functools.partial(self._load, int(row))

    def _load(self, row: int) -> Picture:
        return array_picture(self._reader.read(row), self._axis, self.options, f"{self.name}: row[{row}]")

    def _files(self, start: int = 0, stop: int | None = None) -> Sequence[Path]:
        return [self._path]
