"""Pictures in a page: the sample grids of a run as WebP inside of the page, a few of them and not too large."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdr.errors import InputError
from fdr.pages.image_sets import ImageSet
from fdr.pages.run_folder import RunHistory

if TYPE_CHECKING:
    import numpy as np

MAX_GRIDS = 6
"""Grids of a run that a page shows. Raising it makes larger pages."""
MAX_SIDE = 1024
"""Larger pictures are made smaller to this many pixels. Raising it makes larger pages."""
NUM_SAMPLES, SAMPLE_SIDE = 24, 256
"""Images that are shown of a sample set, and the pixels that they are scaled to if they are larger."""
MANY = 200
"""More images than this, of sample sets and explanations together, are smaller. Raising it makes larger pages."""
LOSSLESS_BYTES = 120_000
"""A grid is stored without loss if that takes no more than this, a single image if it takes a tenth, or less."""
QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """A picture inside of the page."""

    title: str
    alt: str
    source: str
    """A data address."""
    width: int
    height: int


def grid_pictures(run: RunHistory) -> list[Picture]:
    """The sample grids, first and last among them, and the reference images."""
    chosen = [(f"step {step:,}", f"Samples at step {step:,}", run.grids[step]) for step in spread(list(run.grids))]
    if run.reals is not None:
        chosen.append(("reference", "Reference images", run.reals))
    return [picture(path, title, alt) for title, alt, path in chosen]


def spread(steps: Sequence[int], most: int = MAX_GRIDS) -> list[int]:
    """At most `most` of the steps, evenly spaced, with the first and the last."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(index * (len(steps) - 1) / (most - 1))] for index in range(most)]


@dataclass(frozen=True)
class PictureSize:
    """How large the picture of a single image may be."""

    side: int = SAMPLE_SIDE
    """Pixels that it may be wide and high."""
    lossless: int = LOSSLESS_BYTES // 10
    """Bytes that it may take without loss."""

    @classmethod
    def of_many(cls, count: int) -> PictureSize:
        """The size with which `count` pictures together stay small."""
        share = min(1.0, MANY / max(count, 1))
        return cls(int(SAMPLE_SIDE * share**0.5), int(LOSSLESS_BYTES / 10 * share))


def sample_pictures(images: ImageSet, size: PictureSize) -> list[Picture]:
    """Some images of a sample set, drawn with a fixed seed. Raises `InputError` if they cannot be read. Needs torch."""
    from fdr.images import ImageOptions, images_by_row, select

    source = images.source
    chosen = select(len(source), ImageOptions(count=min(NUM_SAMPLES, len(source))), source.name)
    found = images_by_row(source, chosen).values()
    return [embedded(image, f"Image {number} of {len(found)}", size) for number, image in enumerate(found, start=1)]


def embedded(array: np.ndarray, alt: str, size: PictureSize) -> Picture:
    """The picture of one image, uint8 [H, W, 3]."""
    from PIL import Image

    return _embedded(Image.fromarray(array), "", alt, size.side, size.lossless)


def picture(path: Path, title: str, alt: str) -> Picture:
    """The picture of a file. Raises `InputError` if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            small = image.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"Cannot read the picture {str(path)!r} ({error}); write it again or remove it.") from error
    return _embedded(small, title, alt, MAX_SIDE, LOSSLESS_BYTES)


def _embedded(image: Any, title: str, alt: str, most: int, lossless: int) -> Picture:
    """The picture of a Pillow image, at most `most` pixels wide and high, without loss up to `lossless` bytes."""
    from PIL import Image

    small = image.copy()
    small.thumbnail((most, most), Image.Resampling.LANCZOS)
    data = _webp(small, lossless=True)
    if len(data) > lossless:
        data = _webp(small, quality=QUALITY)
    return Picture(title, alt, f"data:image/webp;base64,{base64.b64encode(data).decode()}", *small.size)


def _webp(image: Any, **options: bool | int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", method=4, **options)
    return buffer.getvalue()
