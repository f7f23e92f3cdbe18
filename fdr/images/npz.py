"""Images in .npz files: ADM's layout (`arr_0` uint8 NHWC, `arr_1` labels) and its relatives."""

from __future__ import annotations

import functools
import io
import math
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from fdr.images.array_file import (
    ArraySource,
    IndexedRows,
    OffsetRows,
    find_images,
    find_labels,
    open_arrays,
    read_header,
)
from fdr.images.file_parts import ArrayInfo, FilePart, OffsetReader, StreamedPart
from fdr.images.files import Place
from fdr.images.options import ImageOptions

_SKIP_BYTES = 1 << 20
_MAX_DEFLATION = 1100
"""One deflated byte gives at most 1032 bytes (RFC 1951); a member that claims more than this is damage."""


def open_npz(place: Place, options: ImageOptions) -> ArraySource:
    """The source for .npz files; raises `InputError` when one holds no uint8 images or is damaged."""
    return open_arrays("npz", place, options, _read)


def _read(path: Path, choice: str | None) -> FilePart:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        _check_names(members)
        arrays = [_info(archive, member) for member in members]
        info = find_images(str(path), arrays, choice)
        labels = find_labels(str(path), arrays, info, functools.partial(_read_array, archive))
        offset = _payload_offset(path, archive.getinfo(f"{info.key}.npy"))
    if offset is None:
        return DeflatedRows(path, info, labels)
    return IndexedRows(
        path, info, labels, OffsetRows(OffsetReader(path), offset, info.shape, info.dtype), has_checksum=True
    )


class DeflatedRows(StreamedPart):
    """uint8 [N, H, W, C] or [N, H, W] that is compressed in an .npz file."""

    kind = "npz"

    def stream(self, rows: np.ndarray) -> Iterator[Any]:
        """One pass over the deflated member, keeping the rows asked for, to the checksum at its end."""
        shape = self.info.shape[1:]
        row_bytes = math.prod(shape)
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.info.key}.npy") as member:
            read_header(member)
            position = 0
            for row in map(int, rows):
                _skip(member, (row - position) * row_bytes)
                yield np.frombuffer(_read_exactly(member, row_bytes), np.uint8).reshape(shape)
                position = row + 1
            while member.read(_SKIP_BYTES):
                pass


def _check_names(members: list[zipfile.ZipInfo]) -> None:
    for name, many in Counter(member.filename for member in members).items():
        if many > 1:
            raise zipfile.BadZipFile(f"it holds {name!r} {many} times")


def _info(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> ArrayInfo:
    with archive.open(member) as file:
        shape, is_fortran, dtype = read_header(file)
        size = file.tell() + math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and size != member.file_size:
        raise ValueError(f"{member.filename} has {member.file_size} bytes, but its header says {size}")
    if member.compress_type == zipfile.ZIP_DEFLATED and size > _MAX_DEFLATION * member.compress_size + 1024:
        raise ValueError(f"{member.filename} cannot be {size} bytes from {member.compress_size}")
    return ArrayInfo(member.filename.removesuffix(".npy"), shape, np.dtype(dtype), is_fortran)


def _read_array(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    return np.lib.format.read_array(io.BytesIO(archive.read(f"{key}.npy")), allow_pickle=False)


def _payload_offset(path: Path, member: zipfile.ZipInfo) -> int | None:
    """Where in the file the values of a stored member begin; None when it is compressed."""
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
