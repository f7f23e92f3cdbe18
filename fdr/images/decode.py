"""Decodes one file or PIL image to 8-bit RGB. The pixels are those of Pillow; JPEG files are decoded by simplejpeg.

- Of an animation the first frame is taken.
- EXIF orientation is not applied, as in all peers.
- Palette, 1-bit, grayscale and CMYK images become RGB by Pillow's `convert`.
- 16-bit values are divided by 257 and rounded. Pillow alone would clip grayscale and truncate RGB. 16-bit gray with
  alpha keeps Pillow's truncation.
- Transparency is treated as the option `alpha` says.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fdr.errors import InputError
from fdr.images.metadata import without_metadata
from fdr.runtime import HEAD_BYTES, stand_in_of

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "dib", "gif", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm"),
    )
)
"""Endings of the names of image files. Which format a file has is decided by its bytes."""
UNREAD = frozenset(
    f".{name}"
    for name in (
        *("avif", "avifs", "heic", "heif", "hif", "jxl", "jp2", "j2k", "jpf", "jpx", "jpc", "j2c", "jxr", "bpg", "exr"),
        *("hdr", "dds", "tga", "psd", "qoi", "ico", "svg", "pcx", "ras", "xbm", "xpm", "sgi", "apng"),
        *("dng", "cr2", "cr3", "nef", "arw", "raf", "orf", "rw2"),
    )
)
"""Image formats that are counted but not read: not every Pillow has them, so results would depend on the machine."""
ALPHA = ("drop", "white", "black")
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM")
"""Names of Pillow's plugins. An MPO file is opened as the JPEG file that it begins with."""
MAX_PIXELS = 89_478_485
"""Pillow's own limit, and the default of `ImageOptions.max_pixels`. Raising it lets a small hostile file take more
memory."""
_OTHER_END = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_SWAPPED = {f"{mode};16{end}": f"{mode};16{_OTHER_END[end]}" for mode in ("RGB", "RGBA") for end in _OTHER_END}
"""Pillow's names for 16-bit colour in a file, each with the name for the other byte order."""


class UnreadableImage(Exception):
    """One image cannot be used. The text completes the sentence "a.png cannot be used: ..."."""


class WrongValues(InputError):
    """One image has floats that are not finite or outside of [0, 1]. With `on_bad="skip"` it counts as a bad image."""


@dataclass(frozen=True)
class Picture:
    """One decoded image."""

    pixels: Image | np.ndarray
    """RGB: a PIL image, uint8 [H, W, 3], or float32 [H, W, 3] in [0, 1]."""
    format: str
    """The format it came from: "jpeg", "png", ..., or "array"."""

    @property
    def array(self) -> np.ndarray:
        """The pixels as a writable array."""
        return self.pixels if isinstance(self.pixels, np.ndarray) else np.array(self.pixels)


def sniff(data: bytes) -> str | None:
    """The format by the first bytes, never by the file name; None if it is no image that fdr reads."""
    starts = {
        b"\xff\xd8\xff": "jpeg",
        b"\x89PNG\r\n\x1a\n": "png",
        b"GIF8": "gif",
        b"BM": "bmp",
        b"II*\0": "tiff",
        b"MM\0*": "tiff",
        b"II+\0": "tiff",
        b"MM\0+": "tiff",
    }
    for start, name in starts.items():
        if data.startswith(start):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace():
        return "ppm"
    return None


def decode(data: bytes, alpha: str, max_pixels: int) -> Picture:
    """The first frame of an encoded image as RGB.

    Raises `UnreadableImage` wherever Pillow cannot decode the file, and for more than `max_pixels` pixels, which is
    read from the header before anything is decoded.
    """
    name = sniff(data)
    if name is None:
        raise UnreadableImage(_not_an_image(data))
    try:
        return Picture(_pixels(data, alpha, max_pixels), name)
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise errors of every kind on damaged files
        bare = without_metadata(data, name)
        if bare is not None:
            return decode(bare, alpha, max_pixels)
        raise UnreadableImage(f"it is a truncated or damaged {name} file ({_reason(error)})") from error


def decode_file(path: str | os.PathLike[str], alpha: str, max_pixels: int) -> Picture:
    """Read and decode a file."""
    try:
        with open(path, "rb") as file:
            check_file_bytes(os.fstat(file.fileno()).st_size, max_pixels)
            data = file.read()
    except OSError as error:
        raise UnreadableImage(f"the file cannot be read ({error.strerror})") from error
    return decode(data, alpha, max_pixels)


def check_file_bytes(size: int, max_pixels: int) -> None:
    """Raise `UnreadableImage` for a file that is larger than any image of `max_pixels` pixels, before it is read."""
    if size > 16 * max_pixels + (16 << 20):
        raise UnreadableImage(f"it has {size} bytes, more than any image of --max-pixels {max_pixels} needs")


def _pixels(data: bytes, alpha: str, max_pixels: int) -> Image | np.ndarray:
    image = _open(data, max_pixels)
    if image.format == "JPEG":
        fast = _decode_jpeg(image, data)
        if fast is not None:
            return fast
    wide = _decode_wide(image, data, max_pixels)
    return to_rgb(image if wide is None else wide, alpha)


def to_rgb(image: Image, alpha: str) -> Image:
    """Any PIL image as mode RGB; raises `UnreadableImage` for modes that hold no displayable pixels."""
    image.load()  # a file that Pillow opened lazily shows its damage here
    if image.mode == "F":
        raise UnreadableImage("its pixels are floating-point numbers of unknown range; save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _from_16_bit(image)
    if alpha != "drop" and image.has_transparency_data:
        image = _composite(image, alpha)
    return image if image.mode == "RGB" else image.convert("RGB")


def scale_16_bit(values: np.ndarray) -> np.ndarray:
    """16-bit values -> uint8: v / 257 rounded, so that 65535 is 255 and 257 k is k."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


@contextlib.contextmanager
def quiet_pillow(max_pixels: int = MAX_PIXELS) -> Iterator[None]:
    """Silence Pillow's warnings about odd files, in every thread, while any pass over images is running.

    If the pass allows more pixels than Pillow, Pillow's limit is raised until the pass ends.
    """
    global _quiet_users
    before = _raise_limit(max_pixels)
    with _quiet_lock:
        _quiet_users += 1
        if _quiet_users == 1:
            warnings.filterwarnings("ignore", module=_QUIET_MODULES)
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            if _quiet_users == 0:
                ours = [entry for entry in warnings.filters if getattr(entry[3], "pattern", None) == _QUIET_MODULES]
                for entry in ours:
                    warnings.filters.remove(entry)  # type: ignore[attr-defined]
        if before is not None:
            _pillow().MAX_IMAGE_PIXELS = before


def _raise_limit(max_pixels: int) -> int | None:
    """Raise Pillow's limit to `max_pixels` if needed, and return the earlier limit; None if it was not changed."""
    before = _pillow().MAX_IMAGE_PIXELS if max_pixels > MAX_PIXELS else None
    if before is None or before >= max_pixels:
        return None
    _pillow().MAX_IMAGE_PIXELS = max_pixels
    return before


_QUIET_MODULES = r"PIL\b(?#fdr)"  # the comment in the pattern distinguishes our filter from a user's
_quiet_lock = threading.Lock()
_quiet_users = 0


@functools.cache
def _pillow() -> Any:
    """The module PIL.Image with the plugins of `FORMATS` loaded, because Pillow's lazy loading is not thread-safe."""
    from PIL import Image, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

    Image.preinit()
    return Image


@functools.cache
def _simplejpeg() -> Any:
    """The module `simplejpeg`, or None if its pixels could differ from Pillow's, which then has no libjpeg-turbo."""
    from PIL import features

    if not features.check_feature("libjpeg_turbo"):
        return None
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def _open(data: bytes, max_pixels: int) -> Image:
    """The image, of which only the header is read. Raises `UnreadableImage` for more than `max_pixels` pixels."""
    module = _pillow()
    try:
        image = module.open(io.BytesIO(data), formats=FORMATS)
    except module.DecompressionBombError as error:
        raise UnreadableImage(f"it is larger than Pillow's own limit ({' '.join(str(error).split())})") from error
    width, height = image.size
    if width * height > max_pixels:
        raise UnreadableImage(f"it has {width} x {height} pixels, more than --max-pixels {max_pixels}")
    return image


def _decode_jpeg(image: Any, data: bytes) -> np.ndarray | None:
    """uint8 [H, W, 3]; None if Pillow must decode the file, because it has another colour model or is damaged.

    In strict mode every warning of libjpeg is an error, so a damaged file always gives the pixels or the error of
    Pillow.
    """
    module = _simplejpeg()
    if module is None or image.mode not in ("L", "RGB"):
        return None
    is_plain = [layer[0] for layer in image.layer] == [1, 2, 3] and image.info.get("adobe_transform", 1) == 1
    if image.mode == "RGB" and not is_plain:
        return None
    try:
        return module.decode_jpeg(data, "RGB", strict=True)
    except ValueError:
        return None


def _decode_wide(image: Any, data: bytes, max_pixels: int) -> Image | None:
    """An RGB or RGBA image of 16 bits a channel, scaled to 8 bits; None for any other image.

    Pillow keeps only the high byte of each value. The same file, read with the other byte order, gives the low byte.
    """
    if not image.tile or not all(_raw_mode(tile.args) in _SWAPPED for tile in image.tile):
        return None
    swapped: Any = _open(data, max_pixels)
    swapped.tile = [tile._replace(args=_swap(tile.args)) for tile in swapped.tile]
    values = np.asarray(image).astype(np.uint32) * 256 + np.asarray(swapped)
    return _pillow().fromarray(scale_16_bit(values), image.mode)


def _raw_mode(args: Any) -> str:
    """The layout of the encoded pixels, which is the first or only argument of a Pillow decoder."""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _swap(args: Any) -> Any:
    swapped = _SWAPPED[_raw_mode(args)]
    return (swapped, *args[1:]) if isinstance(args, tuple) else swapped


def _from_16_bit(image: Image) -> Image:
    values = np.asarray(image)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise UnreadableImage(
            f"its pixels are integers from {values.min()} to {values.max()}; only 8 and 16 bits are images here"
        )
    return _pillow().fromarray(scale_16_bit(values))


def _composite(image: Image, alpha: str) -> Image:
    module = _pillow()
    above = image.convert("RGBA")
    ground = module.new("RGBA", above.size, (255, 255, 255, 255) if alpha == "white" else (0, 0, 0, 255))
    return module.alpha_composite(ground, above)


def _not_an_image(data: bytes) -> str:
    what = stand_in_of(data[:HEAD_BYTES])
    if what is not None:
        return f"the file {what}"
    known = ", ".join(dict.fromkeys(name.lower() for name in FORMATS if name != "DIB"))
    return f"it is not an image of a format read here ({known})"


def _reason(error: Exception) -> str:
    """Pillow's message. Errors of other types are accidents inside a plugin, whose messages do not help a user."""
    text = " ".join(str(error).split())
    if type(error) in (OSError, SyntaxError, ValueError, EOFError) and text:
        return text
    return "its header or its structure cannot be read"
