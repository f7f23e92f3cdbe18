"""Zip files: their checksums, and that every reader finds the same members in them."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fdr.runtime import check_zip


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "set.npz"
    np.savez(path, images=np.arange(4096, dtype=np.uint8), labels=np.arange(9))
    return path


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)


def test_sound_files_of_numpy_and_torch_pass(npz: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.arange(5)}, tmp_path / "plain.pt")
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(3, 2),))
    torch.export.save(program, tmp_path / "net.pt2")
    np.savez_compressed(tmp_path / "small.npz", images=np.zeros(100))
    with zipfile.ZipFile(tmp_path / "pipe.zip", "w") as archive, archive.open("a", "w", force_zip64=True) as member:
        member.write(b"abc")
    for path in tmp_path.iterdir():
        check_zip(path, is_exact=True)
    assert len(list(tmp_path.iterdir())) == 5


def test_a_flipped_bit_is_found_and_named(npz: Path) -> None:
    check_zip(npz)
    flip(npz, npz.read_bytes().index(bytes(range(100, 120))))
    with pytest.raises(zipfile.BadZipFile, match=r"'images.npy' does not agree with its checksum"):
        check_zip(npz)
    check_zip(npz, ["labels.npy"])


def test_a_torch_file_without_checksums_passes(tmp_path: Path) -> None:
    path = tmp_path / "plain.pt"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(5)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    check_zip(path, is_exact=True)
    assert not any(member.CRC for member in zipfile.ZipFile(path).infolist())


def test_a_file_is_read_once(npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(npz, (1e9, 1e9))
    check_zip(npz)
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("read again"))
    check_zip(npz)


def test_a_file_that_changed_is_read_again_whatever_its_time_says(npz: Path) -> None:
    """A fresh file may change once more within the same tick of the clock; an old one that changes gets a new time."""
    at = npz.read_bytes().index(bytes(range(100, 120)))
    stamp = npz.stat()
    check_zip(npz)
    flip(npz, at)
    os.utime(npz, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(zipfile.BadZipFile, match="does not agree with its checksum"):
        check_zip(npz)
    flip(npz, at)
    os.utime(npz, (1e9, 1e9))
    check_zip(npz)
    flip(npz, at)
    os.utime(npz, (1e9, 1e9 + 1))
    with pytest.raises(zipfile.BadZipFile, match="does not agree with its checksum"):
        check_zip(npz)


def doubled(data: bytes) -> bytes:
    buffer = io.BytesIO(data)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("labels.npy", b"other")
    return buffer.getvalue()


def commented(data: bytes) -> bytes:
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"hello"
    return buffer.getvalue()


def other_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("images.npy", b"other")
    return buffer.getvalue()


def named(name: str) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        buffer = io.BytesIO(data)
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr(name, b"x")
        return buffer.getvalue()

    return change


def hidden_directory(data: bytes) -> bytes:
    """The directory twice, where the records at the end name the second."""
    start = data.index(b"PK\x01\x02")
    end = data.rindex(b"PK\x05\x06")
    directory = data[start:end]
    moved = (start + len(directory)).to_bytes(4, "little")
    return data[:end] + directory + data[end : end + 16] + moved + data[end + 20 :]


def flipped(offset: int, bit: int) -> Callable[[bytes], bytes]:
    """A change of the first member's own header, which the directory contradicts then."""
    return lambda data: data[:offset] + bytes([data[offset] ^ bit]) + data[offset + 1 :]


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "a name twice": doubled,
    "a comment": commented,
    "a second zip before": lambda data: other_zip() + data,
    "a second zip behind": lambda data: data + other_zip(),
    "bytes before": lambda data: b"GIF89a" + data,
    "bytes behind": lambda data: data + b"\0" * 8,
    "two directories": hidden_directory,
    "another local name": lambda data: data.replace(b"images.npy", b"Images.npy", 1),
    "another local checksum": flipped(14, 1),
    "other local flags": flipped(6, 2),
    "another local method": flipped(8, 8),
    "a path upwards": named("../x"),
    "a path upwards in the middle": named("a/../../x"),
    "a path upwards for Windows": named("a\\\\..\\\\x"),
    "an absolute path": named("/x"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_two_readers_could_read_differently_is_refused(npz: Path, change: Callable[[bytes], bytes]) -> None:
    npz.write_bytes(change(npz.read_bytes()))
    with pytest.raises(zipfile.BadZipFile, match=r"^it |^its |^[A-Z]"):
        check_zip(npz, is_exact=True)


def test_whatever_is_damaged_is_one_kind_of_error(npz: Path, tmp_path: Path) -> None:
    data = npz.read_bytes()
    copy = tmp_path / "copy.npz"
    sound = 0
    frame = [*range(0, 60), *range(len(data) - 180, len(data))]
    for offset, bit in itertools.product(frame, (1, 4, 128)):
        copy.write_bytes(data[:offset] + bytes([data[offset] ^ bit]) + data[offset + 1 :])
        with contextlib.suppress(zipfile.BadZipFile):
            check_zip(copy, is_exact=True)
            sound += 1
    assert 0 < sound < 2 * len(frame)  # dates and the like
    for length in range(0, len(data), 97):
        copy.write_bytes(data[:length])
        with pytest.raises(zipfile.BadZipFile):
            check_zip(copy, is_exact=True)
