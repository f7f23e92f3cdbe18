"""Statistics in torch files, such as the cache of torch-fidelity, read with torch's restricted unpickler."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fdr.errors import InputError
from fdr.frechet import as_numpy, is_tensor, listing
from fdr.images import holds_images
from fdr.references.formats.base import Content, Format, StatisticsFile, Writer
from fdr.references.formats.named_arrays import as_mapping, read_pairs
from fdr.references.formats.npy import features_entry
from fdr.runtime import atomic_path, check_torch_file, utf8_path

BLOCK_ROWS = 2048
"""Rows in a block of features. Larger blocks take more memory and change no number."""
LEGACY_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of torch before 1.6 go on after two bytes: a pickled magic number."""


def _recognises(start: bytes, members: Any) -> bool:
    is_legacy = start.startswith(b"\x80") and start[2:].startswith(LEGACY_TORCH)
    return is_legacy or any(name == "data.pkl" or name.endswith("/data.pkl") for name in members)


def _open(path: Path) -> StatisticsFile:
    """Open a mapping with mu and sigma, a tensor of features, or a mapping of such tensors by layer."""
    loaded = as_mapping(load_torch(path))
    data = loaded if isinstance(loaded, dict) else {"features": loaded}
    pairs = read_pairs(data, str(path))
    if pairs:
        return StatisticsFile(path, "torch-fidelity", pairs)
    readers = {}
    for key, value in data.items():
        if is_tensor(value) and value.ndim == 2 and value.is_floating_point():
            dtype = as_numpy(value[:0]).dtype  # the dtype of the rows; float16 becomes float32
            entry = features_entry(str(key), f"{str(path)!r}: {key}", tuple(value.shape), dtype)
            readers[entry] = partial(_blocks, value)
    if not readers:
        held = listing([str(key) for key in data]) if isinstance(loaded, dict) else type(loaded).__name__
        raise InputError(f"{str(path)!r} is a torch file without mu and sigma or features; it holds {held}.")
    return StatisticsFile(path, "torch-fidelity", readers)


def _blocks(features: Any) -> Iterator[np.ndarray]:
    for start in range(0, len(features), BLOCK_ROWS):
        yield as_numpy(features[start : start + BLOCK_ROWS])


def load_torch(path: Path) -> Any:
    """Load a torch file; tensors are memory-mapped after a check of checksums. Raises `InputError` for objects."""
    import torch

    try:
        check_torch_file(path)
        with torch.serialization.safe_globals(_numpy_globals()), warnings.catch_warnings(), utf8_path(path) as readable:
            warnings.simplefilter("ignore")
            return torch.load(readable, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # torch raises what its readers raise: KeyError, RuntimeError, UnpicklingError, ...
        reason = " ".join(str(error).split())
        if "Unsupported" in reason or "weights_only" in reason or "GLOBAL" in reason:
            raise InputError(
                f"{str(path)!r} is a torch file with Python objects other than tensors and arrays, which could run "
                "code and are not opened; save a dict of mu and sigma."
            ) from None
        raise InputError(f"{str(path)!r} is truncated or damaged ({reason[:120]}); copy or compute it again.") from None


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def _numpy_globals() -> list[Any]:
    """The NumPy names that arrays in a torch file need, under the module names of NumPy 1 and 2."""
    reconstruct, scalar = np._core.multiarray._reconstruct, np._core.multiarray.scalar  # type: ignore[attr-defined]
    named = [
        (function, f"{module}.multiarray.{name}")
        for module in ("numpy.core", "numpy._core")
        for name, function in (("_reconstruct", reconstruct), ("scalar", scalar))
    ]
    dtypes = [type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8")]
    return [*named, np.ndarray, np.dtype, *dtypes]


def _write(path: Path, content: Content) -> None:
    """Write an item as torch-fidelity keeps it in its cache: a dictionary of mu and sigma."""
    import torch

    statistics = {"mu": np.array(content.main.mu), "sigma": np.array(content.main.sigma)}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        torch.save(statistics, file)


FORMAT = Format(
    recognises=_recognises,
    open=_open,
    is_statistics=lambda path: not holds_images(path),
    writers={"torch-fidelity": Writer(_write, "torch-fidelity's cache item: a torch file of mu and sigma", (".pt",))},
)
