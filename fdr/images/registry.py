"""The kinds of image sources, one line each; `open_images` asks them in this order."""

from __future__ import annotations

import glob
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdr.errors import InputError, collected_warnings
from fdr.images.base import ImageSource
from fdr.images.decode import SUFFIXES
from fdr.images.files import BRACES, Place, expand_braces, matches, names_several
from fdr.images.options import ImageOptions
from fdr.images.values import is_array
from fdr.runtime import as_path, missing_path, named_arguments, refuse_stand_in


@dataclass(frozen=True)
class SourceKind:
    """A kind of source: `target` is "module:function" of (source, options), imported when it is needed.

    The source of a path is a `Place`.
    """

    target: str
    accepts: Callable[[Any], bool]
    example: str
    holds_many: bool = False
    """True where several files can be one set (`x-{0..3}.npz`) and something may be chosen in them (`x.npz:key`)."""

    def open(self, source: Any, options: ImageOptions) -> ImageSource:
        """The source, opened."""
        module, _, function = self.target.partition(":")
        return getattr(importlib.import_module(module), function)(source, options)


def _named(*suffixes: str) -> Callable[[Path], bool]:
    return lambda path: path.name.lower().endswith(suffixes)


_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

HF_PREFIX = "hf-dataset:"
"""The prefix of the name of a dataset on the Hugging Face Hub."""

PATH_KINDS = (
    SourceKind("fdr.images.folder:open_folder", lambda path: path.is_dir() and not _is_saved(path), "a folder"),
    SourceKind("fdr.images.npz:open_npz", _named(".npz"), ".npz", True),
    SourceKind("fdr.images.npy:open_npy", _named(".npy"), ".npy", True),
    SourceKind("fdr.images.hdf5:open_hdf5", _named(".h5", ".hdf5"), ".h5", True),
    SourceKind("fdr.images.parquet:open_parquet", _named(".parquet"), ".parquet", True),
    SourceKind("fdr.images.tensor_file:open_pt", _named(".pt", ".pth"), ".pt", True),
    SourceKind("fdr.images.tensor_file:open_safetensors", _named(".safetensors"), ".safetensors", True),
    SourceKind("fdr.images.zip_archive:open_zip", _named(".zip"), ".zip"),
    SourceKind("fdr.images.tar_archive:open_tar", _named(*_TARS), ".tar (also .tar.gz)", True),
    SourceKind("fdr.images.hf_dataset:open_saved", lambda path: _is_saved(path), "a saved Hugging Face dataset"),
)

VALUE_KINDS = (
    SourceKind("fdr.images.hf_dataset:open_hf", lambda value: _is_hf_dataset(value), "a Hugging Face dataset"),
    SourceKind("fdr.images.tensor:open_tensor", is_array, "a tensor or array"),
    SourceKind("fdr.images.folder:open_paths", lambda value: _are_paths(value), "a list of paths"),
    SourceKind("fdr.images.dataset:open_dataset", lambda value: _is_sequence(value), "a Dataset or list of images"),
    SourceKind("fdr.images.iterable:open_iterable", lambda value: isinstance(value, Iterable), "an iterable of images"),
)


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
    return found


def _open(source: Any, options: ImageOptions) -> ImageSource:
    if isinstance(source, str) and source.startswith(HF_PREFIX):
        from fdr.images.hf_dataset import open_named

        return open_named(source.removeprefix(HF_PREFIX), options)
    if isinstance(source, str | os.PathLike):
        return _open_path(as_path(source, "the images").expanduser(), options)
    for kind in VALUE_KINDS:
        if kind.accepts(source):
            return kind.open(source, options)
    known = ", ".join(kind.example for kind in VALUE_KINDS)
    raise InputError(f"A {type(source).__name__} is no source of images; expected a path, {known}.")


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


def names_files(text: str) -> bool:
    """True for a text that means images although no path is called so: several files, a part of one, a data set."""
    return (
        names_several(text) or text.startswith(HF_PREFIX) or os.path.isfile(os.path.expanduser(text.rpartition(":")[0]))
    )


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
    for kind in PATH_KINDS:
        if all(map(kind.accepts, place.files)):
            if not kind.holds_many and (len(place.files) > 1 or place.choice is not None):
                raise InputError(f"{path} names several files or a part of one, which {kind.example} cannot be.")
            try:
                return kind.open(place, options)
            except OSError as error:
                raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    known = ", ".join(kind.example for kind in PATH_KINDS)
    if path.suffix.lower() in SUFFIXES:
        raise InputError(f"{path} is a single image; give the folder it is in, or another set of images ({known}).")
    kind_name = repr(path.suffix) if path.suffix else "without extension"
    raise InputError(f"{path} is of an unsupported file type ({kind_name}); images are read from {known}.")


def _is_saved(path: Path) -> bool:
    """True for a folder that `save_to_disk` of Hugging Face datasets wrote."""
    is_one = (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    return is_one or (path / "dataset_dict.json").is_file()


def _is_hf_dataset(value: Any) -> bool:
    """True for a Dataset or DatasetDict of Hugging Face, without importing the package."""
    datasets = sys.modules.get("datasets")
    kinds = (getattr(datasets, name, None) for name in ("Dataset", "DatasetDict"))
    return isinstance(value, tuple(kind for kind in kinds if isinstance(kind, type)))


def _are_paths(value: Any) -> bool:
    is_list = isinstance(value, list | tuple) and len(value) > 0
    return is_list and all(isinstance(item, str | os.PathLike) for item in value)


def _is_sequence(value: Any) -> bool:
    """Items by number and a length. A torch IterableDataset seems to have both, but not the items."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.utils.data.IterableDataset):
        return False
    return hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, bytes | Mapping)
