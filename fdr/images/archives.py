"""Entries, links and the source of archives of image files."""

from __future__ import annotations

import bisect
import functools
import itertools
import os
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np

from fdr.errors import InputError
from fdr.images.file_parts import ArrayInfo, FileSource
from fdr.images.files import sorted_out

REPEATED = "under a name that a later entry has again"
DEAD_LINKS = "links that lead outside of the archive or to nothing"
_MAX_LINKS = 40
"""Links that one path may lead through; a longer chain counts as a circle."""

Entry = TypeVar("Entry")


class Entries(Generic[Entry]):
    """The files and links of an archive by normalised name; of entries of one name the last, as after extraction."""

    def __init__(self) -> None:
        self.files: dict[str, Entry] = {}
        self._links: dict[str, str] = {}
        self.left_out: Counter[str] = Counter()
        """The number of images among the entries that are not measured, by reason."""

    def add_file(self, name: str, entry: Entry) -> None:
        self._replace(name)
        self.files[name] = entry

    def add_link(self, name: str, target: str) -> None:
        """A link to `target`, a path from the top of the archive."""
        self._replace(name)
        self._links[name] = target

    def leave_out(self, reason: str, names: Sequence[str]) -> None:
        """Count the images among `names`."""
        if images := len(sorted_out(names)[0]):
            self.left_out[reason] += images

    def _replace(self, name: str) -> None:
        if self.files.pop(name, None) is not None or self._links.pop(name, None) is not None:
            self.leave_out(REPEATED, [name])

    def followed(self) -> dict[str, Entry]:
        """What the links lead to, by the name of the link. Links that lead outside or to nothing are left out."""
        found, dead = follow_links(self.files, self._links)
        self.leave_out(DEAD_LINKS, dead)
        return found


class ArchiveSource(FileSource):
    """Image files in archives. The names of the images are part of the digest: they are a choice among all entries."""

    def _chosen(self) -> bytes:
        return b"".join(os.fsencode(name) + b"\0" for name in self.ids)


def column_of(count: int) -> ArrayInfo:
    """The header of `count` image files."""
    return ArrayInfo("", (count,), np.dtype(object))


def follow_links(files: Mapping[str, Entry], links: Mapping[str, str]) -> tuple[dict[str, Entry], list[str]]:
    """The files that links in an archive lead to, by the name of the link, and the links that lead outside or to
    nothing.

    Names are normalised, and targets are paths from the top of the archive. A link to a folder gives all files in it.
    """
    found: dict[str, Entry] = {}
    dead: list[str] = []
    folders: list[tuple[str, str]] = []
    for link, target in links.items():
        end = _end_of(target, links)
        if end is not None and end in files:
            found[link] = files[end]
        elif end is not None:
            folders.append((link, end))
        else:
            dead.append(link)
    known = {**files, **found}
    names = sorted(known) if folders else []
    for link, end in folders:
        prefix = f"{end}/" if end != "." else ""
        low = bisect.bisect_left(names, prefix)
        inside = list(itertools.takewhile(functools.partial(_is_below, prefix), names[low:]))
        if not inside:
            dead.append(link)
        elif not link.startswith(prefix):  # else it leads to a folder around itself
            found |= {f"{link}/{name[len(prefix) :]}": known[name] for name in inside}
        if len(found) > 100 * len(files) + 1000:
            raise InputError("The links of the archive repeat its files more than a hundred times; extract it.")
    return found, dead


def _is_below(prefix: str, name: str) -> bool:
    return name.startswith(prefix)


def _end_of(target: str, links: Mapping[str, str]) -> str | None:
    """The path after following every link in it; None if the links form a circle or lead outside of the archive."""
    for _ in range(_MAX_LINKS):
        target = posixpath.normpath(target)
        if target.startswith(("/", "..")):
            return None
        parts = target.split("/")
        above = next((n for n in range(1, len(parts) + 1) if "/".join(parts[:n]) in links), None)
        if above is None:
            return target
        target = "/".join([links["/".join(parts[:above])], *parts[above:]])
    return None
