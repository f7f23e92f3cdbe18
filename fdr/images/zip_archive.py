"""A zip archive of image files."""

from __future__ import annotations

import posixpath
import stat
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

from fdr.errors import InputError
from fdr.images.archives import ArchiveSource, Entries, column_of
from fdr.images.decode import UnreadableImage, check_file_bytes
from fdr.images.file_parts import StoredPart, refuse_damage
from fdr.images.files import Place, no_images, sorted_out
from fdr.images.labels import MAX_JSON_BYTES, labels_of_files
from fdr.images.options import ImageOptions
from fdr.runtime import DAMAGE

_MAX_LINK_BYTES = 4096
"""The longest target of a link, in bytes; an entry that claims more is damage."""


def open_zip(place: Place, options: ImageOptions) -> ArchiveSource:
    """The source for a zip archive; raises `InputError` when it holds no images or is damaged."""
    path = place.path
    with refuse_damage(path, "zip"):
        archive = zipfile.ZipFile(path)
        entries = _entries(archive)
        files = entries.files | entries.followed()
        names, others = sorted_out(sorted(files))
        labels = labels_of_files(place.name, names, files, lambda name: _text(archive, files[name]))
    if not names:
        raise no_images(str(path), files)
    members = [files[name] for name in names]
    if any(member.flag_bits & 1 for member in members):
        raise InputError(f"{path} is encrypted; extract it and give the folder.")
    part = ZipPart(path, column_of(len(members)), None, archive, members, options.max_pixels)
    return ArchiveSource("zip", place, options, [part], names, labels, {**entries.left_out, **others})


@dataclass
class ZipPart(StoredPart):
    """Image files in a zip archive."""

    archive: zipfile.ZipFile
    members: Sequence[zipfile.ZipInfo]
    max_pixels: int

    def read(self, row: int) -> bytes:
        check_file_bytes(self.members[row].file_size, self.max_pixels)
        try:
            return self.archive.read(self.members[row])  # a ZipFile locks its file: safe in threads
        except DAMAGE as error:
            raise UnreadableImage(f"its entry in the archive is damaged ({error})") from error


def _entries(archive: zipfile.ZipFile) -> Entries[zipfile.ZipInfo]:
    entries = Entries[zipfile.ZipInfo]()
    for member in archive.infolist():
        name = posixpath.normpath(member.filename)
        if member.is_dir():
            continue
        if stat.S_ISLNK(member.external_attr >> 16):
            target = _text(archive, member, _MAX_LINK_BYTES).decode()
            entries.add_link(name, posixpath.join(posixpath.dirname(name), target))
        else:
            entries.add_file(name, member)
    return entries


def _text(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int = MAX_JSON_BYTES) -> bytes:
    if member.file_size > limit:
        raise zipfile.BadZipFile(f"{member.filename} has {member.file_size} bytes")
    return archive.read(member)
