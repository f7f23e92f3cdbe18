"""`open_images`: the source for a path, a name or an object."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Any

from fdr.errors import InputError, collected_warnings
from fdr.images import registry
from fdr.images.base import ImageSource
from fdr.images.decode import SUFFIXES
from fdr.images.files import BRACES, Place, expand_braces, matches, names_several
from fdr.images.options import ImageOptions
from fdr.images.provenance import stated_training
from fdr.runtime import as_path, missing_path, named_arguments, refuse_stand_in


@named_arguments
def open_images(source: Any, options: ImageOptions | None = None) -> ImageSource:
    """The images in `source`: a path (folder, npz, npy, HDF5, zip, tar, parquet, .pt, .safetensors, a pattern such as
    "a/*.png"), "hf-dataset:NAME", a tensor or array, a Dataset, a list of images or of paths, or any iterable of images
    or batches, such as a DataLoader. An `ImageSource` is returned as it is.

    Nothing is decoded yet. Raises `InputError` when there are no images, or fewer than `options.count`.
    """
    if isinstance(source, ImageSource):
        if options is not None and options != source.options:
            raise InputError(f"{source.name} is open already, with other options; give the options when opening it.")
        return source
    with collected_warnings() as texts:
        found = _open(source, options or ImageOptions())
    found.warnings = texts
    if isinstance(source, str | os.PathLike):
        found.trained_on = stated_training(as_path(source, "the images").expanduser())
    return found


def _open(source: Any, options: ImageOptions) -> ImageSource:
    is_path = isinstance(source, str | os.PathLike)
    for kind in registry.NAME_KINDS if is_path else registry.VALUE_KINDS:
        if kind.accepts(source):
            return kind.open(source, options)
    if is_path:
        return _open_path(as_path(source, "the images").expanduser(), options)
    known = ", ".join(map(str, registry.VALUE_KINDS))
    raise InputError(f"A {type(source).__name__} is no source of images; expected a path, {known}.")


def names_files(text: str) -> bool:
    """True for a text that means images although no path is called so: several files, a part of one, a data set."""
    is_name = any(kind.accepts(text) for kind in registry.NAME_KINDS)
    return is_name or names_several(text) or os.path.isfile(os.path.expanduser(text.rpartition(":")[0]))


def place_of(path: Path) -> Place:
    """The files of a path: itself, all of a pattern or a range, or a file and what is chosen in it behind a colon.

    What exists under the whole name wins. Raises `InputError` for what is not there.
    """
    if path.exists():
        return Place(path, (path,))
    place = _several(path, None)
    if place is None:
        before, colon, choice = str(path).rpartition(":")
        place = _several(Path(before), choice) if colon and before and choice else None
    if place is None:
        raise InputError(f"{path} matches no file." if glob.has_magic(str(path)) else missing_path(path))
    return place


def _several(path: Path, choice: str | None) -> Place | None:
    if choice is not None and path.is_file():
        return Place(path, (path,), choice)
    if glob.has_magic(str(path)):
        files = matches(path)
        return Place(path, files, choice) if files else None
    if not BRACES.search(str(path)):
        return None
    files = expand_braces(path)
    for file in files:
        if not file.is_file():
            raise InputError(f"{file} does not exist; {path.name} stands for {len(files)} files.")
    return Place(path, files, choice)


def _open_path(path: Path, options: ImageOptions) -> ImageSource:
    place = place_of(path)
    for file in place.files:
        refuse_stand_in(file)
    if not path.exists() and any(file.suffix.lower() in SUFFIXES for file in place.files):
        from fdr.images.folder import open_files

        return open_files(place, options)
    for kind in registry.PATH_KINDS:
        if all(map(kind.accepts, place.files)):
            if not kind.holds_many and (len(place.files) > 1 or place.choice is not None):
                raise InputError(f"{path} names several files or a part of one, which {kind} cannot be.")
            try:
                return kind.open(place, options)
            except OSError as error:
                raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    known = ", ".join(map(str, registry.PATH_KINDS))
    if path.suffix.lower() in SUFFIXES:
        raise InputError(f"{path} is a single image; give the folder it is in, or another set of images ({known}).")
    kind_name = repr(path.suffix) if path.suffix else "without extension"
    raise InputError(f"{path} is of an unsupported file type ({kind_name}); images are read from {known}.")
