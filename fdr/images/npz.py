"""Images in an .npz file: ADM's layout (`arr_0` uint8 NHWC, `arr_1` labels) and its relatives."""

from __future__ import annotations

import functools
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from fdr.errors import InputError
from fdr.images.array_file import ArrayInfo, RowReader, find_images, label_key, read_header
from fdr.images.base import ImageOptions, ImageSource, Loader, RowIds
from fdr.images.decode import Picture
from fdr.images.pool import read_ahead
from fdr.images.values import array_picture

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError)
_SKIP_BYTES = 1 << 20
_AHEAD = 32  # rows inflated ahead of the decoding threads


def open_npz(path: Path, options: ImageOptions) -> NpzSource:
    """The source for an .npz file; raises `InputError` when it holds no uint8 images or is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = [_info(archive, name) for name in archive.namelist() if name.endswith(".npy")]
            info = find_images(str(path), arrays)
            key = label_key(arrays, info)
            labels = None if key is None else _read_array(archive, key)
    except _DAMAGE as error:
        raise InputError(f"{path} is not a complete npz file: it is truncated or damaged ({error}).") from error
    return NpzSource(path, options, info, labels)


class NpzSource(ImageSource):
    """uint8 [N, H, W, C] or [N, H, W] in an .npz file: read at offsets when stored, in one stream when deflated."""

    kind = "npz"

    def __init__(self, path: Path, options: ImageOptions, info: ArrayInfo, labels: np.ndarray | None) -> None:
        super().__init__(path.name, options, RowIds(info.key, info.shape[0]), labels)
        self.path: Path = path
        self._info = info
        self._axis = 2 if len(info.shape) == 4 else None
        offset = _payload_offset(path, info.key)
        self._reader = None if offset is None else RowReader(path, offset, info.shape)

    def _loaders(self, start: int, stop: int | None) -> Iterator[Loader]:
        assert self.rows is not None
        rows = self.rows[start:stop]
        if self._reader is None:
            yield from read_ahead(self._inflate(rows), _AHEAD)
            return
        for row in rows:
            yield functools.partial(self._load, int(row))

    def _load(self, row: int) -> Picture:
        assert self._reader is not None
        return self._picture(self._reader.read(row), row)

    def _picture(self, array: np.ndarray, row: int) -> Picture:
        return array_picture(array, self._axis, self.options, f"{self.name}: {self._info.key}[{row}]")

    def _inflate(self, rows: np.ndarray) -> Iterator[Loader]:
        """One pass over the deflated member, keeping the rows asked for."""
        shape = self._info.shape[1:]
        row_bytes = int(np.prod(shape, dtype=np.int64))
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{self._info.key}.npy") as member:
                read_header(member)
                position = 0
                for row in map(int, rows):
                    _skip(member, (row - position) * row_bytes)
                    array = np.frombuffer(_read_exactly(member, row_bytes), np.uint8).reshape(shape)
                    position = row + 1
                    yield functools.partial(self._picture, array, row)
        except (*_DAMAGE, OSError) as error:
            raise InputError(f"{self.path} is truncated or damaged: {self._info.key} ({error}).") from error

    def _files(self, start: int = 0, stop: int | None = None) -> Sequence[Path]:
        return [self.path]


def _info(archive: zipfile.ZipFile, name: str) -> ArrayInfo:
    with archive.open(name) as member:
        shape, is_fortran, dtype = read_header(member)
    return ArrayInfo(name.removesuffix(".npy"), shape, np.dtype(dtype), is_fortran)


def _read_array(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    with archive.open(f"{key}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False).reshape(-1)


def _payload_offset(path: Path, key: str) -> int | None:
    """Where in the file the values of a stored member begin; None when it is compressed."""
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{key}.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        return None
    with path.open("rb") as file:
        file.seek(member.header_offset)
        name_size, extra_size = struct.unpack("<26xHH", file.read(30))
        file.seek(name_size + extra_size, 1)
        read_header(file)
        return file.tell()


def _skip(member: IO[bytes], size: int) -> None:
    while size > 0:
        size -= len(_read_exactly(member, min(size, _SKIP_BYTES)))


def _read_exactly(member: IO[bytes], size: int) -> bytes:
    parts = []
    while size > 0:
        part = member.read(size)
        if not part:
            raise EOFError("the data end before the last image")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
