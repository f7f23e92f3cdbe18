"""One tensor of images in a .safetensors file, read row by row, or in a .pt file, mapped."""

from __future__ import annotations

import json
import math
import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fdr.errors import InputError, unknown
from fdr.images.array_file import PREFERRED, ArraySource, IndexedRows, OffsetRows, find_labels, open_arrays
from fdr.images.file_parts import ArrayInfo, OffsetReader, refuse_damage
from fdr.images.files import Place
from fdr.images.options import ImageOptions
from fdr.images.tensor import batch_channel_axis
from fdr.images.values import is_tensor, to_numpy
from fdr.runtime import check_zip, utf8_path

_DTYPES = {"U8": "u1", "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8"}
"""Of safetensors, those that images and labels may have; bfloat16 is read as its bits."""
_MAX_HEADER = 100 << 20
"""The longest header, in bytes, as in safetensors itself."""


def open_pt(place: Place, options: ImageOptions) -> ArraySource:
    """The source for .pt files; raises `InputError` when one does not hold a tensor of images."""
    return open_arrays("pt", place, options, _read_pt)


def open_safetensors(place: Place, options: ImageOptions) -> ArraySource:
    """The source for .safetensors files; raises `InputError` when one does not hold a tensor of images."""
    return open_arrays("safetensors", place, options, _read_safetensors)


def holds_images(path: Path) -> bool:
    """True for a torch file that `open_pt` would take, such as one that is not of moments or features."""
    try:
        with refuse_damage(path, "pt"):
            return _read_pt(path, None) is not None
    except InputError:
        return False


class BFloat16Rows:
    """A tensor of bfloat16 in a safetensors file; an index reads one row as float32."""

    def __init__(self, bits: OffsetRows) -> None:
        self._bits, self.shape, self.dtype = bits, bits.shape, np.dtype("float32")

    def __getitem__(self, row: int) -> np.ndarray:
        return (self._bits[row].astype(np.uint32) << 16).view(np.float32)


def _read_pt(path: Path, choice: str | None) -> IndexedRows:
    return _rows_of(path, _torch_tensors(path), choice)


def _read_safetensors(path: Path, choice: str | None) -> IndexedRows:
    return _rows_of(path, _stored_tensors(path), choice)


def _rows_of(path: Path, tensors: Mapping[str, Any], choice: str | None) -> IndexedRows:
    key = _image_key(str(path), tensors, choice)
    info = _info(key, tensors[key])
    if info.dtype != np.uint8 and info.dtype.kind != "f":
        raise InputError(f"{path}: {info} is no tensor of images; expected uint8, or floats in [0, 1].")
    try:
        axis = batch_channel_axis(info.shape, True)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    arrays = [_info(name, value) for name, value in tensors.items()]
    labels = find_labels(str(path), arrays, info, lambda name: _whole(tensors[name]))
    return IndexedRows(path, info, labels, tensors[key], axis)


def _image_key(where: str, tensors: Mapping[str, Any], choice: str | None) -> str:
    """The chosen tensor, or else one with a usual name, or the only one.

    The shape does not decide, because a checkpoint holds tensors of any shape.
    """
    if choice is not None:
        if choice not in tensors:
            raise unknown(f"tensor of {where}", choice, tensors)
        return choice
    found = [key for name in PREFERRED for key in tensors if key.rpartition(".")[2].lower() == name]
    if found or len(tensors) == 1:
        return found[0] if found else next(iter(tensors))
    listed = ", ".join(list(tensors)[:4]) + (", ..." if len(tensors) > 4 else "")
    raise InputError(
        f"{where} holds {len(tensors)} tensors ({listed}) and none that is called images; choose one with "
        f"{where}:NAME, or give the weights of a generator with --gen."
    )


def _info(key: str, tensor: Any) -> ArrayInfo:
    is_float = is_tensor(tensor) and tensor.is_floating_point()
    name = "float32" if is_float else str(tensor.dtype).removeprefix("torch.")
    return ArrayInfo(key, tuple(tensor.shape), np.dtype(name))


def _whole(tensor: Any) -> np.ndarray:
    return to_numpy(tensor) if is_tensor(tensor) else np.stack([tensor[row] for row in range(tensor.shape[0])])


def _stored_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file that images or labels may be, by name, unread."""
    file = OffsetReader(path)
    (length,) = struct.unpack("<Q", file.read(0, 8))
    if length > min(_MAX_HEADER, file.size - 8):
        raise ValueError("its header is longer than the file")
    header = json.loads(file.read(8, length))
    entries = {key: entry for key, entry in header.items() if key != "__metadata__" and entry["dtype"] in _DTYPES}
    return {key: _stored_tensor(file, key, entry, 8 + length) for key, entry in entries.items()}


def _stored_tensor(file: OffsetReader, key: str, entry: Any, start: int) -> OffsetRows | BFloat16Rows:
    _check_entry(key, entry, file.size - start)
    rows = OffsetRows(file, start + entry["data_offsets"][0], entry["shape"], np.dtype(_DTYPES[entry["dtype"]]))
    return BFloat16Rows(rows) if entry["dtype"] == "BF16" else rows


def _check_entry(key: str, entry: Any, size: int) -> None:
    (start, stop), shape = entry["data_offsets"], entry["shape"]
    if not all(type(number) is int and number >= 0 for number in (start, stop, *shape)):
        raise ValueError(f"the shape or the place of {key} is not made of whole numbers")
    if stop - start != math.prod(shape) * np.dtype(_DTYPES[entry["dtype"]]).itemsize or stop > size:
        raise ValueError(f"{key} ends before its last value")


def _torch_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a .pt file: one alone, or a dict of them. Nothing but tensors and plain values is unpickled."""
    import torch

    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        check_zip(path)
    try:
        with utf8_path(path) as readable, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            loaded = torch.load(readable, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors or is damaged, and fdr runs no code from files; save the tensor alone."
        ) from error
    if isinstance(loaded, torch.Tensor):
        return {"tensor": loaded}
    found = {str(key): value for key, value in loaded.items()} if isinstance(loaded, Mapping) else {}
    found = {key: value for key, value in found.items() if isinstance(value, torch.Tensor)}
    if not found:
        raise InputError(f"{path} holds a {type(loaded).__name__} without a tensor; expected one tensor of images.")
    return found
