"""Captions: the prompts that images were made from, one for each image, and how they are matched with images."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from fdr.errors import InputError, as_utf8
from fdr.images.caption_files import Records, read_records
from fdr.runtime import as_path

SHOWN = 3
"""Names that an error lists."""
MAX_CHARACTERS = 20_000
"""A longer prompt is refused. Raising it lets a file with one endless word keep a tokenizer busy for hours."""


@dataclass(frozen=True)
class Captions:
    """Prompts, each for one image. Two images may have the same prompt, and no two have the same name."""

    source: str
    """The file, for errors and reports."""
    prompts: list[str]
    names: list[str]
    """The name of the image of each prompt: a file name or an id. Positions, "0", "1", ..., if `has_names` is false."""
    categories: list[str] | None = None
    """The category of each prompt; None if they have none."""
    has_names: bool = True
    """False if the file names no images, so that prompts belong to images by their order alone."""
    images: list[str] | None = None
    """The file name of the real image of each prompt; None if the file does not say it."""

    def __post_init__(self) -> None:
        _check(self)

    def __len__(self) -> int:
        return len(self.prompts)

    @cached_property
    def digest(self) -> str:
        """sha256 of names, prompts and categories, in their order."""
        content = json.dumps([self.names, self.prompts, self.categories])
        return hashlib.sha256(content.encode()).hexdigest()

    def to_csv(self) -> str:
        """The captions as CSV with a header, which `read_captions` reads as the same captions."""
        columns = {
            **({"file_name": self.names} if self.has_names else {}),
            "prompt": self.prompts,
            **({} if self.categories is None else {"category": self.categories}),
            **({} if self.images is None else {"real_image": self.images}),
        }
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        return buffer.getvalue()

    def take(self, rows: Sequence[int]) -> Captions:
        """The captions at these positions, in this order. Prompts without names are numbered anew."""
        prompts = [self.prompts[row] for row in rows]
        names = [self.names[row] for row in rows] if self.has_names else list(map(str, range(len(prompts))))
        categories = None if self.categories is None else [self.categories[row] for row in rows]
        images = None if self.images is None else [self.images[row] for row in rows]
        return Captions(self.source, prompts, names, categories, self.has_names, images)

    def rows_of(self, ids: Sequence[str], source: str) -> list[int]:
        """The position of the prompt of each image of the set `source`, whose images are called `ids`.

        Names match by the path without its ending, or by the file name alone where that is unique, so that
        "animals/3.png" has the prompt of "3.jpg"; zeros before a number are ignored. Without names on either side the
        order decides: that of the rows, or of the numbers in file names, so that 2.png comes before 10.png. Raises
        `InputError` for images without a prompt, and for prompts without an image.
        """
        if not self.has_names or all(map(_is_row, ids)):
            self._check_counts(len(ids), source)
            return _ranks(ids)
        places = _by_name(self.names, self.source)
        found = [_place(name, places) for name in ids]
        if missing := [name for name, row in zip(ids, found, strict=True) if row is None]:
            advice = f"name each image like its prompt, such as {self.names[0]}"
            if self.images is not None and _key(missing[0]) in map(_key, self.images):
                advice = f"select one caption of each image, with coco-30k:{self.source}"
            raise InputError(
                f"{len(missing)} of {len(ids)} images of {source} have no prompt in {self.source} ({_listed(missing)})"
                f"; {advice}."
            )
        rows = [row for row in found if row is not None]
        twice = next((row for row, count in Counter(rows).items() if count > 1), None)
        if twice is not None:
            raise InputError(
                f"{source} has several images for the prompt called {self.names[twice]!r} of {self.source}, and each "
                "prompt belongs to one image; give every image a prompt of its own name."
            )
        if alone := [self.names[row] for row in sorted(set(range(len(self))) - set(rows))]:
            raise InputError(
                f"{len(alone)} of {len(self)} prompts of {self.source} have no image in {source} ({_listed(alone)}); "
                "make the missing images, or leave these prompts out of the file."
            )
        return rows

    def _check_counts(self, count: int, source: str) -> None:
        if count != len(self):
            raise InputError(
                f"{self.source} has {len(self)} prompts and {source} {count} images, which are matched by their order; "
                "give one prompt for each image, or names on both sides."
            )


def read_captions(path: str | os.PathLike[str]) -> Captions:
    """The captions of a file: JSON lines, CSV or TSV with a header, text with one prompt a line, a JSON list, COCO's
    captions (captions_val2014.json), or the meta_data.json of MJHQ-30K.

    A record has its prompt as `prompt`, `caption` or `text`, and perhaps the name of its image as `file_name`, `id` or
    `image_id`, and a `category`. White space around a prompt is removed. COCO's captions are in the order of their ids
    and are called after them. Raises `InputError` for a field that is missing or wrong, an empty prompt, and a name
    that is there twice.
    """
    file = as_path(path, "the captions")
    found: Records = read_records(file)
    names = found.names if found.names is not None else list(map(str, range(len(found.prompts))))
    return Captions(str(file), found.prompts, names, found.categories, found.names is not None, found.images)


def _check(captions: Captions) -> None:
    if not captions.prompts:
        raise InputError(f"{captions.source} has no prompts.")
    empty = [name for name, prompt in zip(captions.names, captions.prompts, strict=True) if not prompt.strip()]
    if empty:
        raise InputError(
            f"{len(empty)} of {len(captions)} prompts of {captions.source} are empty ({_listed(empty)}); write them, "
            "or remove these records."
        )
    for name, prompt in zip(captions.names, captions.prompts, strict=True):
        if len(prompt) > MAX_CHARACTERS or as_utf8(prompt) != prompt:
            found = f"has {len(prompt):,} characters" if len(prompt) > MAX_CHARACTERS else "is no Unicode text"
            raise InputError(
                f"The prompt {name!r} of {captions.source} {found}; expected a text of up to {MAX_CHARACTERS:,} "
                "characters."
            )
    twice = [name for name, count in Counter(captions.names).items() if count > 1]
    if twice:
        raise InputError(
            f"{captions.source} has several prompts for each of {len(twice)} names ({_listed(twice)}); keep one prompt "
            "for each image."
        )


def _is_row(name: str) -> bool:
    """True for the row of an array or a made sample, "arr_0[7]", which has no name of its own."""
    head, bracket, number = name.rpartition("[")
    return bool(head and bracket) and number.endswith("]") and number[:-1].isdigit()


def _by_name(names: Sequence[str], source: str) -> dict[str, int]:
    """The position of each name without its ending, and of each last part of a path that is unique."""
    whole = [_key(name) for name in names]
    twice = next((name for name, count in Counter(whole).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"{source} has several names that are {twice!r} but for their ending; keep one of them.")
    last = [name.rpartition("/")[2] for name in whole]
    times = Counter(last)
    short = {name: row for row, name in enumerate(last) if times[name] == 1}
    return short | {name: row for row, name in enumerate(whole)}


def _ranks(ids: Sequence[str]) -> list[int]:
    """The place of each id in the order of its parts, where numbers count as numbers."""

    def parts(row: int) -> list[tuple[int, int, str]]:
        pieces = re.findall(r"\d+|\D+", ids[row])
        return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces]

    ranks = [0] * len(ids)
    for rank, row in enumerate(sorted(range(len(ids)), key=parts)):
        ranks[row] = rank
    return ranks


def _place(name: str, places: dict[str, int]) -> int | None:
    whole = _key(name)
    return places.get(whole, places.get(whole.rpartition("/")[2]))


def _key(name: str) -> str:
    """The name without its ending and without zeros before a number."""
    bare = PurePosixPath(name_without_ending(name))
    return (bare.with_name(str(int(bare.name))) if bare.name.isdecimal() else bare).as_posix()


def name_without_ending(name: str) -> str:
    """The name, with / between its parts, without the ending of an image file; other dots belong to it."""
    from fdr.images.decode import SUFFIXES

    path = PurePosixPath(name.replace("\\", "/"))
    return (path.with_suffix("") if path.suffix.lower() in SUFFIXES else path).as_posix()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
