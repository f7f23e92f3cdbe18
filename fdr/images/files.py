"""What folders and archives of image files share: which names are images, class labels, the sentence for none."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import numpy as np

from fdr.errors import InputError
from fdr.images.decode import Picture, UnreadableImage, decode

SUFFIXES = frozenset(
    f".{name}"
    for name in (
        "png",
        "jpg",
        "jpeg",
        "jpe",
        "jfif",
        "webp",
        "bmp",
        "dib",
        "gif",
        "tif",
        "tiff",
        "ppm",
        "pgm",
        "pbm",
        "pnm",
    )
)
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
"""The range in "x-{000..012}.tar"."""
_CONTAINERS = (".tar", ".npz", ".npy", ".zip", ".h5", ".hdf5", ".tgz", ".gz")


def is_image_name(name: str) -> bool:
    """True for a POSIX path with an image's extension in any case, outside hidden and __MACOSX folders."""
    parts = [part for part in name.split("/") if part not in (".", "..")]
    is_hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return os.path.splitext(name)[1].lower() in SUFFIXES and not is_hidden


def class_labels(names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]] | tuple[None, None]:
    """Labels by the first folder of each name, numbered in sorted order; (None, None) when a name has no folder."""
    firsts = [name.partition("/")[0] for name in names]
    if not names or any("/" not in name for name in names):
        return None, None
    classes = tuple(sorted(set(firsts)))
    number = {name: index for index, name in enumerate(classes)}
    return np.array([number[name] for name in firsts], dtype=np.int64), classes


def without_common_folder(names: Sequence[str]) -> list[str]:
    """The names below the deepest folder that holds all of them: archives often wrap everything in one."""
    if not names:
        return []
    folders = [PurePosixPath(name).parent.parts for name in names]
    low, high = min(folders), max(folders)
    depth = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return ["/".join(PurePosixPath(name).parts[depth:]) for name in names]


def no_images(where: str, names: Iterable[str]) -> InputError:
    """The error for a folder or archive without one image: what was looked for and what is there."""
    found = Counter(PurePosixPath(name).suffix.lower() for name in names)
    if not found:
        return InputError(f"{where} is empty; expected images ({_looked_for()}).")
    listed = ", ".join(f"{many} {suffix or 'without extension'}" for suffix, many in found.most_common(5))
    container = next((suffix for suffix in _CONTAINERS if suffix in found), None)
    hint = f" To use a {container} file, give the file itself." if container else ""
    return InputError(f"{where} holds no images; looked for {_looked_for()} in any folder, found {listed}.{hint}")


def max_file_bytes(max_pixels: int) -> int:
    """No image of `max_pixels` pixels needs a larger file, so a larger one is not even read."""
    return 16 * max_pixels + (16 << 20)


def decode_file(path: str | os.PathLike[str], alpha: str, max_pixels: int) -> Picture:
    """`decode` of a whole file."""
    try:
        with open(path, "rb") as file:
            check_file_bytes(os.fstat(file.fileno()).st_size, max_pixels)
            data = file.read()
    except OSError as error:
        raise UnreadableImage(f"the file cannot be read ({error.strerror})") from error
    return decode(data, alpha, max_pixels)


def decode_sized(data: bytes, size: int, alpha: str, max_pixels: int) -> Picture:
    """`decode`, refusing data that hold fewer bytes than the `size` announced."""
    if len(data) < size:
        raise UnreadableImage(f"it is truncated: {len(data)} of {size} bytes are there")
    return decode(data, alpha, max_pixels)


def check_file_bytes(size: int, max_pixels: int) -> None:
    """Raises `UnreadableImage` for a file too large to be an image."""
    if size > max_file_bytes(max_pixels):
        raise UnreadableImage(f"it has {size} bytes, more than any image of --max-pixels {max_pixels} needs")


def _looked_for() -> str:
    return " ".join(sorted(SUFFIXES))
