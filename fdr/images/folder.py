"""A folder of image files, and a list of paths to image files."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fdr.errors import InputError
from fdr.images.base import ImageOptions, ImageSource, Loader
from fdr.images.digests import file_digests
from fdr.images.files import class_labels, decode_file, is_image_name, no_images


def open_folder(path: Path, options: ImageOptions) -> FolderSource:
    """The source for a folder and all folders in it; raises `InputError` when there is no image."""
    names = sorted(_walk(path))
    images = [name for name in names if is_image_name(name)]
    if not images:
        raise no_images(str(path), names)
    labels, class_names = class_labels(images)
    name = path.name or path.resolve().name or str(path)
    return FolderSource(name, options, path, images, labels, class_names)


def open_paths(paths: Sequence[str | os.PathLike[str]], options: ImageOptions) -> FolderSource:
    """The source for a list of paths, in the order given."""
    names = [os.fspath(path) for path in paths]
    return FolderSource(f"list of {len(names)} files", options, Path(), names, None, None)


class FolderSource(ImageSource):
    """Image files, in the sorted order of their POSIX paths below the folder; class folders give labels."""

    kind = "folder"

    def __init__(
        self,
        name: str,
        options: ImageOptions,
        root: Path,
        names: Sequence[str],
        labels: np.ndarray | None,
        class_names: tuple[str, ...] | None,
    ) -> None:
        super().__init__(name, options, names, labels, class_names)
        self._root = root

    def _loaders(self, start: int, stop: int | None) -> Iterator[Loader]:
        for name in self.ids[start:stop]:
            yield functools.partial(decode_file, self._root / name, self.options.alpha, self.options.max_pixels)

    def _files(self, start: int = 0, stop: int | None = None) -> Sequence[str]:
        root = os.fspath(self._root)  # strings, since 50,000 Path objects take a second
        return [os.path.join(root, name) for name in self.ids[start:stop]]

    def _content_digest(self) -> str:
        digests = file_digests(self._files(), os.path.abspath(self._root), self.group)
        content = hashlib.sha256()
        for name, digest in zip(self.ids, digests, strict=True):
            content.update(os.fsencode(name) + b"\0" + digest.encode() + b"\n")
        return content.hexdigest()


def _walk(root: Path) -> Iterator[str]:
    """POSIX paths below `root` of all files outside hidden folders; links are followed, loops are not."""
    above: dict[str, frozenset[tuple[int, int]]] = {os.fspath(root): frozenset()}
    for folder, subfolders, files in os.walk(root, onerror=_refuse, followlinks=True):
        stat = os.stat(folder)
        seen = above.pop(folder) | {(stat.st_dev, stat.st_ino)}
        prefix = Path(folder).relative_to(root).as_posix()
        prefix = "" if prefix == "." else f"{prefix}/"
        yield from (f"{prefix}{name}" for name in files if not name.startswith("."))
        kept = [name for name in subfolders if not name.startswith(".") and name != "__MACOSX"]
        subfolders[:] = [name for name in kept if _key(folder, name) not in seen]
        above |= {os.path.join(folder, name): seen for name in subfolders}


def _key(folder: str, name: str) -> tuple[int, int]:
    stat = os.stat(os.path.join(folder, name))
    return stat.st_dev, stat.st_ino


def _refuse(error: OSError) -> None:
    """A folder that cannot be listed would silently leave its images out."""
    raise InputError(f"The folder {error.filename} cannot be read: {error.strerror}.") from error
