"""Checks of zip files (npz, torch files, TorchScript, .pt2) before their bytes are used.

Neither NumPy's memory maps nor torch look at the CRC-32 that every member of a zip carries. Every fault is raised as
`zipfile.BadZipFile` with half a sentence, which the reader of each format makes into its own.
"""

from __future__ import annotations

import os
import struct
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import IO

_BLOCK = 1 << 20
_HAS_DESCRIPTOR, _IS_UTF8 = 0x8, 0x800
_LOCAL, _END, _END_64, _LOCATOR_64 = b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_DESCRIPTORS = (0, 12, 16, 20, 24)
"""Possible lengths of the record behind a member: none, or sizes in 4 or 8 bytes, with or without a signature."""

_CLOCK_STEP = 2.0
"""Seconds; a file that changed more recently is not remembered as sound, since it may change again unnoticed."""
_sound: set[tuple[object, ...]] = set()
"""Files whose checksums agreed (device, inode, size, time of change), so that a process reads each once."""


def check_zip(path: str | os.PathLike[str], members: Collection[str] | None = None, *, is_exact: bool = False) -> None:
    """Compare the members of a zip (all, unless `members` names some) with their checksums, once for each file.

    With `is_exact` all programs must also find the same members in it: see `check_layout`. A file in which every
    checksum is 0 was written without checksums (torch.serialization.set_crc32_options) and passes. Raises
    `zipfile.BadZipFile` with the reason; `OSError` for a file that cannot be read.
    """
    state = os.stat(path)
    wanted = None if members is None else frozenset(members)
    key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, wanted, is_exact)
    if key in _sound:
        return
    try:
        _check(Path(path), wanted, is_exact)
    except (NotImplementedError, RuntimeError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise zipfile.BadZipFile(f"it cannot be read: {error}") from error
    if time.time() - state.st_mtime > _CLOCK_STEP:
        _sound.add(key)


def _check(path: Path, wanted: Collection[str] | None, is_exact: bool) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if is_exact:
            check_layout(path, archive)
        for member in members if any(member.CRC for member in members) else ():
            if wanted is None or member.filename in wanted:
                _check_member(archive, member)


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    try:
        with archive.open(member) as stream:
            while stream.read(_BLOCK):
                pass
    except zipfile.BadZipFile as error:
        reason = "does not agree with its checksum" if "CRC" in str(error) else f"cannot be read: {error}"
        raise zipfile.BadZipFile(f"its member {member.filename!r} {reason}") from error


def check_layout(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise `zipfile.BadZipFile` unless every program that reads this zip must find the same members in it.

    Each name is there once, the members and one directory fill the file without a gap, and nothing precedes or follows
    them: no second directory, no comment, no other file before or behind.
    """
    members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    names = Counter(member.orig_filename for member in members)
    if twice := [name for name, count in names.items() if count > 1]:
        raise zipfile.BadZipFile(f"it holds {twice[0]!r} {names[twice[0]]} times")
    if strange := [name for name in names if not _is_plain(name)]:
        raise zipfile.BadZipFile(f"it holds {strange[0]!r}, which is no plain name")
    with open(path, "rb") as file:
        position = 0
        slack: tuple[int, ...] = (0,)
        for member in members:
            if member.header_offset - position not in slack:
                raise zipfile.BadZipFile(f"it holds bytes before {member.filename!r} that belong to no member")
            position = _end_of(file, member)
            slack = _DESCRIPTORS if member.flag_bits & _HAS_DESCRIPTOR else (0,)
        if archive.start_dir - position not in slack:
            raise zipfile.BadZipFile("it holds bytes before its directory that belong to no member")
        _check_end(file, archive.start_dir, len(members))


def _is_plain(name: str) -> bool:
    parts = name.replace("\\", "/").rstrip("/").split("/")
    return "\0" not in name and not name.startswith("/") and ".." not in parts


def _end_of(file: IO[bytes], member: zipfile.ZipInfo) -> int:
    """Where the bytes of a member end, whose own header must say what the directory says."""
    file.seek(member.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != _LOCAL:
        raise zipfile.BadZipFile(f"its directory names {member.filename!r}, which is not there")
    flags, method, crc, name_size, extra_size = struct.unpack("<HH4xI8xHH", header[6:30])
    encoding = "utf-8" if member.flag_bits & _IS_UTF8 else "cp437"
    agrees = file.read(name_size) == member.orig_filename.encode(encoding) and flags == member.flag_bits
    if not agrees or method != member.compress_type or (crc != member.CRC and not flags & _HAS_DESCRIPTOR):
        raise zipfile.BadZipFile(f"its directory and its members disagree about {member.filename!r}")
    return member.header_offset + 30 + name_size + extra_size + member.compress_size


def _check_end(file: IO[bytes], directory: int, count: int) -> None:
    """The directory at `directory` must end where the records that close the file begin."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 98))
    tail = file.read()
    end = tail[-22:]
    if len(end) < 22 or end[:4] != _END or end[20:] != b"\0\0":
        raise zipfile.BadZipFile("it has a comment or other bytes behind its end")
    closing, entries, length, start = 22, *struct.unpack("<HII", end[10:20])
    if tail[-42:-38] == _LOCATOR_64:
        if tail[:4] != _END_64 or struct.unpack("<Q", tail[-34:-26])[0] != size - 98:
            raise zipfile.BadZipFile("it has several directories")
        closing, (entries, length, start) = 98, struct.unpack("<QQQ", tail[32:56])
    if (entries, start, start + length) != (count, directory, size - closing):
        raise zipfile.BadZipFile("it has several directories, or bytes that belong to none")
