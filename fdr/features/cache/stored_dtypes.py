"""The types that features are stored in: float32, or float16 or bfloat16 (half the bytes, rounded to nearest even)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fdr.errors import InputError, unknown

if TYPE_CHECKING:
    import h5py
    from torch import Tensor

STORED = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}
"""HDF5 has no bfloat16: its bits are kept as integers, and the attribute `dtype` of the dataset says so."""


def check_stored(dtype: str) -> str:
    """Return `dtype` if features can be stored in it; else raise `InputError` with near matches."""
    if dtype not in STORED:
        raise unknown("dtype of stored features", dtype, STORED)
    return dtype


def item_size(dtype: str) -> int:
    """Bytes of one stored value."""
    return int(STORED[dtype][-1])


def encoded(features: np.ndarray, dtype: str) -> np.ndarray:
    """Convert float32 features [n, D] to the stored type. Raises `InputError` if a value does not fit into float16."""
    if dtype == "float32":
        return features
    if dtype == "bfloat16":
        bits = features.view(np.uint32)
        return ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    with np.errstate(over="ignore"):
        half = features.astype(np.float16)
    if not np.isfinite(half).all():
        largest = float(np.abs(features).max())
        raise InputError(
            f"A value of {largest:.4g} does not fit into float16, which ends at 65504; store it as bfloat16 or float32."
        )
    return half


def write_dataset(file: h5py.File, name: str, features: np.ndarray, dtype: str) -> None:
    """Write float32 features [n, D] into `file`, stored as `dtype`."""
    dataset = file.create_dataset(name, data=encoded(features, dtype), dtype=STORED[dtype])
    if dtype == "bfloat16":
        dataset.attrs["dtype"] = dtype


def read_dataset(dataset: h5py.Dataset) -> np.ndarray:
    """Read what `write_dataset` wrote as float32 [n, D]."""
    values = dataset[:]
    if _is_bfloat16(dataset):
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def read_tensor(dataset: h5py.Dataset) -> Tensor:
    """Read what `write_dataset` wrote as a tensor [n, D] in the stored type."""
    import torch

    values = torch.from_numpy(dataset[:])
    return values.view(torch.bfloat16) if _is_bfloat16(dataset) else values


def _is_bfloat16(dataset: h5py.Dataset) -> bool:
    return dataset.attrs.get("dtype") == "bfloat16"
