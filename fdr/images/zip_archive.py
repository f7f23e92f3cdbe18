"""A zip archive of image files."""

from __future__ import annotations

import functools
import posixpath
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fdr.errors import InputError
from fdr.images.base import ImageOptions, ImageSource, Loader
from fdr.images.decode import Picture, UnreadableImage, decode
from fdr.images.digests import archive_digest
from fdr.images.files import DEAD_LINKS, REPEATED, Place, check_file_bytes, follow_links, no_images, sorted_out
from fdr.images.labels import MAX_JSON_BYTES, Labels, labels_of_files
from fdr.runtime import DAMAGE, Group, Progress

_MAX_LINK_BYTES = 4096


def open_zip(place: Place, options: ImageOptions) -> ZipSource:
    """The source for a zip archive; raises `InputError` when it holds no images or is damaged."""
    path = place.path
    try:
        archive = zipfile.ZipFile(path)
        members, left_out = _members(archive)
        names, others = sorted_out(sorted(members))
        labels = labels_of_files(place.name, names, members, lambda name: _text(archive, members[name]))
    except DAMAGE as error:
        raise InputError(f"{path} is not a complete zip file: it is truncated or damaged ({error}).") from error
    if not names:
        raise no_images(str(path), members)
    if any(members[name].flag_bits & 1 for name in names):
        raise InputError(f"{path} is encrypted; extract it and give the folder.")
    return ZipSource(place, options, archive, {name: members[name] for name in names}, labels, left_out | others)


class ZipSource(ImageSource):
    """Image files in a zip archive, sorted by name; labels as of a folder."""

    kind = "zip"

    def __init__(
        self,
        place: Place,
        options: ImageOptions,
        archive: zipfile.ZipFile,
        members: Mapping[str, zipfile.ZipInfo],
        labels: Labels | None,
        left_out: Mapping[str, int],
    ) -> None:
        super().__init__(place.name, options, list(members), labels, left_out)
        self._path, self._archive, self._members = place.path, archive, members

    def _loaders(self, start: int, stop: int | None) -> Iterator[Loader]:
        for name in self.ids[start:stop]:
            yield functools.partial(self._load, self._members[name])

    def _load(self, member: zipfile.ZipInfo) -> Picture:
        check_file_bytes(member.file_size, self.options.max_pixels)
        try:
            data = self._archive.read(member)  # a ZipFile locks its file: safe in threads
        except DAMAGE as error:
            raise UnreadableImage(f"its entry in the archive is damaged ({error})") from error
        return decode(data, self.options.alpha, self.options.max_pixels)

    def _content_digest(self, group: Group, progress: Progress) -> str:
        return archive_digest([self._path], self.rows, self.ids, group, progress)

    def _files(self, start: int = 0, stop: int | None = None) -> Sequence[Path]:
        return [self._path]


def _members(archive: zipfile.ZipFile) -> tuple[dict[str, zipfile.ZipInfo], dict[str, int]]:
    """The files by normalised name, links followed; how many entries a later one replaces, and links to nothing."""
    entries = [member for member in archive.infolist() if not member.is_dir()]
    last = {posixpath.normpath(member.filename): member for member in entries}
    links = {name: member for name, member in last.items() if stat.S_ISLNK(member.external_attr >> 16)}
    files = {name: member for name, member in last.items() if name not in links}
    targets = {
        name: posixpath.join(posixpath.dirname(name), _text(archive, member, _MAX_LINK_BYTES).decode())
        for name, member in links.items()
    }
    followed, dead = follow_links(files, targets)
    left_out = {REPEATED: len(entries) - len(last), DEAD_LINKS: len(sorted_out(dead)[0])}
    return files | followed, {key: many for key, many in left_out.items() if many}


def _text(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int = MAX_JSON_BYTES) -> bytes:
    if member.file_size > limit:
        raise zipfile.BadZipFile(f"{member.filename} has {member.file_size} bytes")
    return archive.read(member)
