"""One tensor of images in a .safetensors file, read row by row, or in a .pt file, mapped."""

from __future__ import annotations

import functools
import json
import math
import pickle
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fdr.errors import InputError, first_line, unknown
from fdr.images.array_file import (
    PREFERRED,
    ArrayInfo,
    ArrayPart,
    ArraySource,
    OffsetReader,
    Shown,
    find_labels,
    open_arrays,
)
from fdr.images.base import ImageOptions, Loader
from fdr.images.decode import Picture
from fdr.images.files import Place
from fdr.images.tensor import batch_channel_axis
from fdr.images.values import is_tensor, to_numpy
from fdr.runtime import DAMAGE, check_zip, utf8_path

_DTYPES = {"U8": "u1", "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8"}
"""Of safetensors, those that images and labels may have; bfloat16 is read as its bits."""
_MAX_HEADER = 100 << 20  # as safetensors itself


def open_tensor_file(place: Place, options: ImageOptions) -> ArraySource:
    """The source for .pt and .safetensors files; raises `InputError` when one does not hold a tensor of images."""
    return open_arrays(place, options, _read)


def holds_images(path: Path) -> bool:
    """True for a torch file that `open_tensor_file` would take, such as one that is not of moments or features."""
    try:
        return _read_torch(path) is not None
    except InputError:
        return False


class StoredTensor:
    """A tensor in a safetensors file; an index reads one row."""

    def __init__(self, file: OffsetReader, offset: int, shape: Sequence[int], dtype: str) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype("float32" if dtype == "BF16" else _DTYPES[dtype])
        self._file, self._offset, self._kind = file, offset, dtype
        self._row_bytes = math.prod(self.shape[1:]) * np.dtype(_DTYPES[dtype]).itemsize

    def __getitem__(self, row: int) -> np.ndarray:
        data = self._file.read(self._offset + row * self._row_bytes, self._row_bytes)
        if len(data) != self._row_bytes:
            raise InputError(f"The file was cut short while it was read: image {row} is incomplete.")
        values = np.frombuffer(data, _DTYPES[self._kind])
        if self._kind == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.reshape(self.shape[1:])


class TensorRows(ArrayPart):
    """[N, C, H, W], [N, H, W, C] or [N, H, W] of uint8, or of floats in [0, 1]."""

    def __init__(self, kind: str, path: Path, key: str, tensor: Any, axis: int | None) -> None:
        super().__init__(path, _info(key, tensor), None)
        self.kind, self._tensor, self._axis = kind, tensor, axis

    def loaders(self, rows: np.ndarray, shown: Shown) -> Iterator[Loader]:
        for row in map(int, rows):
            yield functools.partial(self._load, row, shown)

    def _load(self, row: int, shown: Shown) -> Picture:
        array = to_numpy(self._tensor[row])
        return shown(array.transpose(1, 2, 0) if self._axis == 0 else array, row)


def _read(path: Path, choice: str | None) -> TensorRows:
    if path.suffix.lower() == ".safetensors":
        return _rows_of("safetensors", path, _stored_tensors(path), choice)
    return _read_torch(path, choice)


def _read_torch(path: Path, choice: str | None = None) -> TensorRows:
    return _rows_of("pt", path, _torch_tensors(path), choice)


def _rows_of(kind: str, path: Path, tensors: Mapping[str, Any], choice: str | None) -> TensorRows:
    key = _image_key(str(path), tensors, choice)
    tensor = tensors[key]
    info = _info(key, tensor)
    if info.dtype != np.uint8 and info.dtype.kind != "f":
        raise InputError(f"{path}: {info} is no tensor of images; expected uint8, or floats in [0, 1].")
    try:
        axis = batch_channel_axis(info.shape, True)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    part = TensorRows(kind, path, key, tensor, axis)
    arrays = [_info(name, value) for name, value in tensors.items()]
    part.labels = find_labels(str(path), arrays, info, lambda name: _whole(tensors[name]))
    return part


def _image_key(where: str, tensors: Mapping[str, Any], choice: str | None) -> str:
    """The chosen tensor, one of a usual name, or the only one: a checkpoint holds many of any shape."""
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
    file, size = OffsetReader(path), path.stat().st_size
    try:
        (length,) = struct.unpack("<Q", file.read(0, 8))
        if length > min(_MAX_HEADER, size - 8):
            raise ValueError("its header is longer than the file")
        header = json.loads(file.read(8, length))
        entries = {key: entry for key, entry in header.items() if key != "__metadata__" and entry["dtype"] in _DTYPES}
        for key, entry in entries.items():
            _check_entry(key, entry, size - 8 - length)
    except (*DAMAGE, RecursionError) as error:
        raise InputError(f"{path} is no safetensors file, or is truncated or damaged ({first_line(error)}).") from error
    return {
        key: StoredTensor(file, 8 + length + entry["data_offsets"][0], entry["shape"], entry["dtype"])
        for key, entry in entries.items()
    }


def _check_entry(key: str, entry: Any, size: int) -> None:
    (start, stop), shape = entry["data_offsets"], entry["shape"]
    if not all(type(number) is int and number >= 0 for number in (start, stop, *shape)):
        raise ValueError(f"the shape or the place of {key} is not made of whole numbers")
    if stop - start != math.prod(shape) * np.dtype(_DTYPES[entry["dtype"]]).itemsize or stop > size:
        raise ValueError(f"{key} ends before its last value")


def _torch_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a .pt file: one alone, or a dict of them. Nothing but tensors and plain values is unpickled."""
    import torch

    try:
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        if is_zip:
            check_zip(path)
        with utf8_path(path) as readable, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            loaded = torch.load(readable, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors or is damaged, and fdr runs no code from files; save the tensor alone."
        ) from error
    except DAMAGE as error:
        raise InputError(f"{path} is no torch file, or is truncated or damaged ({first_line(error)}).") from error
    if isinstance(loaded, torch.Tensor):
        return {"tensor": loaded}
    found = {str(key): value for key, value in loaded.items()} if isinstance(loaded, Mapping) else {}
    found = {key: value for key, value in found.items() if isinstance(value, torch.Tensor)}
    if not found:
        raise InputError(f"{path} holds a {type(loaded).__name__} without a tensor; expected one tensor of images.")
    return found
