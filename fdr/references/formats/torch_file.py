"""Reads statistics from torch files, such as the cache of torch-fidelity, with torch's restricted unpickler."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fdr.errors import InputError
from fdr.frechet import Moments, as_numpy, is_tensor, listing, moments_from_arrays
from fdr.references.formats.base import Entry, StatisticsFile
from fdr.references.formats.features import check_features
from fdr.references.formats.npz import Pair, as_mapping, pairs_in
from fdr.runtime import check_torch_file, utf8_path

BLOCK_ROWS = 2048


class TorchStatistics(StatisticsFile):
    """A mapping with mu and sigma, a tensor of features, or a mapping of such tensors by layer."""

    format = "torch-fidelity"

    def __init__(self, path: Path) -> None:
        self.path = path
        data = as_mapping(load_torch(path))
        self._pairs: dict[str, Pair] = {}
        self._features: dict[str, Any] = {}
        self._data: dict[Any, Any] = data if isinstance(data, dict) else {"features": data}
        if pairs := pairs_in(self._data):
            self._pairs = {pair.name: pair for pair in pairs}
            self.entries = tuple(self._pair_entry(pair) for pair in pairs)
            return
        for key, value in self._data.items():
            if is_tensor(value) and value.ndim == 2 and value.is_floating_point():
                self._features[str(key)] = value
        if not self._features:
            held = listing([str(key) for key in self._data]) if isinstance(data, dict) else type(data).__name__
            raise InputError(f"{str(path)!r} is a torch file without mu and sigma or features; it holds {held}.")
        self.entries = tuple(self._feature_entry(name, value) for name, value in self._features.items())

    def _pair_entry(self, pair: Pair) -> Entry:
        mu, sigma = as_numpy(self._data[pair.mu]), as_numpy(self._data[pair.sigma])
        return Entry(pair.name, "moments", mu.size, None, str(sigma.dtype), pair.output, pair.encoders)

    def _feature_entry(self, name: str, value: Any) -> Entry:
        dtype = str(as_numpy(value[:0]).dtype)  # the dtype of the rows that `rows` yields; float16 becomes float32
        check_features(f"{str(self.path)!r}: {name}", tuple(value.shape), np.dtype("f4"))
        return Entry(name, "features", value.shape[1], value.shape[0], dtype)

    def _load(self, entry: Entry) -> Moments:
        if entry.kind == "features":
            return Moments.from_features(self.shown_rows(entry))
        pair = self._pairs[entry.name]
        fields = {"mu": as_numpy(self._data[pair.mu]), "sigma": as_numpy(self._data[pair.sigma])}
        return moments_from_arrays(fields, {}, str(self.path))

    def rows(self, entry: Entry) -> Iterator[np.ndarray]:
        if entry.kind != "features":
            yield from super().rows(entry)
        features = self._features[entry.name]
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
