"""Which source reads what: one line a kind. `open_images` asks them in order."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdr.arguments import named_arguments
from fdr.errors import InputError
from fdr.files import missing_path, refuse_stand_in
from fdr.images.base import ImageOptions, ImageSource
from fdr.images.files import BRACES, SUFFIXES
from fdr.images.values import is_array


@dataclass(frozen=True)
class SourceKind:
    """A kind of source: `target` is "module:function" of (source, options), imported when it is needed."""

    target: str
    accepts: Callable[[Any], bool]
    example: str

    def open(self, source: Any, options: ImageOptions) -> ImageSource:
        """The source, opened."""
        module, _, function = self.target.partition(":")
        return getattr(importlib.import_module(module), function)(source, options)


def _named(*suffixes: str) -> Callable[[Path], bool]:
    return lambda path: path.name.lower().endswith(suffixes)


_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

PATH_KINDS = (
    SourceKind("fdr.images.folder:open_folder", Path.is_dir, "a folder"),
    SourceKind("fdr.images.npz:open_npz", _named(".npz"), ".npz"),
    SourceKind("fdr.images.npy:open_npy", _named(".npy"), ".npy"),
    SourceKind("fdr.images.hdf5:open_hdf5", _named(".h5", ".hdf5"), ".h5"),
    SourceKind("fdr.images.zip_archive:open_zip", _named(".zip"), ".zip"),
    SourceKind("fdr.images.tar_archive:open_tar", _named(*_TARS), ".tar (also .tar.gz)"),
)

VALUE_KINDS = (
    SourceKind("fdr.images.tensor:open_tensor", is_array, "a tensor or array"),
    SourceKind("fdr.images.folder:open_paths", lambda value: _are_paths(value), "a list of paths"),
    SourceKind("fdr.images.dataset:open_dataset", lambda value: _is_sequence(value), "a Dataset or list of images"),
    SourceKind("fdr.images.iterable:open_iterable", lambda value: isinstance(value, Iterable), "an iterable of images"),
)


@named_arguments
def open_images(source: Any, options: ImageOptions | None = None) -> ImageSource:
    """The images in `source`: a path (folder, npz, npy, HDF5, zip, tar), a tensor or array, a Dataset, a list of
    images or of paths, or any iterable of images or batches. An `ImageSource` is returned as it is.

    Nothing is decoded yet. Raises `InputError` when there are no images, or fewer than `options.count`.
    """
    if isinstance(source, ImageSource):
        if options is not None and options != source.options:
            raise InputError(f"{source.name} is open already, with other options; give the options when opening it.")
        return source
    options = options or ImageOptions()
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(source).expanduser(), options)
    for kind in VALUE_KINDS:
        if kind.accepts(source):
            return kind.open(source, options)
    known = ", ".join(kind.example for kind in VALUE_KINDS)
    raise InputError(f"A {type(source).__name__} is no source of images; expected a path, {known}.")


def _open_path(path: Path, options: ImageOptions) -> ImageSource:
    if not path.exists() and not BRACES.search(str(path)):
        raise InputError(missing_path(path))
    refuse_stand_in(path)
    for kind in PATH_KINDS:
        if kind.accepts(path):
            try:
                return kind.open(path, options)
            except OSError as error:
                raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    known = ", ".join(kind.example for kind in PATH_KINDS)
    if path.suffix.lower() in SUFFIXES:
        raise InputError(f"{path} is a single image; give the folder it is in, or another set of images ({known}).")
    kind_name = repr(path.suffix) if path.suffix else "without extension"
    raise InputError(f"{path} is of an unsupported file type ({kind_name}); images are read from {known}.")


def _are_paths(value: Any) -> bool:
    is_list = isinstance(value, list | tuple) and len(value) > 0
    return is_list and all(isinstance(item, str | os.PathLike) for item in value)


def _is_sequence(value: Any) -> bool:
    """Items by number and a length. A torch IterableDataset seems to have both, but not the items."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.utils.data.IterableDataset):
        return False
    return hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, bytes | Mapping)
