"""Tar archives of image files, one or many: WebDataset shards, plain (read at offsets) or compressed (streamed)."""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import itertools
import lzma
import posixpath
import tarfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fdr.errors import InputError, unknown, warn
from fdr.images.archives import ArchiveSource, Entries, column_of
from fdr.images.decode import UnreadableImage, check_file_bytes
from fdr.images.file_parts import FilePart, OffsetReader, Read, StreamedPart, refuse_damage
from fdr.images.files import Place, no_images, sorted_out
from fdr.images.labels import DATASET_JSON, MAX_JSON_BYTES, Labels, labels_of_files
from fdr.images.options import ImageOptions

_COMPRESSED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
"""First bytes of a compressed file -> the function that decompresses all its streams, one after the other."""
_MAX_LABEL_BYTES = 64
"""A longer .cls entry is not read as a class number."""
_SPECIAL = "special entries (sparse files, devices)"


@dataclass(frozen=True)
class _Member:
    shard: int
    name: str
    """As the archive has it, or that of the link."""
    offset: int
    size: int


@dataclass
class _Table:
    """What one archive holds."""

    entries: Entries[_Member] = field(default_factory=Entries)
    classes: dict[str, int] = field(default_factory=dict)
    """Numbers of `.cls` entries by WebDataset's key."""
    texts: dict[str, bytes] = field(default_factory=dict)
    """Files of labels."""


def open_tar(place: Place, options: ImageOptions) -> ArchiveSource:
    """The source for a tar archive, or for all shards of a brace range such as `train-{000..012}.tar`.

    A choice (`x.tar:jpg`) is the extension of the images, for archives with several images of one sample.
    """
    tables = [_read_table(shard, number) for number, shard in enumerate(place.files)]
    left_out: Counter[str] = Counter()
    members: list[_Member] = []
    for table in tables:
        left_out.update(table.entries.left_out)
    for table in tables:
        names, others = sorted_out(table.entries.files)
        left_out.update(others)
        members += sorted((table.entries.files[name] for name in names), key=lambda member: member.offset)
    if not members:
        raise no_images(str(place.path), [name for table in tables for name in table.entries.files])
    members = _one_a_sample(place, members, options)
    several = len(place.files) > 1
    ids = [f"{place.files[member.shard].name}/{member.name}" if several else member.name for member in members]
    parts = [
        _part(place.files[shard], list(group), options.max_pixels)
        for shard, group in itertools.groupby(members, key=lambda member: member.shard)
    ]
    return ArchiveSource("tar", place, options, parts, ids, _labels(place, tables, members), dict(left_out))


def _part(path: Path, members: Sequence[_Member], max_pixels: int) -> FilePart:
    kind = CompressedTar if _decompressor(path) else PlainTar
    return kind(path, column_of(len(members)), None, members, max_pixels)


@dataclass
class PlainTar(FilePart):
    """Image files in a tar archive, each read at its offset. The archive is open while it is read."""

    members: Sequence[_Member]
    max_pixels: int

    def reads(self, rows: np.ndarray) -> Generator[Read]:
        file = OffsetReader(self.path)
        for row in rows:
            yield functools.partial(self._read, file, self.members[row])

    def _read(self, file: OffsetReader, member: _Member) -> bytes:
        check_file_bytes(member.size, self.max_pixels)
        data = file.read(member.offset, member.size)
        if len(data) < member.size:
            raise UnreadableImage(f"it is truncated: {len(data)} of {member.size} bytes are there")
        return data


@dataclass
class CompressedTar(StreamedPart):
    """Image files in a compressed tar archive; a link comes with the entry that it leads to."""

    kind = "tar"
    members: Sequence[_Member]
    max_pixels: int

    def stream(self, rows: np.ndarray) -> Iterator[Any]:
        """One pass over the archive, whose offsets count inflated bytes, as far as the last image."""
        wanted = Counter(self.members[row].offset for row in rows)
        with _opened(self.path) as archive, contextlib.suppress(_EndOfTar):
            for entry in archive:
                if many := wanted.pop(entry.offset_data, 0):
                    yield from itertools.repeat(self._content(archive, entry), many)
                if not wanted:
                    return

    def _content(self, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes | UnreadableImage:
        try:
            check_file_bytes(entry.size, self.max_pixels)
        except UnreadableImage as error:
            return error
        file = archive.extractfile(entry) if entry.size > 0 else None
        return b"" if file is None else file.read()


class _EndOfTar(Exception):
    """The bytes that follow are not part of a tar."""


class _Entry(tarfile.TarInfo):
    """An entry that distinguishes the end of an archive, which another may follow, from damage.

    The module tarfile takes both for the end.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Entry:
        try:
            entry = super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # a block of zeros
            archive.has_end = True  # type: ignore[attr-defined]
            raise
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            if getattr(archive, "has_end", False):
                raise _EndOfTar from error
            raise tarfile.ReadError(f"the header at byte {archive.offset} is damaged") from error
        archive.has_end = False  # type: ignore[attr-defined]
        return entry


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    """The archive, for reading in order. Archives that were appended with `cat` follow, and checksums are checked."""
    opened = _decompressor(path)
    file = open(path, "rb") if opened is None else opened(path)  # noqa: SIM115
    with (
        file,
        tarfile.open(fileobj=file, mode="r:" if opened is None else "r|", tarinfo=_Entry, ignore_zeros=True) as tar,
    ):
        yield tar


def _read_table(path: Path, shard: int) -> _Table:
    table = _Table()
    has_end = True
    with refuse_damage(path, "tar"), _opened(path) as archive:
        try:
            for entry in archive:
                _add(archive, entry, shard, table)
            has_end = getattr(archive, "has_end", False)
        except _EndOfTar:
            warn(f"{path} has bytes behind its end that are no tar file.")
    files = table.entries.files
    files |= {
        name: _Member(shard, name, target.offset, target.size) for name, target in table.entries.followed().items()
    }
    if not has_end:
        number = len(sorted_out(files)[0])
        warn(f"{path} has no end marker and may be truncated; {number} image(s) were found.")
    return table


def _add(archive: tarfile.TarFile, entry: tarfile.TarInfo, shard: int, table: _Table) -> None:
    name = posixpath.normpath(entry.name)
    if entry.isdir():
        return
    if entry.issym() or entry.islnk():
        above = posixpath.dirname(name) if entry.issym() else ""
        table.entries.add_link(name, posixpath.join(above, entry.linkname))
    elif not entry.isfile() or entry.sparse is not None:
        table.entries.leave_out(_SPECIAL, [name])
    else:
        table.entries.add_file(name, _Member(shard, entry.name, entry.offset_data, entry.size))
        _add_label(archive, entry, name, table)


def _add_label(archive: tarfile.TarFile, entry: tarfile.TarInfo, name: str, table: _Table) -> None:
    is_class = name.endswith(".cls")
    is_list = posixpath.basename(name) == DATASET_JSON
    if not (is_class or is_list) or entry.size > (_MAX_LABEL_BYTES if is_class else MAX_JSON_BYTES):
        return
    file = archive.extractfile(entry)
    text = file.read() if file else b""
    if is_list:
        table.texts[name] = text
    elif text.strip().isdigit():
        table.classes[_key(name)] = int(text)


def _labels(place: Place, tables: Sequence[_Table], members: Sequence[_Member]) -> Labels | None:
    classes = [tables[member.shard].classes.get(_key(posixpath.normpath(member.name))) for member in members]
    if all(number is not None for number in classes):
        return Labels(np.array(classes, dtype=np.int64), None, ".cls entries")
    if known := sum(number is not None for number in classes):
        warn(f"{place.name}: {known} of {len(members)} images have a .cls entry, so none is used.")
        return None
    texts = {name: text for table in tables for name, text in table.texts.items()}
    return labels_of_files(
        place.name, [posixpath.normpath(member.name) for member in members], texts, texts.__getitem__
    )


def _one_a_sample(place: Place, members: list[_Member], options: ImageOptions) -> list[_Member]:
    """One image for each WebDataset key: the one with the chosen extension.

    Raises `InputError` if a choice is needed.
    """
    if place.choice is not None:
        chosen = [member for member in members if _extension(member.name) == place.choice.lstrip(".").lower()]
        if not chosen:
            raise unknown(f"extension in {place.path.name}", place.choice, {_extension(m.name) for m in members})
        members = chosen
    samples = Counter((member.shard, _sample(member.name)) for member in members)
    shared = [(shard, name) for (shard, name), many in samples.items() if many > 1]
    if not shared:
        return members
    first = [member.name for member in members if (member.shard, _sample(member.name)) == shared[0]]
    found = f"{place.name} has several images under one key in {len(shared)} cases ({', '.join(first[:3])})"
    if len(shared) > options.max_bad * len(samples):
        raise InputError(f"{found}; choose those of one extension, as in {place.name}:{_extension(first[0])}.")
    warn(f"{found}; all of them are measured.")
    return members


def _decompressor(path: Path) -> Callable[..., Any] | None:
    """The function that opens a compressed file; None for a plain one."""
    with path.open("rb") as file:
        start = file.read(6)
    return next((opened for magic, opened in _COMPRESSED.items() if start.startswith(magic)), None)


def _key(name: str) -> str:
    """WebDataset's key: the path up to the first dot of its last part."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _sample(name: str) -> str:
    """Like `_key`, but a dot before a digit is part of the name, so that img_0.5.png and img_0.7.png are two
    samples."""
    return name.removesuffix(_extension(name, is_lower=False))


def _extension(name: str, is_lower: bool = True) -> str:
    """ "seg.png" of "s/0001.seg.png", "png" of "img_0.5.png" """
    parts = posixpath.basename(name).split(".")[1:]
    numbers = [position for position, part in enumerate(parts) if part[:1].isdigit()]
    extension = ".".join(parts[numbers[-1] + 1 if numbers else 0 :])
    return extension.lower() if is_lower else extension
