"""Small made images in every container, and how tests read them back."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int, height: int = 12, width: int = 10) -> np.ndarray:
    """uint8 [H, W, 3]: smooth waves with some noise, so that JPEG and resampling have something to do."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x * rng.uniform(0.05, 0.9) + y * rng.uniform(0.05, 0.9) + rng.uniform(0, 6)) for _ in range(3)]
    values = 128 + 90 * np.stack(waves, axis=-1) + rng.normal(0, 20, (height, width, 3))
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def photos(count: int, height: int = 12, width: int = 10) -> np.ndarray:
    """uint8 [N, H, W, 3]."""
    return np.stack([photo(seed, height, width) for seed in range(count)])


def encoded(array: np.ndarray, format: str = "PNG", mode: str | None = None, **options) -> bytes:
    """An array as the bytes of an image file."""
    image = Image.fromarray(array)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, format, **options)
    return file.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file with its length and its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_16(values: np.ndarray, color_type: int) -> bytes:
    """uint16 [H, W, C] as a 16-bit PNG: color type 0 gray, 2 RGB, 4 gray and alpha, 6 RGBA."""
    height, width = values.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(lines)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def write_files(root: Path, files: Mapping[str, bytes]) -> Path:
    """A folder with these files."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    """A zip with these entries."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    """A tar with these entries."""
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def read_all(source, **options) -> list[np.ndarray]:
    """Every image of a source, [H, W, 3]."""
    options = {"batch_size": 3, "num_workers": 0} | options
    return [image.permute(1, 2, 0).numpy() for batch in source.batches(**options) for image in batch.images]
