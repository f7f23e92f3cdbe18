"""Images in HDF5 files: one uint8 dataset [N, H, W, C] or [N, H, W], read chunk by chunk."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fdr.errors import InputError
from fdr.images.array_file import ArrayInfo, ArrayPart, ArraySource, Shown, find_images, find_labels, open_arrays
from fdr.images.base import ImageOptions, Loader
from fdr.images.files import Place
from fdr.images.labels import Labels
from fdr.runtime import DAMAGE, dataset_of, open_h5, read_ahead

_BLOCK_BYTES = 16 << 20
_MAX_BLOCK_BYTES = 128 << 20
_AHEAD = 32


def open_hdf5(place: Place, options: ImageOptions) -> ArraySource:
    """The source for HDF5 files; raises `InputError` when one holds no uint8 images or is damaged."""
    return open_arrays(place, options, _read)


def _read(path: Path, choice: str | None) -> Hdf5Rows:
    try:
        with open_h5(path) as file:
            arrays = _infos(file)
            _check_links(str(path), file, arrays, choice)
            info = find_images(str(path), arrays, choice)
            block = _block_rows(dataset_of(file, info.key))
            labels = find_labels(str(path), arrays, info, lambda key: dataset_of(file, key)[()])
    except DAMAGE as error:
        raise InputError(f"{path} is not a complete HDF5 file: it is truncated or damaged ({error}).") from error
    return Hdf5Rows(path, info, labels, block)


class Hdf5Rows(ArrayPart):
    """uint8 images in one dataset of an HDF5 file."""

    kind = "hdf5"

    def __init__(self, path: Path, info: ArrayInfo, labels: Labels | None, block_rows: int) -> None:
        super().__init__(path, info, labels)
        self._block_rows = block_rows

    def loaders(self, rows: np.ndarray, shown: Shown) -> Iterator[Loader]:
        yield from read_ahead(self._blocks(rows, shown), _AHEAD)

    def _blocks(self, rows: np.ndarray, shown: Shown) -> Iterator[Loader]:
        """Whole blocks that hold a wanted row, so that a compressed chunk is inflated once."""
        try:
            with open_h5(self.path) as file:
                dataset = dataset_of(file, self.info.key)
                blocks = rows // self._block_rows
                for block in np.unique(blocks):
                    wanted = rows[blocks == block]
                    first = int(wanted[0])
                    values = dataset[first : int(wanted[-1]) + 1]
                    for row in map(int, wanted):
                        yield functools.partial(shown, values[row - first], row)
        except DAMAGE as error:
            raise InputError(f"{self.path} is truncated or damaged: {self.info.key} ({error}).") from error


def _infos(file: Any) -> list[ArrayInfo]:
    import h5py

    found: list[ArrayInfo] = []

    def visit(key: str, item: Any) -> None:
        with contextlib.suppress(TypeError):  # a type that NumPy does not have
            if isinstance(item, h5py.Dataset) and item.shape is not None:
                found.append(ArrayInfo(key, item.shape, item.dtype))

    file.visititems(visit)
    return found


def _check_links(name: str, file: Any, arrays: list[ArrayInfo], choice: str | None) -> None:
    """Raise `InputError` where the images would have to be reached through a link to elsewhere."""
    import h5py

    links: list[str] = []
    file.visititems_links(lambda key, link: None if isinstance(link, h5py.HardLink) else links.append(key))
    wanted = links if choice is None else [key for key in links if f"{choice.strip('/')}/".startswith(f"{key}/")]
    if wanted and (choice is not None or not any(array.is_images for array in arrays)):
        raise InputError(
            f"{name}: {wanted[0]} is a link to elsewhere, which is not followed; copy the images into one dataset."
        )


def _block_rows(dataset: Any) -> int:
    """Rows read at once: whole chunks, some megabytes; less than a chunk only where chunks are enormous."""
    row_bytes = math.prod(dataset.shape[1:])
    chunk = dataset.chunks[0] if dataset.chunks else 1
    rows = chunk * max(1, _BLOCK_BYTES // (row_bytes * chunk))
    return min(rows, max(1, _MAX_BLOCK_BYTES // row_bytes))
