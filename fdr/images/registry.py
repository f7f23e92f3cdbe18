"""The kinds of image sources, one line each. Which of them a source is, is asked in this order."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdr.images.values import is_array


@dataclass(frozen=True)
class SourceKind:
    """A kind of source. A kind of file has `suffixes`, any other kind says what it accepts."""

    target: str
    """"module:function" of (source, options), imported when it is needed. The source of a path is a `Place`."""
    example: str = ""
    """What users give, for messages."""
    accepts_value: Callable[[Any], bool] | None = None
    suffixes: tuple[str, ...] = ()
    """The ends of its file names, in lower case."""
    holds_many: bool = False
    """True where several files can be one set (`x-{0..3}.npz`) and something may be chosen in them (`x.npz:key`)."""
    fills_folders: bool = False
    """True where a folder of numbered files (rank0.npz, rank1.npz) is one set."""
    may_be_weights: bool = False
    """True where a file beside images is hardly a set of images of its own, so that it is not counted as left out."""

    def accepts(self, source: Any) -> bool:
        """True for a path or value of this kind."""
        return self.accepts_value(source) if self.accepts_value else source.name.lower().endswith(self.suffixes)

    def open(self, source: Any, options: Any) -> Any:
        """The source, opened: an `ImageSource`."""
        module, _, function = self.target.partition(":")
        return getattr(importlib.import_module(module), function)(source, options)

    def __str__(self) -> str:
        return self.example or ", ".join(self.suffixes)


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
    """True for items by number and a length. A torch IterableDataset seems to have both, but not the items."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.utils.data.IterableDataset):
        return False
    return hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, bytes | Mapping)


def takes_nothing(value: Any) -> bool:
    """True for a function without arguments, which gives an iterable of images. A class or a network is none."""
    if isinstance(value, type) or not callable(value) or hasattr(value, "forward"):
        return False
    try:
        return not inspect.signature(value).parameters
    except (TypeError, ValueError):  # a builtin
        return False


NAME_KINDS = [
    SourceKind("fdr.images.hf_dataset:open_named", "hf-dataset:NAME", lambda text: str(text).startswith("hf-dataset:")),
]
"""Texts that mean images without being a path."""

PATH_KINDS = [
    SourceKind("fdr.images.folder:open_folder", "a folder", lambda path: path.is_dir() and not _is_saved(path)),
    SourceKind("fdr.images.npz:open_npz", suffixes=(".npz",), holds_many=True, fills_folders=True),
    SourceKind("fdr.images.npy:open_npy", suffixes=(".npy",), holds_many=True),
    SourceKind("fdr.images.hdf5:open_hdf5", suffixes=(".h5", ".hdf5"), holds_many=True),
    SourceKind("fdr.images.parquet:open_parquet", suffixes=(".parquet",), holds_many=True, fills_folders=True),
    SourceKind("fdr.images.tensor_file:open_pt", suffixes=(".pt", ".pth"), holds_many=True, may_be_weights=True),
    SourceKind(
        "fdr.images.tensor_file:open_safetensors", suffixes=(".safetensors",), holds_many=True, may_be_weights=True
    ),
    SourceKind("fdr.images.zip_archive:open_zip", suffixes=(".zip",)),
    SourceKind(
        "fdr.images.tar_archive:open_tar", suffixes=(".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"), holds_many=True
    ),
    SourceKind("fdr.images.hf_dataset:open_saved", "a saved Hugging Face dataset", _is_saved),
]
"""Files and folders."""

VALUE_KINDS = [
    SourceKind("fdr.images.hf_dataset:open_hf", "a Hugging Face dataset", _is_hf_dataset),
    SourceKind("fdr.images.tensor:TensorSource", "a tensor or array", is_array),
    SourceKind("fdr.images.folder:open_paths", "a list of paths", _are_paths),
    SourceKind("fdr.images.dataset:DatasetSource", "a Dataset or list of images", _is_sequence),
    SourceKind(
        "fdr.images.iterable:IterableSource", "an iterable of images", lambda value: isinstance(value, Iterable)
    ),
    SourceKind("fdr.images.iterable:open_function", "a function that returns one", takes_nothing),
]
"""Objects in Python."""
