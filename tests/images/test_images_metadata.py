"""Images whose pixels are sound and whose text, profile or EXIF block Pillow refuses."""

import io
import struct
import zlib

import numpy as np
import pytest
from image_worlds import encoded, photo, png_chunk
from PIL import Image

from fdr.images.decode import UnreadableImage, decode

LIMIT = 10_000_000
LONG = zlib.compress(b"x" * 2_000_000)  # Pillow inflates at most 1 MB
PIXELS = photo(0)


def ours(data: bytes, alpha: str = "drop") -> np.ndarray:
    return decode(data, alpha, LIMIT).array


def with_chunk(data: bytes, chunk: bytes) -> bytes:
    """The PNG with one more chunk behind its header."""
    return data[:33] + chunk + data[33:]


def with_segment(data: bytes, marker: int, content: bytes) -> bytes:
    """The JPEG with one more segment at its start."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + data[2:]


PNG_CHUNKS = {
    "long zTXt": png_chunk(b"zTXt", b"workflow\0\0" + LONG),
    "long iTXt": png_chunk(b"iTXt", b"workflow\0\1\0\0\0" + LONG),
    "long iCCP": png_chunk(b"iCCP", b"p\0\0" + LONG),
    "70 MB of tEXt": b"".join(png_chunk(b"tEXt", b"k\0" + b"x" * 1_000_000) for _ in range(70)),
    "wrong checksum": png_chunk(b"tEXt", b"k\0words")[:-1] + b"\0",
    "cut short": png_chunk(b"iCCP", b""),
    "animation out of order": png_chunk(b"acTL", bytes([0, 0, 0, 2, 0, 0, 0, 0])) + png_chunk(b"fcTL", b"\xff" * 26),
}


@pytest.mark.parametrize("name", PNG_CHUNKS)
def test_png(name: str) -> None:
    assert np.array_equal(ours(with_chunk(encoded(PIXELS), PNG_CHUNKS[name])), PIXELS)


def test_png_text_behind_the_pixels() -> None:
    data = encoded(PIXELS)
    assert np.array_equal(ours(data[:-12] + PNG_CHUNKS["long zTXt"] + data[-12:]), PIXELS)


def test_transparency_of_a_png_is_no_metadata() -> None:
    indices = (np.arange(120, dtype=np.uint8) % 2).reshape(12, 10)
    image = Image.fromarray(indices)
    image.putpalette([200, 0, 0, 0, 100, 0])
    file = io.BytesIO()
    image.save(file, "PNG", transparency=bytes([0, 255]))
    got = ours(with_chunk(file.getvalue(), PNG_CHUNKS["long zTXt"]), "white")
    assert np.array_equal(got, np.array([[255, 255, 255], [0, 100, 0]], np.uint8)[indices])


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"IDAT"])
def test_damage_of_a_critical_chunk_stays_damage(kind: bytes) -> None:
    file = io.BytesIO()
    Image.fromarray(PIXELS).quantize(16).save(file, "PNG")
    data = bytearray(with_chunk(file.getvalue(), PNG_CHUNKS["long zTXt"]))
    data[data.index(kind)] ^= 0x20  # its first letter in the other case: an ancillary chunk of a wrong checksum
    with pytest.raises(UnreadableImage, match="damaged png file"):
        ours(bytes(data))


def test_a_truncated_png_with_a_long_text_stays_damage() -> None:
    data = with_chunk(encoded(PIXELS), PNG_CHUNKS["long zTXt"])
    with pytest.raises(UnreadableImage, match="damaged png file"):
        ours(data[:-40])


@pytest.mark.parametrize(
    ("marker", "content"),
    [
        (0xE0, b"JFIF\0"),
        (0xEE, b"Adobe"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xE2, b"ICC_PROFILE\0\1"),
        (0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
        (0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"),
    ],
)
def test_jpeg(marker: int, content: bytes) -> None:
    data = encoded(photo(0, 16, 16), "JPEG")
    assert np.array_equal(ours(with_segment(data, marker, content)), ours(data))


def test_the_colour_model_of_a_jpeg_is_no_metadata() -> None:
    file = io.BytesIO()
    Image.fromarray(photo(0, 16, 16)).save(file, "JPEG", keep_rgb=True, quality=100, subsampling=0)
    data = file.getvalue()
    assert np.array_equal(ours(with_segment(data, 0xE2, b"ICC_PROFILE\0")), ours(data))


def tiff_with_odd_xmp(array: np.ndarray) -> bytes:
    """With XMP as text, which Pillow does not expect."""
    data = bytearray(encoded(array, "TIFF", tiffinfo={700: b"<x>" * 20}))
    entry = data.index(struct.pack("<H", 700))
    data[entry : entry + 12] = struct.pack("<HHII", 700, 2, 5, 8)
    return bytes(data)


def test_tiff() -> None:
    assert np.array_equal(ours(tiff_with_odd_xmp(PIXELS)), PIXELS)
    with pytest.raises(UnreadableImage, match="damaged tiff file"):
        ours(tiff_with_odd_xmp(photo(0, 40, 40))[:-100])


@pytest.mark.parametrize(
    "data",
    [
        encoded(PIXELS)[:8],
        encoded(PIXELS)[:29] + bytes(4) + encoded(PIXELS)[33:],
        b"GIF89a\0",
        b"II*\0\0\0\0",
        b"RIFF\0\0\0\0WEBP",
        b"\xff\xd8\xff",
        b"P6\n",
    ],
)
def test_the_reason_is_a_sentence(data: bytes) -> None:
    with pytest.raises(UnreadableImage, match=r"damaged \w+ file \([a-zA-Z ]{10,}\)$"):
        ours(data)
