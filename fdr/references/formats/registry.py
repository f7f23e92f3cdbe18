"""Recognises the format of a statistics file by its content; the file name does not matter."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from fdr.errors import InputError
from fdr.frechet import damaged, first_bytes
from fdr.images import holds_images, read_header
from fdr.references.formats.base import StatisticsFile
from fdr.references.formats.npz import NpzStatistics, feature_key, pairs_in, read_headers, resembles_statistics
from fdr.runtime import DAMAGE, HDF5_MAGIC, as_path, check_writable, open_h5, stand_in_of

EXPECTED = (
    "statistics are read from npz (mu and sigma, ADM, FD-loss, clean-fid, dgm-eval), EDM2 and FD-loss pickles, torch "
    "files, npy features, and fdr's own HDF5"
)
_LEGACY_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of torch before 1.6 start: a pickled magic number."""


def open_statistics(path: str | os.PathLike[str]) -> StatisticsFile:
    """Open a statistics file of any known format.

    Raises `InputError` for a file that is missing, damaged or not statistics.
    """
    path = as_path(path, "the statistics").expanduser()
    kind = _kind(path)
    if kind == "npz":
        return NpzStatistics(path)
    if kind == "torch":
        from fdr.references.formats.torch_file import TorchStatistics

        return TorchStatistics(path)
    if kind == "pickle":
        from fdr.references.formats.pickles import PickleStatistics

        return PickleStatistics(path)
    if kind == "npy":
        from fdr.references.formats.npy import open_npy

        return open_npy(path)
    if kind == "h5":
        from fdr.references.formats.hdf5 import Hdf5Statistics

        return Hdf5Statistics(path)
    raise InputError(f"{str(path)!r} {kind}; {EXPECTED}.")


def check_target(path: Path) -> None:
    """Raise `InputError` if statistics cannot be written to `path`, or would replace a file that is not statistics."""
    check_writable(path)
    if not path.is_file() or path.stat().st_size == 0:
        return
    try:
        open_statistics(path)
    except InputError as error:
        raise InputError(
            f"{str(path)!r} is there and holds no statistics, which would replace it; name another file."
        ) from error


def is_statistics_file(path: Path) -> bool:
    """True if the content of `path` is statistics, not images. Never raises an error and reads no array.

    A pickle always counts as statistics, because images are never read from pickles; a torch file does unless it holds
    images.
    """
    try:
        kind = _kind(path)
        if kind == "npz":
            headers = read_headers(path)
            key = feature_key(headers)
            has_features = key is not None and ("arr_0" not in headers or key == "arr_0")
            return bool(pairs_in(headers)) or has_features or resembles_statistics(headers)
        if kind == "npy":
            with open(path, "rb") as file:
                shape, _, dtype = read_header(file)
            return (len(shape) == 2 and dtype.kind == "f") or (shape == () and dtype.hasobject)
        if kind == "h5":
            with open_h5(path) as file:
                return "mu" in file
        if kind == "torch":
            return not holds_images(path)
    except (InputError, *DAMAGE):
        return False
    return kind == "pickle"


def _kind(path: Path) -> str:
    """ "npz", "torch", "pickle", "npy" or "h5"; for any other file what it is, as half a sentence."""
    start = first_bytes(path)
    what = stand_in_of(start)
    if what is not None:
        raise InputError(f"{str(path)!r} {what}.")
    if start.startswith(b"PK"):
        return _kind_of_zip(path)
    if start.startswith(b"\x80"):
        return "torch" if start[2:].startswith(_LEGACY_TORCH) else "pickle"
    for magic, kind in ((b"\x93NUMPY", "npy"), (HDF5_MAGIC, "h5")):
        if start.startswith(magic):
            return kind
    return "is no statistics file"


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except DAMAGE as error:
        raise damaged(str(path), error) from None
    if any(name.endswith(".npy") for name in names):
        return "npz"
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return "torch"
    return "is a zip archive without arrays"
