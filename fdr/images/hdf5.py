"""Images in HDF5 files: one uint8 dataset [N, H, W, C] or [N, H, W], read chunk by chunk."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fdr.errors import InputError
from fdr.images.array_file import ArraySource, find_images, find_labels, open_arrays
from fdr.images.file_parts import ArrayInfo, StreamedPart
from fdr.images.files import Place
from fdr.images.options import ImageOptions
from fdr.runtime import dataset_of, open_h5

_BLOCK_BYTES = 16 << 20
_MAX_BLOCK_BYTES = 128 << 20


def open_hdf5(place: Place, options: ImageOptions) -> ArraySource:
    """The source for HDF5 files; raises `InputError` when one holds no uint8 images or is damaged."""
    return open_arrays("hdf5", place, options, _read)


def _read(path: Path, choice: str | None) -> Hdf5Rows:
    with open_h5(path) as file:
        arrays = _infos(file)
        _check_links(str(path), file, arrays, choice)
        info = find_images(str(path), arrays, choice)
        labels = find_labels(str(path), arrays, info, lambda key: dataset_of(file, key)[()])
        return Hdf5Rows(path, info, labels, _block_rows(dataset_of(file, info.key)))


@dataclass
class Hdf5Rows(StreamedPart):
    """uint8 images in one dataset of an HDF5 file."""

    kind = "hdf5"
    block_rows: int

    def stream(self, rows: np.ndarray) -> Iterator[Any]:
        """Whole blocks that hold a wanted row, so that a compressed chunk is inflated once."""
        with open_h5(self.path) as file:
            dataset = dataset_of(file, self.info.key)
            blocks = rows // self.block_rows
            for block in np.unique(blocks):
                wanted = rows[blocks == block]
                first = int(wanted[0])
                values = dataset[first : int(wanted[-1]) + 1]
                yield from (values[row - first] for row in map(int, wanted))


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
