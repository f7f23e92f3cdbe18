"""Tar archives of image files, one or many: WebDataset shards, plain (read at offsets) or compressed (streamed)."""

from __future__ import annotations

import functools
import itertools
import lzma
import tarfile
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fdr.errors import FdrWarning, InputError
from fdr.images.array_file import OffsetReader
from fdr.images.base import ImageOptions, ImageSource, Loader
from fdr.images.decode import Picture, UnreadableImage
from fdr.images.files import (
    BRACES,
    check_file_bytes,
    class_labels,
    decode_sized,
    is_image_name,
    no_images,
    without_common_folder,
)
from fdr.images.pool import read_ahead

_DAMAGE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError)
_MAX_LABEL_BYTES = 64
_AHEAD = 8


@dataclass(frozen=True)
class _Member:
    shard: int
    name: str
    offset: int
    size: int


def open_tar(path: Path, options: ImageOptions) -> TarSource:
    """The source for a tar archive, or for all shards of a brace range such as `train-{000..012}.tar`."""
    shards = expand_braces(path)
    for shard in shards:
        if not shard.is_file():
            raise InputError(f"{shard} does not exist; {path.name} stands for {len(shards)} files.")
    images: list[_Member] = []
    labels: dict[tuple[int, str], int] = {}
    others: list[str] = []
    for number, shard in enumerate(shards):
        _index(shard, number, images, labels, others)
    if not images:
        raise no_images(str(path), others)
    return TarSource(path, options, shards, images, labels)


def expand_braces(path: Path) -> list[Path]:
    """`x-{08..10}.tar` -> x-08.tar, x-09.tar, x-10.tar; several ranges multiply; a plain path stays alone."""
    text = str(path)
    ranges = []
    for low, high in BRACES.findall(text):
        if int(low) > int(high):
            raise InputError(f"{path.name} counts down from {low} to {high}; write the smaller number first.")
        width = len(low) if low.startswith("0") else 0
        ranges.append([str(number).zfill(width) for number in range(int(low), int(high) + 1)])
    parts = BRACES.sub("\0", text).split("\0")
    return [
        Path("".join(itertools.chain.from_iterable(zip(parts, (*numbers, ""), strict=True))))
        for numbers in itertools.product(*ranges)
    ]


class TarSource(ImageSource):
    """Image files in tar archives, in the order of the archives; labels from `.cls` entries, else class folders."""

    kind = "tar"

    def __init__(
        self,
        path: Path,
        options: ImageOptions,
        shards: Sequence[Path],
        members: Sequence[_Member],
        labels: dict[tuple[int, str], int],
    ) -> None:
        names = [member.name for member in members]
        keys = [(member.shard, _key(member.name)) for member in members]
        found: np.ndarray | None
        if all(key in labels for key in keys):
            found, class_names = np.array([labels[key] for key in keys], dtype=np.int64), None
        else:
            found, class_names = class_labels(without_common_folder(names))
        many = len(shards) > 1
        ids = [f"{shards[m.shard].name}/{m.name}" if many else m.name for m in members]
        super().__init__(path.name, options, ids, found, class_names)
        self._shards, self._members = shards, members

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
        wanted = {member.offset: member for member in members}
        try:
            with tarfile.open(path, "r|*") as archive:
                for entry in archive:
                    member = wanted.pop(entry.offset_data, None)
                    if member is None:
                        continue
                    if member.size > 0:
                        yield self._streamed(archive, entry, member)
                    else:
                        yield functools.partial(self._decode, b"", member)
                    if not wanted:
                        return
        except _DAMAGE as error:
            raise InputError(f"{path} is truncated or damaged ({error}).") from error

    def _streamed(self, archive: tarfile.TarFile, entry: tarfile.TarInfo, member: _Member) -> Loader:
        try:
            check_file_bytes(member.size, self.options.max_pixels)
        except UnreadableImage as error:
            return functools.partial(_raise, error)
        file = archive.extractfile(entry)
        assert file is not None
        return functools.partial(self._decode, file.read(), member)

    def _files(self, start: int = 0, stop: int | None = None) -> Sequence[Path]:
        return self._shards


def _raise(error: Exception) -> Picture:
    raise error


def _index(
    path: Path, shard: int, images: list[_Member], labels: dict[tuple[int, str], int], others: list[str]
) -> None:
    """Read one archive's table: image entries, numbers in `.cls` entries, and the names of all else."""
    before = len(images)
    try:
        with tarfile.open(path, "r:" if _is_plain(path) else "r|*") as archive:
            for entry in archive:
                if not entry.isfile():
                    continue
                if is_image_name(entry.name):
                    images.append(_Member(shard, entry.name, entry.offset_data, entry.size))
                    continue
                others.append(entry.name)
                label = _label(archive, entry)
                if label is not None:
                    labels[shard, _key(entry.name)] = label
            has_end = archive.fileobj is not None and archive.fileobj.tell() >= archive.offset + tarfile.BLOCKSIZE
    except _DAMAGE as error:
        raise InputError(f"{path} is not a complete tar file: it is truncated or damaged ({error}).") from error
    if not has_end:
        found = f"{len(images) - before} image(s) were found"
        warnings.warn(f"{path} has no end marker and may be truncated; {found}.", FdrWarning, stacklevel=2)


def _label(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> int | None:
    """The class number in a WebDataset `.cls` entry."""
    if not entry.name.endswith(".cls") or entry.size > _MAX_LABEL_BYTES:
        return None
    file = archive.extractfile(entry)
    text = file.read().strip() if file else b""
    return int(text) if text.isdigit() else None


def _is_plain(path: Path) -> bool:
    """True for an archive that is not compressed, by its first bytes."""
    with path.open("rb") as file:
        return not file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))


def _key(name: str) -> str:
    """WebDataset's key: the path up to the first dot of its last part."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]
