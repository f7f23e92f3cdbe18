"""A folder of image files, or a list of their paths."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from fdr.errors import InputError
from fdr.images.base import ImageSource, Loader
from fdr.images.decode import decode_file
from fdr.images.digests import file_digests
from fdr.images.files import Place, no_images, numbered_shards, sorted_out
from fdr.images.labels import MAX_JSON_BYTES, Labels, labels_of_files
from fdr.images.options import ImageOptions
from fdr.images.registry import PATH_KINDS
from fdr.runtime import Group, Progress, as_path


def open_folder(place: Place, options: ImageOptions) -> ImageSource:
    """The source for a folder and all folders in it, or for numbered files (.npz, .parquet) that are one set.

    Raises `InputError` when there is no image.
    """
    path = place.path
    names = sorted(_walk(path))
    images, left_out = sorted_out(names)
    for kind in PATH_KINDS if not images else ():
        found = [
            name
            for name in names
            if kind.fills_folders and kind.accepts(PurePosixPath(name)) and "/." not in f"/{name}"
        ]
        if found:
            files = tuple(path / name for name in numbered_shards(str(path), found))
            return kind.open(Place(path, files), options)
    if not images:
        raise no_images(str(path), names)
    labels = labels_of_files(place.name, images, names, lambda name: _text(path / name))
    return FolderSource(place.name, options, path, images, labels, left_out)


def open_files(place: Place, options: ImageOptions) -> FolderSource:
    """The source for the files that match a pattern. It equals that of a folder with these files alone."""
    names = [file.relative_to(place.root).as_posix() for file in place.files]
    images, left_out = sorted_out(names)
    if not images:
        raise no_images(str(place.path), names)
    labels = labels_of_files(place.name, images, names, lambda name: _text(place.root / name))
    return FolderSource(place.name, options, place.root, images, labels, left_out)


def open_paths(paths: Sequence[str | os.PathLike[str]], options: ImageOptions) -> FolderSource:
    """The source for a list of paths, in the order given."""
    names = [os.fspath(as_path(path, "an image")) for path in paths]
    return FolderSource(f"list of {len(names)} files", options, Path(), names)


class FolderSource(ImageSource):
    """Image files, in the sorted order of their POSIX paths below the folder."""

    kind = "folder"

    def __init__(
        self,
        name: str,
        options: ImageOptions,
        root: Path,
        names: Sequence[str],
        labels: Labels | None = None,
        left_out: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(name, options, names, labels, left_out)
        self._root = root

    def _loaders(self, start: int, stop: int | None) -> Iterator[Loader]:
        for name in self.ids[start:stop]:
            yield functools.partial(decode_file, self._root / name, self.options.alpha, self.options.max_pixels)

    def _files(self, start: int = 0, stop: int | None = None) -> Sequence[str]:
        root = os.fspath(self._root)  # strings, since 50,000 Path objects take a second
        return [os.path.join(root, name) for name in self.ids[start:stop]]

    def _content_digest(self, group: Group, progress: Progress) -> str:
        digests = file_digests(self._files(), os.path.abspath(self._root), group, progress)
        content = hashlib.sha256()
        for name, digest in zip(self.ids, digests, strict=True):
            content.update(os.fsencode(name) + b"\0" + digest.encode() + b"\n")
        return content.hexdigest()


def _walk(root: Path) -> Iterator[str]:
    """POSIX paths below `root` of all files. Links are followed, except into a folder around them.

    Of a hidden folder the files are listed, but not its folders.
    """
    above: dict[str, frozenset[tuple[int, int]]] = {os.fspath(root): frozenset()}
    for folder, subfolders, files in os.walk(root, onerror=_refuse, followlinks=True):
        stat = os.stat(folder)
        seen = above.pop(folder) | {(stat.st_dev, stat.st_ino)}
        prefix = Path(folder).relative_to(root).as_posix()
        prefix = "" if prefix == "." else f"{prefix}/"
        yield from (f"{prefix}{name}" for name in files)
        for hidden in (name for name in subfolders if name.startswith(".")):
            yield from (f"{prefix}{hidden}/{name}" for name in _files_in(os.path.join(folder, hidden)))
        kept = [name for name in subfolders if not name.startswith(".") and name != "__MACOSX"]
        subfolders[:] = [name for name in kept if _key(folder, name) not in seen]
        above |= {os.path.join(folder, name): seen for name in subfolders}


def _files_in(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_file()]
    except OSError:
        return []


def _key(folder: str, name: str) -> tuple[int, int]:
    stat = os.stat(os.path.join(folder, name))
    return stat.st_dev, stat.st_ino


def _text(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_JSON_BYTES)


def _refuse(error: OSError) -> None:
    """Raise `InputError`, since the images of a folder that cannot be listed would be missing unnoticed."""
    raise InputError(f"The folder {error.filename} cannot be read: {error.strerror}.") from error
