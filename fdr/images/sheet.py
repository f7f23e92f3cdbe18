"""Sheets of images: grids, and PNG files with titled columns."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fdr.errors import InputError, RunError
from fdr.images.base import ImageSource
from fdr.images.ids import Selected
from fdr.runtime import atomic_path

if TYPE_CHECKING:
    from PIL import Image

MIN_SIDE = 96
"""Smaller images are enlarged by a whole factor, pixel by pixel."""
MARGIN = 2
"""White pixels between the images of a grid."""
_GAP, _TITLE, _LINE, _CAPTION = 4, 18, 13, 14


def images_at(source: ImageSource, rows: np.ndarray) -> np.ndarray:
    """uint8 [n, H, W, 3]: the images of some rows, all of one size."""
    return np.stack(images_again(source, rows))


def tiles_at(source: ImageSource, rows: np.ndarray, side: int, captions: Sequence[str] | None = None) -> np.ndarray:
    """uint8 [n, H, side, 3]: the images of some rows, of any sizes, each centred in a white square of `side` pixels.

    Larger images are made smaller, smaller ones are enlarged by a whole factor. `captions` [n] stand below the squares.
    """
    from PIL import Image, ImageDraw

    found = []
    for place, array in enumerate(images_again(source, rows)):
        canvas = Image.new("RGB", (side, side + (0 if captions is None else _CAPTION)), "white")
        image = _fitted(array, side)
        canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        if captions is not None:
            pen = ImageDraw.Draw(canvas)
            pen.text((1, side + 1), _fitting(pen, captions[place], side), fill="black")
        found.append(np.asarray(canvas))
    return np.stack(found)


def write_sheet(columns: Mapping[str, np.ndarray], path: Path) -> None:
    """Write a PNG with a titled column for each entry. A title may have several lines."""
    from PIL import Image, ImageDraw

    factor = max(1, -(-MIN_SIDE // min(next(iter(columns.values())).shape[1:3])))
    enlarged = {name: images.repeat(factor, 1).repeat(factor, 2) for name, images in columns.items()}
    count, height, width, _ = next(iter(enlarged.values())).shape
    title = _TITLE + _LINE * max(name.count("\n") for name in columns)
    size = (len(columns) * (width + _GAP) + _GAP, title + count * (height + _GAP) + _GAP)
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    for column, (name, images) in enumerate(enlarged.items()):
        left = _GAP + column * (width + _GAP)
        for line, text in enumerate(name.split("\n")):
            pen.text((left, 3 + line * _LINE), _fitting(pen, text, width), fill="black")
        for row, image in enumerate(images):
            canvas.paste(Image.fromarray(image), (left, title + _GAP + row * (height + _GAP)))
    with atomic_path(path) as temporary:
        canvas.save(temporary, format="PNG")


def grid_of(images: np.ndarray, columns: int | None = None, margin: int = MARGIN) -> np.ndarray:
    """uint8 [N, H, W, 3] -> one image with the images row by row, by default in about as many rows as columns."""
    count, height, width, _ = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    whole = np.full((rows * (height + margin) - margin, columns * (width + margin) - margin, 3), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + margin), index % columns * (width + margin)
        whole[top : top + height, left : left + width] = image
    return whole


def write_grid(
    images: np.ndarray, path: Path, columns: int | None = None, margin: int = MARGIN, factor: int = 1
) -> None:
    """Write the `grid_of` uint8 images [N, H, W, 3] as a PNG, enlarged by a whole factor, pixel by pixel."""
    from PIL import Image

    whole = grid_of(images, columns, margin).repeat(factor, 0).repeat(factor, 1)
    with atomic_path(path) as temporary:
        Image.fromarray(whole).save(temporary, format="PNG")


def pixels(image: object) -> np.ndarray:
    """uint8 [H, W, 3] of a tensor [3, H, W], uint8 or floats in [0, 1]."""
    array = np.asarray(image).transpose(1, 2, 0)
    return array if array.dtype == np.uint8 else np.rint(array * 255).astype(np.uint8)


def images_by_row(source: ImageSource, rows: np.ndarray) -> dict[int, np.ndarray]:
    """uint8 [H, W, 3] by row, of any sizes, without bad images where the source skips those.

    Files are read in one pass, because some formats have no other way to an image than through those before it.
    """
    wanted = np.unique(rows)
    if not source.is_indexed or source.rows is None:
        batches = (batch for row in wanted.tolist() for batch in source.batches(1, 0, row, row + 1))
        return {batch.rows[0]: pixels(batch.images[0]) for batch in batches if batch.rows}
    part = copy.copy(source)
    part.rows, part.ids = source.rows[wanted], Selected(source.ids, wanted)
    read = ((row, image) for batch in part.batches(8) for row, image in zip(batch.rows, batch.images, strict=True))
    return {int(wanted[row]): pixels(image) for row, image in read}


def images_again(source: ImageSource, rows: np.ndarray) -> list[np.ndarray]:
    """uint8 [H, W, 3] of rows that were read before, in the order of `rows`.

    Raises `RunError` for one that cannot be read again.
    """
    failure: InputError | RunError | None = None
    try:
        found = images_by_row(source, rows)
    except (InputError, RunError) as error:
        found, failure = {}, error
    for row in rows.tolist():
        if row not in found and (reason := _fault(source, row)) is not None:
            raise RunError(
                f"{source.ids[row]} of {source.name} was measured and is not there any more: {reason}. Images were "
                "moved, removed or changed since; put them back, or measure those that are there now."
            )
    if failure is not None:
        raise failure
    return [found[row] for row in rows.tolist()]


def _fault(source: ImageSource, row: int) -> str | None:
    """Why the image of a row cannot be read; None if it can."""
    try:
        bad = next(source.batches(1, 0, row, row + 1)).bad
    except (InputError, RunError) as error:
        return str(error.__cause__ or error).rstrip(".")
    return bad[0].reason if bad else None


def _fitted(array: np.ndarray, side: int) -> Image.Image:
    from PIL import Image

    image, longest = Image.fromarray(np.ascontiguousarray(array)), max(array.shape[:2])
    if longest <= side:
        factor = side // longest
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    size = [max(1, round(length * side / longest)) for length in image.size]
    return image.resize((size[0], size[1]), Image.Resampling.LANCZOS)


def _fitting(pen: object, text: str, width: int) -> str:
    """The text, cut to the width of its column."""
    while text and pen.textlength(text) > width:  # type: ignore[attr-defined]
        text = text[:-1]
    return text
