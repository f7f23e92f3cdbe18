"""A zip archive of image files."""

from __future__ import annotations

import functools
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from fdr.errors import InputError
from fdr.images.base import ImageOptions, ImageSource, Loader
from fdr.images.decode import Picture, UnreadableImage, decode
from fdr.images.files import check_file_bytes, class_labels, is_image_name, no_images, without_common_folder


def open_zip(path: Path, options: ImageOptions) -> ZipSource:
    """The source for a zip archive; raises `InputError` when it holds no images or is damaged."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path} is not a complete zip file: it is truncated or damaged ({error}).") from error
    members = {member.filename: member for member in archive.infolist() if not member.is_dir()}
    names = sorted(name for name in members if is_image_name(name))
    if not names:
        raise no_images(str(path), members)
    if any(members[name].flag_bits & 1 for name in names):
        raise InputError(f"{path} is encrypted; extract it and give the folder.")
    return ZipSource(path, options, archive, names)


class ZipSource(ImageSource):
    """Image files in a zip archive, sorted by name; class folders give labels as in a folder."""

    kind = "zip"

    def __init__(self, path: Path, options: ImageOptions, archive: zipfile.ZipFile, names: Sequence[str]) -> None:
        labels, class_names = class_labels(without_common_folder(names))
        super().__init__(path.name, options, names, labels, class_names)
        self._path, self._archive = path, archive

    def _loaders(self, start: int, stop: int | None) -> Iterator[Loader]:
        for name in self.ids[start:stop]:
            yield functools.partial(self._load, name)

    def _load(self, name: str) -> Picture:
        check_file_bytes(self._archive.getinfo(name).file_size, self.options.max_pixels)
        try:
            data = self._archive.read(name)  # a ZipFile locks its file: safe in threads
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
            raise UnreadableImage(f"its entry in the archive is damaged ({error})") from error
        return decode(data, self.options.alpha, self.options.max_pixels)

    def _files(self, start: int = 0, stop: int | None = None) -> Sequence[Path]:
        return [self._path]
