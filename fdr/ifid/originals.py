"""The original of every reconstruction: images of two sets are matched by name, or by position."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

import numpy as np

from fdr.errors import InputError
from fdr.images import ImageSource

SHOWN = 3
"""Names that an error lists."""


class Originals(Protocol):
    """The originals of some reconstructions: reconstruction i belongs to image `rows[i]` of `source`."""

    @property
    def source(self) -> ImageSource:
        """The originals."""

    @property
    def rows(self) -> np.ndarray:
        """int64 [n]: the row of the original of each reconstruction."""


@dataclass(frozen=True)
class Matched:
    """Originals that were matched with reconstructions."""

    source: ImageSource
    rows: np.ndarray
    by: str
    """"name" or "position"."""

    @property
    def digest(self) -> str:
        """sha256 of the rows, which decide the scores of reconstructions that are sorted otherwise."""
        return hashlib.sha256(np.ascontiguousarray(self.rows, "<i8").tobytes()).hexdigest()


def match(originals: ImageSource, reconstructions: ImageSource) -> Matched:
    """Find the original of each reconstruction, one to one.

    Files match by their path in the folder or archive without its ending, so that "a/1.png" is the reconstruction of
    "a/1.jpg". Rows of arrays have no names, and match by position. Raises `InputError` unless every image of either set
    has exactly one partner.
    """
    for source in (originals, reconstructions):
        if source.rows is None or not source.is_repeatable:
            raise InputError(
                f"{source.name} can be read only once and has no names; give a folder, an archive or an array."
            )
    if _has_no_names(originals) or _has_no_names(reconstructions):
        if len(originals) != len(reconstructions):
            raise InputError(
                f"{originals.name} has {len(originals)} images and {reconstructions.name} {len(reconstructions)}; rows "
                "of arrays are matched by position, so that both need the same number, in the same order."
            )
        return Matched(originals, np.arange(len(originals)), "position")
    own, others = _names(originals), _names(reconstructions)
    _check_partners(originals, own, reconstructions, others)
    places = {name: row for row, name in enumerate(own)}
    return Matched(originals, np.array([places[name] for name in others], np.int64), "name")


def _has_no_names(source: ImageSource) -> bool:
    """True for rows of arrays, which are called "arr_0[0]", "arr_0[1]", ..."""
    return re.search(r"\[\d+\]$", source.ids[0]) is not None


def _names(source: ImageSource) -> list[str]:
    """The names by which the images of a set are matched."""
    return [PurePosixPath(name).with_suffix("").as_posix() for name in source.ids]


def _check_partners(
    originals: ImageSource, own: Sequence[str], reconstructions: ImageSource, others: Sequence[str]
) -> None:
    for source, names in ((originals, own), (reconstructions, others)):
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise InputError(
                f"{source.name} has several images that are called {repeated[0]!r} but for their ending; keep one of "
                "them, as originals and reconstructions are matched by name."
            )
    for source, other, missing in (
        (reconstructions, originals, sorted(set(own) - set(others))),
        (originals, reconstructions, sorted(set(others) - set(own))),
    ):
        if missing:
            listed = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
            raise InputError(
                f"{source.name} lacks {len(missing)} of the {len(other)} images of {other.name}, which are matched by "
                f"name ({listed}); give every image the name of its original, or select the same ones on both sides."
            )


def first_size(images: ImageSource) -> tuple[int, int]:
    """(H, W) of the first image that decodes."""
    for batch in images.batches(1, 0):
        for image in batch.images:
            return image.shape[1], image.shape[2]
    raise InputError(f"{images.name} has no image that decodes.")
