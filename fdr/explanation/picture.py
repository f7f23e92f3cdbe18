"""A sheet of the most and the least harmful images, each beside its nearest reference image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fdr.errors import InputError
from fdr.explanation.results import EncoderInfluences, Explanation
from fdr.images import ImageSource, tiles_at, write_sheet
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

    Where the nearest reference images are known, each image stands beside its own.
    """
    columns: dict[str, np.ndarray] = {}
    for one in found.encoders:
        for title, places in zip(("most harmful", "least harmful"), one.ends(count), strict=True):
            prefix = f"{one.encoder}: " if len(found.encoders) > 1 else ""
            columns[f"{prefix}{title}"] = tiles_at(source, one.rows[places], SIDE, list(_captions(one, places)))
            if reference is not None and one.nearest:
                rows = np.array([one.nearest[place].row for place in places.tolist()])
                names = [found.reference_ids[row] for row in rows.tolist()]
                columns[f"{prefix}{title}, nearest real"] = tiles_at(reference, rows, SIDE, names)
    write_sheet(columns, path)


def _captions(one: EncoderInfluences, places: np.ndarray) -> Iterator[str]:
    """The rank and the influence of each image."""
    ranks = {place: rank for rank, place in enumerate(one.ranking.tolist(), start=1)}
    return (f"{ranks[place]}: {one.influences[place]:+.3g}" for place in places.tolist())
