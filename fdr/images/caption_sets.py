"""Sets of captions that are known by name: which captions of a published file belong to an evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from fdr.errors import InputError, unknown, warn
from fdr.images.captions import Captions, read_captions


@dataclass(frozen=True)
class CaptionSet:
    """Captions that are chosen from a published file."""

    title: str
    count: int
    """The number of captions in the set."""
    total: int
    """The number of images that the published file has captions of."""
    choose: Callable[[Captions, CaptionSet, int], Captions]
    """`choose(all, set, seed)`: the captions of the set. Raises `InputError` for another file."""


def select_captions(prompts: str | os.PathLike[str], seed: int = 0) -> Captions:
    """The captions of a file, or of a named set of a file: "coco-30k:captions_val2014.json".

    `seed` decides which captions of COCO are drawn; numbers of one seed are those of the same captions everywhere.
    Raises `InputError` as `read_captions` does, and for a file that is not that of the set. Warns of one that differs.
    """
    name, _, file = os.fspath(prompts).partition(":")
    if not file or not _is_name(name):
        return read_captions(prompts)
    if name not in CAPTION_SETS:
        raise unknown("set of captions", name, CAPTION_SETS, f"Asked for by {os.fspath(prompts)!r}.")
    return CAPTION_SETS[name].choose(read_captions(file), CAPTION_SETS[name], seed)


def _is_name(name: str) -> bool:
    """False for a path with a colon, such as "C:/captions.csv"."""
    return len(name) > 1 and "/" not in name and "\\" not in name and "." not in name


def _one_of_each_image(captions: Captions, wanted: CaptionSet, seed: int) -> Captions:
    """One caption, drawn at random, of each of `wanted.count` images that are drawn at random, in the order of the
    images' names. The draw is the same on every platform, and that of fewer images would be a part of it.
    """
    if captions.images is None:
        raise InputError(
            f"{captions.source} does not name the images of its captions, as COCO's captions_val2014.json does; use "
            "that file, or give your own list of captions without a name before it."
        )
    rows: dict[str, list[int]] = {}
    for row, image in enumerate(captions.images):
        rows.setdefault(image, []).append(row)
    if len(rows) < wanted.count:
        raise InputError(
            f"{captions.source} has captions of {len(rows):,} images, fewer than the {wanted.count:,} of "
            f"{wanted.title}."
        )
    _warn_of_total(captions, wanted, len(rows))
    images = sorted(rows)
    draws = np.random.PCG64(seed).random_raw(2 * len(images))
    chosen = np.sort(np.argsort(draws[: len(images)], kind="stable")[: wanted.count])
    picks = {images[i]: rows[images[i]][int(draws[len(images) + i]) % len(rows[images[i]])] for i in chosen.tolist()}
    found = captions.take(list(picks.values()))
    names = [PurePosixPath(image).stem for image in picks]
    return Captions(captions.source, found.prompts, names, None, True, list(picks))


def _all(captions: Captions, wanted: CaptionSet, seed: int) -> Captions:
    _warn_of_total(captions, wanted, len(captions))
    return captions


def _warn_of_total(captions: Captions, wanted: CaptionSet, total: int) -> None:
    if total != wanted.total:
        warn(
            f"{captions.source} has captions of {total:,} images, and {wanted.title} are chosen from {wanted.total:,}: "
            "numbers are not comparable with published ones."
        )


CAPTION_SETS = {
    "coco-30k": CaptionSet("the captions of COCO-30k (captions_val2014.json)", 30_000, 40_504, _one_of_each_image),
    "mjhq-30k": CaptionSet("the prompts of MJHQ-30K (meta_data.json)", 30_000, 30_000, _all),
}
