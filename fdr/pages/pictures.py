"""Pictures in a page: the sample grids of a run as WebP inside of the page, a few of them and not too large."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fdr.errors import InputError
from fdr.pages.run_folder import RunHistory

MAX_GRIDS = 6
"""Grids of a run that a page shows. Raising it makes larger pages."""
MAX_SIDE = 1024
"""Larger pictures are made smaller to this many pixels. Raising it makes larger pages."""
LOSSLESS_BYTES = 120_000
"""A picture is stored without loss if that takes no more than this."""
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


def picture(path: Path, title: str, alt: str) -> Picture:
    """The picture of a file. Raises `InputError` if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            small = image.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"Cannot read the picture {str(path)!r} ({error}); write it again or remove it.") from error
    small.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    data = _webp(small, lossless=True)
    if len(data) > LOSSLESS_BYTES:
        data = _webp(small, quality=QUALITY)
    return Picture(title, alt, f"data:image/webp;base64,{base64.b64encode(data).decode()}", *small.size)


def _webp(image: object, **options: bool | int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", method=4, **options)  # type: ignore[attr-defined]
    return buffer.getvalue()
