"""Originals, reconstructions, neighbours and interpolants side by side, one row for each image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fdr.ifid.decoded import DecodedSource
from fdr.ifid.latents import Latents
from fdr.images import ImageSource
from fdr.runtime import atomic_path

NUM_ROWS = 8
MIN_SIDE = 96
"""Smaller images are enlarged by a whole factor, pixel by pixel."""
_GAP, _TITLE = 4, 18


def spread(count: int) -> np.ndarray:
    """Positions of at most `NUM_ROWS` of `count` images, evenly spread, int64."""
    return np.unique(np.linspace(0, count - 1, min(NUM_ROWS, count)).astype(np.int64))


def sheet(queries: Latents, sources: Mapping[str, DecodedSource], places: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of the sheet by title, originals first, each uint8 [len(places), H, W, 3]."""
    columns = {"originals": images_at(queries.source, queries.rows[places])}
    for name, source in sources.items():
        made = [source.decoded(int(place), int(place) + 1)[0].clamp(0, 1) for place in places]
        columns[name] = np.stack([_pixels(image) for image in made])
    return columns


def images_at(source: ImageSource, rows: np.ndarray) -> np.ndarray:
    """uint8 [n, H, W, 3]: the images of some rows, all of one size."""
    return np.stack([_pixels(next(source.batches(1, 0, row, row + 1)).images[0]) for row in rows.tolist()])


def write_sheet(columns: Mapping[str, np.ndarray], path: Path) -> None:
    """Write a PNG with a titled column for each entry."""
    from PIL import Image, ImageDraw

    factor = max(1, -(-MIN_SIDE // min(next(iter(columns.values())).shape[1:3])))
    enlarged = {name: images.repeat(factor, 1).repeat(factor, 2) for name, images in columns.items()}
    count, height, width, _ = next(iter(enlarged.values())).shape
    size = (len(columns) * (width + _GAP) + _GAP, _TITLE + count * (height + _GAP) + _GAP)
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    for column, (name, images) in enumerate(enlarged.items()):
        left = _GAP + column * (width + _GAP)
        pen.text((left, 3), _fitting(pen, name, width), fill="black")
        for row, image in enumerate(images):
            canvas.paste(Image.fromarray(image), (left, _TITLE + _GAP + row * (height + _GAP)))
    with atomic_path(path) as temporary:
        canvas.save(temporary, format="PNG")


def _fitting(pen: object, text: str, width: int) -> str:
    """The title, cut to the width of its column."""
    while text and pen.textlength(text) > width:  # type: ignore[attr-defined]
        text = text[:-1]
    return text


def _pixels(image: object) -> np.ndarray:
    """uint8 [H, W, 3] of a tensor [3, H, W], uint8 or floats in [0, 1]."""
    array = np.asarray(image).transpose(1, 2, 0)
    return array if array.dtype == np.uint8 else np.rint(array * 255).astype(np.uint8)
