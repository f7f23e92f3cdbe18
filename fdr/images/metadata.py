"""Removes from an encoded image what holds no pixels: text, EXIF, colour profiles.

Pillow refuses a sound image if its text is long or its EXIF block is odd. `decode` then tries the bytes from here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

_TIFF_METADATA = frozenset({269, 270, 271, 272, 282, 283, 285, 286, 287, 296, 297, 305, 306, 315, 316, 333, 337})
"""Tags of names, dates and resolutions. Tags from 700 (XMP) on do not describe pixels either."""
_PNG_METADATA = frozenset(
    b"tEXt zTXt iTXt iCCP eXIf pHYs tIME gAMA cHRM sRGB cICP mDCV cLLI bKGD hIST sBIT sPLT acTL fcTL fdAT".split()
)
"""Chunks without pixels, by name. The bit that marks ancillary chunks is not used, because one flipped bit would then
remove PLTE."""
_ENTROPY_CODED = 0xDA
"""The JPEG marker "start of scan", behind which the pixels are."""


def without_metadata(data: bytes, name: str) -> bytes | None:
    """The same image without metadata; None for other formats, and for an image that has no metadata."""
    strip: dict[str, Callable[[bytes], bytes]] = {"png": _bare_png, "jpeg": _bare_jpeg, "tiff": _bare_tiff}
    if name not in strip:
        return None
    try:
        bare = strip[name](data)
    except struct.error:  # the structure itself is damaged
        return None
    return None if bare == data else bare


def _bare_png(data: bytes) -> bytes:
    return data[:8] + b"".join(chunk for kind, chunk in _chunks(data) if kind not in _PNG_METADATA)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and bytes of each PNG chunk. Bytes at the end that are no whole chunk come last, unchanged."""
    start = 8
    while start + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        stop = start + 12 + size
        if not kind.isalpha() or stop > len(data):
            break
        yield kind, data[start:stop]
        start = stop
    if start < len(data):
        yield b"REST", data[start:]


def _bare_jpeg(data: bytes) -> bytes:
    """A JPEG without comments and application segments, except JFIF and Adobe ones, which decide the colour model."""
    kept, start = [data[:2]], 2
    while data[start : start + 1] == b"\xff":
        marker, size = struct.unpack_from(">xBH", data, start)
        segment = data[start : start + 2 + size]
        if marker == _ENTROPY_CODED or size < 2:
            break
        decides = (segment[4:9] == b"JFIF\0" and size >= 16) or (segment[4:9] == b"Adobe" and size >= 14)
        if decides or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(segment)
        start += 2 + size
    rest = data[start:]
    return b"".join([*kept, rest]) if rest[:1] == b"\xff" else data


def _bare_tiff(data: bytes) -> bytes:
    """A TIFF whose first directory keeps only the entries that describe pixels."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:  # BigTIFF
        return data
    (start,) = struct.unpack_from(f"{order}4xI", data)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    entries = [data[at : at + 12] for at in range(start + 2, start + 2 + 12 * count, 12)]
    tags = [struct.unpack_from(f"{order}H", entry)[0] for entry in entries]
    kept = [entry for tag, entry in zip(tags, entries, strict=True) if tag < 700 and tag not in _TIFF_METADATA]
    if len(kept) == len(entries):
        return data
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    return data[:start] + directory + data[start + len(directory) :]
