"""The files of `Moments`: `.npz` that peers read, `.h5` of our own; written atomically, read without executing."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from fdr.errors import InputError, as_utf8
from fdr.frechet.class_moments import CLASS_ARRAYS
from fdr.runtime import (
    DAMAGE,
    HDF5_MAGIC,
    HEAD_BYTES,
    as_path,
    atomic_path,
    dataset_of,
    item_of,
    missing_path,
    open_h5,
    stand_in_of,
)

H5_FORMAT = "fdr-moments/1"
CHECKSUM = "sha256"
"""The attribute of an HDF5 file of moments that holds the sha256 of its content, without that of `CLASS_ARRAYS`: older
versions of fdr do not read these, and check the rest."""
CLASSES_CHECKSUM = "classes_sha256"
"""The attribute with the sha256 of `CLASS_ARRAYS`."""
ATTRIBUTES = "fdr_attributes"
"""The npz member that holds the attributes as JSON text; peers ignore it."""

NUMBERS = (
    "val_fd", "val_count", "val_fd_debiased", "val_fd_debiased_stderr", "jpeg_share", "image_width", "image_height",
    "image_size_share", "skipped", "density", "density_k", "density_count", "noise_floor_fd", "noise_floor_fd_stderr",
    "noise_floor_count", "noise_floor_splits", "noise_floor_seed", "noise_floor_debiased",
    "noise_floor_debiased_stderr",
)  # fmt: skip
"""Attributes that are read as numbers."""

SUFFIXES = {".npz": "npz", ".h5": "h5", ".hdf5": "h5"}


def save(
    path: str | os.PathLike[str], arrays: Mapping[str, Any], attributes: Mapping[str, Any], kind: str | None = None
) -> None:
    """Write `arrays` and `attributes` as "npz" or "h5", by default what the suffix names, in one step."""
    path = as_path(path, "the moments")
    kind = kind or SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"Cannot tell the format of {str(path)!r}; name a file of moments *.npz or *.h5.")
    for name, value in attributes.items():
        if not isinstance(value, str | int | float):
            raise InputError(f"Attribute {name!r} is a {type(value).__name__}; expected text or a number.")
    attributes = {as_utf8(name): as_utf8(v) if isinstance(v, str) else v for name, v in attributes.items()}
    write = _write_npz if kind == "npz" else _write_h5
    with atomic_path(path) as temporary, open(temporary, "w+b") as file:
        write(file, arrays, attributes)


def _write_npz(file: IO[bytes], arrays: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    members: dict[str, Any] = dict(arrays)
    if attributes:
        members[ATTRIBUTES] = np.array(json.dumps(dict(attributes)))
    np.savez(file, **members)


def _write_h5(file: IO[bytes], arrays: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    import h5py

    with h5py.File(file, "w", libver=("v108", "v110")) as h5:  # v108 allows attributes above 64 KB
        h5.attrs["format"] = _fixed(H5_FORMAT)
        for name, value in arrays.items():
            if np.ndim(value):
                h5[name] = value
            else:
                h5.attrs[name] = value
        h5.create_group("attributes").attrs.update({name: _fixed(value) for name, value in attributes.items()})
        plain, classes = _parted(arrays)
        h5.attrs[CHECKSUM] = _fixed(_checksum(plain, attributes))
        if classes:
            h5.attrs[CLASSES_CHECKSUM] = _fixed(_checksum(classes, {}))


def _fixed(value: Any) -> Any:
    """`value` with text in a fixed length: HDF5 keeps other text without checksums, and hangs where that is damaged."""
    import h5py

    if not isinstance(value, str):
        return value
    data = value.encode("utf-8", "surrogateescape")
    return np.array(data, h5py.string_dtype("utf-8", max(1, len(data))))


def _checksum(arrays: Mapping[str, Any], attributes: Mapping[str, Any]) -> str:
    """The sha256 of everything in a file of moments, as HDF5 has no checksum of its own."""
    content = hashlib.sha256(json.dumps(dict(attributes), sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        content.update(f"{name} {array.dtype.str} {list(array.shape)}".encode() + array.tobytes())
    return content.hexdigest()


def _parted(arrays: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of all images, and those of classes."""
    plain, classes = (
        {name: arrays[name] for name in arrays if (name in CLASS_ARRAYS) is is_of} for is_of in (False, True)
    )
    return plain, classes


def load(path: str | os.PathLike[str], keys: tuple[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of `Moments` and the attributes in a file; `keys` names mu and sigma in an npz."""
    name, start = os.fspath(path), first_bytes(path)
    if start.startswith(b"PK"):
        return _read_npz(name, keys)
    if start.startswith(HDF5_MAGIC):
        return _read_h5(name)
    what = stand_in_of(start)
    if what is not None:
        raise InputError(f"{name!r} {what}.")
    raise InputError(
        f"{name!r} {_what_it_is(start)}; statistics are read from *.npz with {keys[0]} and {keys[1]}, or from our *.h5."
    )


def first_bytes(path: str | os.PathLike[str]) -> bytes:
    """The first bytes, which show the format of statistics. Raises `InputError` for a folder or a missing file."""
    name = os.fspath(as_path(path, "the statistics"))
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except IsADirectoryError:
        raise InputError(f"{name!r} is a folder; a statistics file is expected.") from None
    except FileNotFoundError:
        raise InputError(missing_path(Path(path))) from None
    except OSError as error:
        raise InputError(f"Cannot read {name!r}: {error.strerror}.") from None


def _what_it_is(start: bytes) -> str:
    if start.startswith(b"\x80"):
        return "is a Python pickle, which can run code and is not opened (fdr convert reads those of EDM2 and FD-loss)"
    if start.startswith(b"\x93NUMPY"):
        return "is a single .npy array (features go through Moments.from_features)"
    return "is no statistics file"


def _read_npz(name: str, keys: tuple[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    mu, sigma = keys
    try:
        with np.load(name, allow_pickle=False) as file:
            if mu not in file or sigma not in file:
                raise InputError(f"{name!r} has no {mu!r} and {sigma!r}; it holds {listing(file.files)}.")
            arrays = {"mu": np.asarray(file[mu]), "sigma": np.asarray(file[sigma])}
            beside = ("count", "ddof", "factor", "curve", *CLASS_ARRAYS) if keys == ("mu", "sigma") else ("count",)
            arrays |= {key: file[key] for key in beside if key in file}
            attributes = json.loads(str(file[ATTRIBUTES])) if ATTRIBUTES in file else {}
    except DAMAGE as error:
        if "allow_pickle" in str(error):
            raise InputError(
                f"{name!r} holds Python objects, which can run code and are not opened; save plain float64 arrays."
            ) from None
        raise damaged(name, error) from None
    return _scalars(name, arrays), _checked(name, attributes)


def _read_h5(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with open_h5(name) as h5:
            _check_h5(name, h5)
            names = ("mu", "sigma", "factor", "curve", *CLASS_ARRAYS)
            arrays = {key: np.asarray(dataset_of(h5, key)[()]) for key in names if key in h5}
            arrays |= {key: h5.attrs[key] for key in ("count", "ddof") if key in h5.attrs}
            plain = {key: _plain(value) for key, value in item_of(h5, "attributes").attrs.items()}
            attributes = _checked(name, plain)
            moments, classes = _parted(arrays)
            for attribute, found in ((CHECKSUM, (moments, attributes)), (CLASSES_CHECKSUM, (classes, {}))):
                if _plain(h5.attrs.get(attribute)) not in (None, _checksum(*found)):
                    raise ValueError("its content is not that of its checksum")
        if not {"mu", "sigma"} <= arrays.keys():
            raise InputError(f"{name!r} has no 'mu' and 'sigma'; it holds {listing(list(arrays))}.")
        return _scalars(name, arrays), attributes
    except DAMAGE as error:
        raise damaged(name, error) from None


def read_attributes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The attributes of a file that `save` wrote; empty for files of others. Reads no matrix."""
    name = os.fspath(path)
    try:
        if zipfile.is_zipfile(name):
            with np.load(name, allow_pickle=False) as file:
                attributes = json.loads(str(file[ATTRIBUTES])) if ATTRIBUTES in file else {}
            return _checked(name, attributes)
        with open_h5(name) as h5:
            plain = {key: _plain(value) for key, value in item_of(h5, "attributes").attrs.items()}
            return _checked(name, plain)
    except DAMAGE as error:
        raise damaged(name, error) from None


def header_h5(path: str | os.PathLike[str]) -> tuple[int, int | None, str]:
    """Width, count and dtype of sigma of our HDF5, without reading a matrix. Raises `InputError` for another file."""
    name = os.fspath(path)
    try:
        with open_h5(name) as h5:
            _check_h5(name, h5)
            if "mu" not in h5 or "sigma" not in h5:
                raise InputError(f"{name!r} has no 'mu' and 'sigma'; it holds {listing(list(h5))}.")
            count = _scalars(name, {"count": h5.attrs["count"]})["count"] if "count" in h5.attrs else None
            return dataset_of(h5, "mu").shape[0], count, str(dataset_of(h5, "sigma").dtype)
    except DAMAGE as error:
        raise damaged(name, error) from None


def _check_h5(name: str, h5: Any) -> None:
    if _plain(h5.attrs.get("format")) != H5_FORMAT:
        raise InputError(f"{name!r} is HDF5 but not moments of the format {H5_FORMAT}; it holds {listing(list(h5))}.")


def damaged(name: str, error: BaseException) -> InputError:
    """The error for a file whose bytes are not what they say."""
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return InputError(f"{name!r} is truncated or damaged ({reason}); copy or compute it again.")


def _scalars(name: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """`arrays` with count and ddof as integers."""
    for key in ("count", "ddof"):
        if key in arrays:
            if np.size(arrays[key]) != 1 or np.asarray(arrays[key]).dtype.kind not in "iuf":
                raise InputError(f"{name!r} has a {key!r} that is no number.")
            arrays[key] = np.asarray(arrays[key]).item()
    return arrays


def _checked(name: str, attributes: Any) -> dict[str, Any]:
    """`attributes`; raises `InputError` where they are none that fdr writes."""
    if not isinstance(attributes, dict):
        raise InputError(f"{name!r} has {ATTRIBUTES!r} that are no mapping; it was altered.")
    for key, value in attributes.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
        if not (is_number or (isinstance(value, str) and key not in NUMBERS)):
            raise InputError(
                f"{name!r} has an attribute {key!r} that is no {'number' if key in NUMBERS else 'text or number'}; it "
                "was altered, or was not written by fdr."
            )
    return attributes


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def listing(names: list[str]) -> str:
    """The first eight names as a list for a sentence."""
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return shown or "nothing"
