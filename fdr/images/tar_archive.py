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
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fdr.errors import FdrWarning, InputError, unknown
from fdr.images.array_file import OffsetReader
from fdr.images.base import ImageOptions, ImageSource, Loader
from fdr.images.decode import Picture, UnreadableImage
from fdr.images.digests import archive_digest
from fdr.images.files import (
    DEAD_LINKS,
    REPEATED,
    Place,
    check_file_bytes,
    decode_sized,
    follow_links,
    no_images,
    sorted_out,
)
from fdr.images.labels import DATASET_JSON, MAX_JSON_BYTES, Labels, labels_of_files
from fdr.runtime import DAMAGE, Group, Progress, read_ahead

_COMPRESSED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
"""First bytes of a compressed file -> the function that decompresses all its streams, one after the other."""
_MAX_LABEL_BYTES = 64
_AHEAD = 8
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
    """What one archive holds, by normalised name; of entries of one name the last, as after extraction."""

    files: dict[str, _Member] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    """Numbers of `.cls` entries by WebDataset's key."""
    texts: dict[str, bytes] = field(default_factory=dict)
    """Files of labels."""
    left_out: Counter[str] = field(default_factory=Counter)


def open_tar(place: Place, options: ImageOptions) -> TarSource:
    """The source for a tar archive, or for all shards of a brace range such as `train-{000..012}.tar`.

    A choice (`x.tar:jpg`) is the extension of the images, for archives with several images of one sample.
    """
    tables = [_read_table(shard, number) for number, shard in enumerate(place.files)]
    left_out: Counter[str] = sum((table.left_out for table in tables), Counter())
    members: list[_Member] = []
    for table in tables:
        names, others = sorted_out(table.files)
        left_out.update(others)
        members += sorted((table.files[name] for name in names), key=lambda member: member.offset)
    if not members:
        raise no_images(str(place.path), [name for table in tables for name in table.files])
    members = _one_a_sample(place, members, options)
    return TarSource(place, options, members, _labels(place, tables, members), left_out)


class TarSource(ImageSource):
    """Image files in tar archives, in the order of the archives; a link comes with the entry that it leads to."""

    kind = "tar"

    def __init__(
        self,
        place: Place,
        options: ImageOptions,
        members: Sequence[_Member],
        labels: Labels | None,
        left_out: Mapping[str, int],
    ) -> None:
        many = len(place.files) > 1
        ids = [f"{place.files[m.shard].name}/{m.name}" if many else m.name for m in members]
        super().__init__(place.name, options, ids, labels, left_out)
        self._shards, self._members = place.files, members

    def _loaders(self, start: int, stop: int | None) -> Iterator[Loader]:
        assert self.rows is not None
        chosen = [self._members[row] for row in self.rows[start:stop]]
        for shard, members in itertools.groupby(chosen, key=lambda member: member.shard):
            if _is_plain(self._shards[shard]):
                reader = OffsetReader(self._shards[shard])
                yield from (functools.partial(self._load, reader, member) for member in members)
            else:
                yield from read_ahead(self._stream(self._shards[shard], list(members)), _AHEAD)

    def _load(self, reader: OffsetReader, member: _Member) -> Picture:
        check_file_bytes(member.size, self.options.max_pixels)
        return self._decode(reader.read(member.offset, member.size), member)

    def _decode(self, data: bytes, member: _Member) -> Picture:
        return decode_sized(data, member.size, self.options.alpha, self.options.max_pixels)

    def _stream(self, path: Path, members: Sequence[_Member]) -> Iterator[Loader]:
        """One pass over a compressed archive; its offsets count inflated bytes."""
        wanted = defaultdict[int, list[_Member]](list)
        for member in members:
            wanted[member.offset].append(member)
        try:
            with _opened(path) as archive:
                for entry in archive:
                    linked = wanted.pop(entry.offset_data, [])
                    if linked:
                        load = self._streamed(archive, entry, linked[0])
                        yield from itertools.repeat(load, len(linked))
                    if not wanted:
                        return
        except _EndOfTar:
            return
        except DAMAGE as error:
            raise InputError(f"{path} is truncated or damaged ({error}).") from error

    def _streamed(self, archive: tarfile.TarFile, entry: tarfile.TarInfo, member: _Member) -> Loader:
        try:
            check_file_bytes(member.size, self.options.max_pixels)
        except UnreadableImage as error:
            return functools.partial(_raise, error)
        file = archive.extractfile(entry) if member.size > 0 else None
        return functools.partial(self._decode, b"" if file is None else file.read(), member)

    def _files(self, start: int = 0, stop: int | None = None) -> Sequence[Path]:
        return self._shards

    def _content_digest(self, group: Group, progress: Progress) -> str:
        return archive_digest(self._shards, self.rows, self.ids, group, progress)


def _raise(error: Exception) -> Picture:
    raise error


class _EndOfTar(Exception):
    """The bytes that follow are not part of a tar."""


class _Entry(tarfile.TarInfo):
    """An entry that tells the end of an archive, after which another may follow, from damage, which tarfile takes for
    an end."""

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
    """For reading in order, past the end of an archive into one that was appended with `cat`; checksums are checked."""
    opened = next((opened for magic, opened in _COMPRESSED.items() if _first_bytes(path).startswith(magic)), None)
    file = open(path, "rb") if opened is None else opened(path)  # noqa: SIM115
    with (
        file,
        tarfile.open(fileobj=file, mode="r:" if opened is None else "r|", tarinfo=_Entry, ignore_zeros=True) as tar,
    ):
        yield tar


def _read_table(path: Path, shard: int) -> _Table:
    table = _Table()
    has_end = True
    try:
        with _opened(path) as archive:
            try:
                for entry in archive:
                    _note(archive, entry, shard, table)
                has_end = getattr(archive, "has_end", False)
            except _EndOfTar:
                warnings.warn(f"{path} has bytes behind its end that are no tar file.", FdrWarning, stacklevel=2)
    except DAMAGE as error:
        raise InputError(f"{path} is not a complete tar file: it is truncated or damaged ({error}).") from error
    found, dead = follow_links(table.files, table.links)
    members = {name: _Member(shard, name, target.offset, target.size) for name, target in found.items()}
    table.left_out[DEAD_LINKS] += len(sorted_out(dead)[0])
    table.files |= members
    if not has_end:
        number = len(sorted_out(table.files)[0])
        warnings.warn(
            f"{path} has no end marker and may be truncated; {number} image(s) were found.", FdrWarning, stacklevel=2
        )
    return table


def _note(archive: tarfile.TarFile, entry: tarfile.TarInfo, shard: int, table: _Table) -> None:
    name = posixpath.normpath(entry.name)
    is_link = entry.issym() or entry.islnk()
    if entry.isdir():
        return
    if not is_link and (not entry.isfile() or entry.sparse is not None):
        table.left_out[_SPECIAL] += len(sorted_out([name])[0])
        return
    if table.files.pop(name, None) or table.links.pop(name, None):
        table.left_out[REPEATED] += len(sorted_out([name])[0])
    if is_link:
        table.links[name] = posixpath.join(posixpath.dirname(name) if entry.issym() else "", entry.linkname)
        return
    table.files[name] = _Member(shard, entry.name, entry.offset_data, entry.size)
    limit = _MAX_LABEL_BYTES if name.endswith(".cls") else MAX_JSON_BYTES
    if (name.endswith(".cls") or posixpath.basename(name) == DATASET_JSON) and entry.size <= limit:
        file = archive.extractfile(entry)
        text = file.read() if file else b""
        if name.endswith(".cls") and text.strip().isdigit():
            table.classes[_key(name)] = int(text)
        else:
            table.texts[name] = text


def _labels(place: Place, tables: Sequence[_Table], members: Sequence[_Member]) -> Labels | None:
    classes = [tables[member.shard].classes.get(_key(posixpath.normpath(member.name))) for member in members]
    if all(number is not None for number in classes):
        return Labels(np.array(classes, dtype=np.int64), None, ".cls entries")
    if known := sum(number is not None for number in classes):
        warnings.warn(
            f"{place.name}: {known} of {len(members)} images have a .cls entry, so none is used.",
            FdrWarning,
            stacklevel=2,
        )
        return None
    texts = {name: text for table in tables for name, text in table.texts.items()}
    return labels_of_files(
        place.name, [posixpath.normpath(member.name) for member in members], texts, texts.__getitem__
    )


def _one_a_sample(place: Place, members: list[_Member], options: ImageOptions) -> list[_Member]:
    """The members, of those of one WebDataset key the chosen one. Raises `InputError` where that is not clear."""
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
    warnings.warn(f"{found}; all of them are measured.", FdrWarning, stacklevel=2)
    return members


def _is_plain(path: Path) -> bool:
    return not _first_bytes(path).startswith(tuple(_COMPRESSED))


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(6)


def _key(name: str) -> str:
    """WebDataset's key: the path up to the first dot of its last part."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _sample(name: str) -> str:
    """As `_key`, but a dot before a digit is part of the name: img_0.5.png and img_0.7.png are two samples."""
    return name.removesuffix(_extension(name, is_lower=False))


def _extension(name: str, is_lower: bool = True) -> str:
    """ "seg.png" of "s/0001.seg.png", "png" of "img_0.5.png" """
    parts = posixpath.basename(name).split(".")[1:]
    numbers = [position for position, part in enumerate(parts) if part[:1].isdigit()]
    extension = ".".join(parts[numbers[-1] + 1 if numbers else 0 :])
    return extension.lower() if is_lower else extension
