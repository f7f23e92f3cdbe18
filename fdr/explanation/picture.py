"""A sheet of the most and the least harmful images, each beside its heat-map and its nearest reference image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fdr.errors import InputError
from fdr.explanation.colours import overlay
from fdr.explanation.results import EncoderInfluences, Explanation
from fdr.images import ImageSource, images_again, open_images, tiles_at, write_sheet
from fdr.runtime import memory_for

SIDE = 128
"""Pixels of each image in the sheet. Raising it makes the sheet larger and shows more."""


def check_drawable(source: ImageSource) -> None:
    """Raise `InputError` for images that cannot be read again."""
    if not source.is_repeatable:
        raise InputError(
            f"{source.name} can be read only once, so its worst images cannot be drawn; leave out --picture."
        )


@memory_for("the picture", "leave out --picture")
def write_picture(
    found: Explanation, source: ImageSource, reference: ImageSource | None, path: Path, count: int
) -> None:
    """Write a PNG with the `count` most and least harmful images of every encoder in columns.

    Each image stands beside its heat-map and its nearest reference image, where these are known.
    """
    columns: dict[str, np.ndarray] = {}
    for one in found.encoders:
        for title, places in zip(("most harmful", "least harmful"), one.ends(count), strict=True):
            prefix = f"{one.encoder}\n" if len(found.encoders) > 1 else ""
            columns[f"{prefix}{title}"] = tiles_at(source, one.rows[places], SIDE, list(_captions(one, places)))
            if one.heat_maps:
                columns[f"{prefix}{title}, heat-map"] = _overlays(one, source, places)
            if reference is not None and one.nearest:
                rows = np.array([one.nearest[place].row for place in places.tolist()])
                names = [found.reference_ids[row] for row in rows.tolist()]
                columns[f"{prefix}{title}, nearest real"] = tiles_at(reference, rows, SIDE, names)
    write_sheet(columns, path)


def _overlays(one: EncoderInfluences, source: ImageSource, places: np.ndarray) -> np.ndarray:
    """Tiles of the images below their heat-maps, with room for a caption."""
    images = images_again(source, one.rows[places])
    found = [overlay(image, one.heat_maps[at], SIDE) for image, at in zip(images, places.tolist(), strict=True)]
    return tiles_at(open_images(found), np.arange(len(found)), SIDE, [""] * len(found))


def _captions(one: EncoderInfluences, places: np.ndarray) -> Iterator[str]:
    """The rank and the influence of each image."""
    ranks = {place: rank for rank, place in enumerate(one.ranking.tolist(), start=1)}
    return (f"{ranks[place]}: {one.influences[place]:+.3g}" for place in places.tolist())
