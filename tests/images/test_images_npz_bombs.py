"""Deflated npz files whose directory or checksum does not say the truth."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from image_worlds import photos

from fdr.errors import InputError
from fdr.images import open_images


def patched(path: Path, place: int, values: bytes) -> None:
    """Change bytes in the one record of the central directory and, 2 bytes earlier, in the header of the member."""
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[directory + place : directory + place + len(values)] = values
    data[place - 2 : place - 2 + len(values)] = values
    path.write_bytes(data)


def write(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", content)


def test_a_member_that_cannot_inflate_to_its_size_is_refused_at_once(tmp_path):
    shape = (1000, 64, 64, 3)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    write(tmp_path / "a.npz", header.getvalue() + bytes(100))
    patched(tmp_path / "a.npz", 24, struct.pack("<I", len(header.getvalue()) + int(np.prod(shape))))
    with pytest.raises(InputError, match=r"arr_0\.npy cannot be \d+ bytes from \d+"):
        open_images(tmp_path / "a.npz")


def test_the_checksum_is_compared_whichever_rows_are_read(tmp_path):
    content = io.BytesIO()
    np.save(content, photos(60))  # more than zipfile inflates at once
    write(tmp_path / "a.npz", content.getvalue())
    assert len(next(iter(open_images(tmp_path / "a.npz").batches(6, 0, 0, 1))).images) == 1
    patched(tmp_path / "a.npz", 16, b"\1\2\3\4")
    with pytest.raises(InputError, match="Bad CRC-32"):
        list(open_images(tmp_path / "a.npz").batches(6, 0, 0, 1))
