"""Names of files: patterns and ranges, numbered files, which of them are images, and which are left out."""

from __future__ import annotations

import glob
import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fdr.errors import InputError
from fdr.images.decode import SUFFIXES, UNREAD
from fdr.images.registry import PATH_KINDS

THUMBNAILS = frozenset(("thumbs", "thumbnails", ".thumbs", ".thumbnails", "@eadir"))
"""Folders in which systems and tools keep small copies."""
HIDDEN = "in hidden files and folders"
MAX_SHARDS = 1_000_000
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
"""The range in "x-{000..012}.tar"."""


@dataclass(frozen=True)
class Place:
    """A path that a user typed: its files, and the part of them that is chosen (`x_train` of `k.npz:x_train`)."""

    path: Path
    files: tuple[Path, ...]
    choice: str | None = None

    @property
    def name(self) -> str:
        """The name of the images in tables."""
        above = max(0, len(self.root.parts) - 1) if glob.has_magic(str(self.path)) else -1
        name = "/".join(self.path.parts[above:]) or self.path.resolve().name or str(self.path)
        return name if self.choice is None else f"{name}:{self.choice}"

    @property
    def root(self) -> Path:
        """The folder in which a pattern looks for files; for a plain path, its folder."""
        return Path(*itertools.takewhile(lambda part: not names_several(part), self.path.parent.parts))


def names_several(text: str) -> bool:
    """True for a pattern ("*.png") and for a range in braces ("{0..3}")."""
    return glob.has_magic(text) or BRACES.search(text) is not None


def matches(pattern: Path) -> tuple[Path, ...]:
    """The files that match a pattern such as "runs/**/*.png": images sorted by path, other files by number.

    Raises `InputError` if only folders match.
    """
    found = [Path(name) for one in expand_braces(pattern) for name in glob.iglob(str(one), recursive=True)]
    files = sorted({path for path in found if path.is_file()}, key=lambda path: path.as_posix())
    if found and not files:
        raise InputError(f"{pattern} stands for folders ({min(found)}, ...); give one folder, or a pattern of files.")
    is_images = any(path.suffix.lower() in SUFFIXES for path in files)
    return tuple(files if is_images else sorted(files, key=lambda path: natural_key(path.as_posix())))


def expand_braces(path: Path) -> tuple[Path, ...]:
    """The files of a range: x-{08..10}.tar is x-08.tar, x-09.tar, x-10.tar. Several ranges give all combinations."""
    text = str(path)
    ranges = []
    if math.prod(1 + abs(int(high) - int(low)) for low, high in BRACES.findall(text)) > MAX_SHARDS:
        raise InputError(f"{path.name} stands for more than {MAX_SHARDS:,} files.")
    for low, high in BRACES.findall(text):
        if int(low) > int(high):
            raise InputError(f"{path.name} counts down from {low} to {high}; write the smaller number first.")
        width = len(low) if low.startswith("0") else 0
        ranges.append([str(number).zfill(width) for number in range(int(low), int(high) + 1)])
    parts = BRACES.sub("\0", text).split("\0")
    return tuple(
        Path("".join(itertools.chain.from_iterable(zip(parts, (*numbers, ""), strict=True))))
        for numbers in itertools.product(*ranges)
    )


def natural_key(name: str) -> list[tuple[int, str]]:
    """A key for sorting that puts rank10 behind rank9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def numbered_shards(where: str, names: Sequence[str]) -> list[str]:
    """The names in the order of their numbers.

    Raises `InputError` unless they differ in one number only, which counts from 0 or 1 without a gap: other files of
    arrays in a folder may be several sets.
    """
    ordered = sorted(names, key=natural_key)
    parts = [re.split(r"([0-9]+)", name) for name in ordered]
    columns = [set(column) for column in zip(*parts, strict=False)]
    differing = [number for number, column in enumerate(columns) if len(column) > 1]
    if len({len(part) for part in parts}) == 1 and len(differing) == 1 and differing[0] % 2:
        numbers = [int(part[differing[0]]) for part in parts]
        if numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            return ordered
        last = numbers[-1]
        if numbers[0] in (0, 1) and len(set(numbers)) == len(numbers) and last < 2 * len(numbers):
            missing = next(number for number in range(last) if number >= numbers[0] and number not in numbers)
            raise InputError(f"{where} holds numbered files up to {ordered[-1]}, but number {missing} is not there.")
    if len(names) == 1:
        return ordered
    listed = ", ".join(ordered[:3]) + (", ..." if len(names) > 3 else "")
    raise InputError(
        f"{where} holds {len(names)} files of arrays ({listed}) that "
        "are not numbered from 0 or 1 as parts of one set; give one of them, or a range such as rank{0..3}.npz."
    )


def _container(name: str, may_be_weights: bool = True) -> str | None:
    """The suffix of a file that can be a set of images of its own; None for any other file."""
    kinds = (kind for kind in PATH_KINDS if may_be_weights or not kind.may_be_weights)
    return next((suffix for kind in kinds for suffix in kind.suffixes if name.lower().endswith(suffix)), None)


def sorted_out(names: Iterable[str]) -> tuple[list[str], dict[str, int]]:
    """The images among these POSIX paths, and the number of other files that are left out, by reason.

    Files that macOS adds (__MACOSX, ._name) are never images and are not counted.
    """
    images: list[str] = []
    thumbnails: list[str] = []
    left_out: Counter[str] = Counter()
    for name in names:
        suffix = os.path.splitext(name)[1].lower()
        folders = [part for part in name.split("/") if part not in ("", ".", "..")]
        aside = next((part for part in folders if part.startswith(".") or part.lower() in THUMBNAILS), None)
        if "__MACOSX" in folders or folders[-1].startswith("._"):
            continue
        if suffix not in SUFFIXES and suffix not in UNREAD:
            if aside is None and (container := _container(name, may_be_weights=False)):
                left_out[container] += 1
        elif aside is not None:
            is_thumbnail = aside.lower() in THUMBNAILS
            left_out[f"{aside}/" if is_thumbnail else HIDDEN] += 1
            thumbnails += [name] if is_thumbnail and suffix in SUFFIXES else []
        elif suffix in UNREAD:
            left_out[suffix] += 1
        else:
            images.append(name)
    if thumbnails and not images:  # then the small copies are the set
        return thumbnails, {key: many for key, many in left_out.items() if not key.endswith("/")}
    return images, dict(left_out)


def lost_images(left_out: Mapping[str, int]) -> int:
    """The number of files left out that should have been images of the set, which thumbnails and hidden files are
    not."""
    return sum(many for key, many in left_out.items() if not (_container(key) or key == HIDDEN or key.endswith("/")))


def left_out_text(left_out: Mapping[str, int]) -> str:
    """ "5 .avif (not read), 24 in thumbs/" """
    return ", ".join(f"{many} {_phrase(key)}" for key, many in left_out.items())


def _phrase(key: str) -> str:
    if key in UNREAD:
        return f"{key} (a format that is not read)"
    if _container(key):
        return f"{key} (give the file itself to measure it)"
    return f"in {key} (thumbnails)" if key.endswith("/") else key


def no_images(where: str, names: Iterable[str]) -> InputError:
    """The error for a folder or archive without an image. It says what was expected and what was found."""
    found = Counter(PurePosixPath(name).suffix.lower() for name in names)
    if not found:
        return InputError(f"{where} is empty; expected images ({_looked_for()}).")
    listed = ", ".join(f"{many} {suffix or 'without extension'}" for suffix, many in found.most_common(5))
    container = next(filter(None, map(_container, names)), None)
    hint = f" To use a {container} file, give the file itself." if container else ""
    return InputError(f"{where} holds no images; looked for {_looked_for()} in any folder, found {listed}.{hint}")


def _looked_for() -> str:
    return " ".join(sorted(SUFFIXES))
