"""Images in an HDF5 file: one uint8 dataset [N, H, W, C] or [N, H, W], read chunk by chunk."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fdr.errors import InputError
from fdr.images.array_file import ArrayInfo, find_images, label_key
from fdr.images.base import ImageOptions, ImageSource, Loader, RowIds
from fdr.images.decode import Picture
from fdr.images.pool import read_ahead
from fdr.images.values import array_picture

_BLOCK_BYTES = 16 << 20
_MAX_BLOCK_BYTES = 128 << 20
_AHEAD = 32


def open_hdf5(path: Path, options: ImageOptions) -> Hdf5Source:
    """The source for an HDF5 file; raises `InputError` when it holds no uint8 images or is damaged."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            arrays = _infos(file)
            info = find_images(str(path), arrays)
            key = label_key(arrays, info)
            labels = None if key is None else file[key][()].reshape(-1)
            block = _block_rows(file[info.key])
    except OSError as error:
        raise InputError(f"{path} is not a complete HDF5 file: it is truncated or damaged ({error}).") from error
    return Hdf5Source(path, options, info, labels, block)


class Hdf5Source(ImageSource):
    """uint8 images in one dataset of an HDF5 file."""

    kind = "hdf5"

    def __init__(
        self, path: Path, options: ImageOptions, info: ArrayInfo, labels: np.ndarray | None, block_rows: int
    ) -> None:
        super().__init__(path.name, options, RowIds(info.key, info.shape[0]), labels)
        self._path, self._info, self._block_rows = path, info, block_rows
        self._axis = 2 if len(info.shape) == 4 else None

    def _loaders(self, start: int, stop: int | None) -> Iterator[Loader]:
        assert self.rows is not None
        yield from read_ahead(self._read(self.rows[start:stop]), _AHEAD)

    def _read(self, rows: np.ndarray) -> Iterator[Loader]:
        """Whole blocks that hold a wanted row, so that a compressed chunk is inflated once."""
        import h5py

        try:
            with h5py.File(self._path, "r") as file:
                dataset = file[self._info.key]
                blocks = rows // self._block_rows
                for block in np.unique(blocks):
                    wanted = rows[blocks == block]
                    first = int(wanted[0])
                    values = dataset[first : int(wanted[-1]) + 1]
                    for row in map(int, wanted):
                        yield functools.partial(self._picture, values[row - first], row)
        except OSError as error:
            raise InputError(f"{self._path} is truncated or damaged: {self._info.key} ({error}).") from error

    def _picture(self, array: np.ndarray, row: int) -> Picture:
        return array_picture(array, self._axis, self.options, f"{self.name}: {self._info.key}[{row}]")

    def _files(self, start: int = 0, stop: int | None = None) -> Sequence[Path]:
        return [self._path]


def _infos(file: Any) -> list[ArrayInfo]:
    import h5py

    found: list[ArrayInfo] = []

    def visit(key: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            found.append(ArrayInfo(key, item.shape, item.dtype))

    file.visititems(visit)
    return found


def _block_rows(dataset: Any) -> int:
    """Rows read at once: whole chunks, some megabytes; less than a chunk only where chunks are enormous."""
    row_bytes = math.prod(dataset.shape[1:])
    chunk = dataset.chunks[0] if dataset.chunks else 1
    rows = chunk * max(1, _BLOCK_BYTES // (row_bytes * chunk))
    return min(rows, max(1, _MAX_BLOCK_BYTES // row_bytes))
