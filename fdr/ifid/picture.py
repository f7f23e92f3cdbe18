"""Originals, reconstructions, neighbours and interpolants side by side, one row for each image."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from fdr.errors import FdrError, warn
from fdr.ifid.decoded import DecodedSource
from fdr.ifid.latents import Latents
from fdr.images import images_at, pixels
from fdr.runtime import memory_for

NUM_ROWS = 8


def try_to_draw(draw: Callable[[], object]) -> None:
    """Draw a picture; a failure is a warning only, so that it costs no result."""
    try:
        with memory_for("the picture", "leave out --picture"):
            draw()
    except FdrError as error:
        warn(f"The picture was not drawn: {error}")


def spread(count: int) -> np.ndarray:
    """Positions of at most `NUM_ROWS` of `count` images, evenly spread, int64."""
    return np.unique(np.linspace(0, count - 1, min(NUM_ROWS, count)).astype(np.int64))


def sheet(queries: Latents, sources: Mapping[str, DecodedSource], places: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of the sheet by title, originals first, each uint8 [len(places), H, W, 3]."""
    columns = {"originals": images_at(queries.source, queries.rows[places])}
    for name, source in sources.items():
        made = [source.decoded(int(place), int(place) + 1)[0].clamp(0, 1) for place in places]
        columns[name] = np.stack([pixels(image) for image in made])
    return columns
