"""Passes over weighted features [N, D], block by block: their moments, and quadratic forms of every row.

On the CPU both passes take half the products: a symmetric rank-k update for the covariance, and a triangular matrix for
the quadratic form. They run in the precision that the features are given in, with sums over blocks in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fdr.errors import InputError
from fdr.frechet import linalg

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CHUNK_VALUES = 2**22
"""Numbers in a block of features (32 MiB). Raising it takes more memory and gives larger products."""
MAX_BLOCK_ROWS = 4096
"""Rows that are summed in the precision of the features. Raising it lets float32 sums lose more digits."""


class Rows(Protocol):
    """Features less an offset near their mean."""

    offset: np.ndarray
    """float64 [D]."""

    def moments(self, shares: np.ndarray) -> tuple[Tensor, Tensor]:
        """The mean [D], less the offset, and the covariance [D, D], with shares [N] that sum to 1; float64."""

    def slopes(self, mean: Tensor, difference: Tensor, half_map: Tensor) -> np.ndarray:
        """2 x^T d + N / (N - 1) (|x|^2 - |W^T x|^2) of every row x less `mean`, [N], for d [D] and W [D, r]."""


def rows_of(features: np.ndarray, device: torch.device, *, exact: bool = True) -> Rows:
    """The rows on a device. They are computed with in float64 unless they are float32 on the CPU and not `exact`."""
    if len(features) < 2:
        raise InputError(f"Got {len(features)} sample(s); a covariance needs at least 2.")
    if device.type == "cuda":
        return DeviceRows(features, device)
    return HostRows(features, np.float64 if exact or features.dtype != np.float32 else np.float32)


class HostRows:
    """Rows on the CPU, by NumPy's and SciPy's BLAS; `dtype` is that of the products."""

    def __init__(self, features: np.ndarray, dtype: type[np.floating]) -> None:
        self._features, self._dtype = features, dtype
        self._offset = features.mean(0, dtype=np.float64).astype(dtype)
        self.offset = self._offset.astype(np.float64)

    def moments(self, shares: np.ndarray) -> tuple[Tensor, Tensor]:
        import torch

        count, width = self._features.shape
        mean, second = np.zeros(width), np.zeros((width, width))
        weights = (count * shares).astype(self._dtype)
        for place, x in self._blocks():
            mean += weights[place] @ x
            x *= np.sqrt(weights[place])[:, None]
            second += x.T @ x  # NumPy takes a symmetric update for this product
        mean /= count
        sigma = (second / count - mean[:, None] * mean) * (count / (count - 1))
        return torch.from_numpy(mean), torch.from_numpy(sigma)

    def slopes(self, mean: Tensor, difference: Tensor, half_map: Tensor) -> np.ndarray:
        from scipy.linalg.blas import dtrmm, strmm

        product = strmm if self._dtype == np.float32 else dtrmm
        count = len(self._features)
        centre, direction = (one.numpy().astype(self._dtype) for one in (mean, difference))
        triangle, found = np.asfortranarray(_folded(half_map.numpy()), self._dtype), np.empty(count)
        for place, x in self._blocks():
            x -= centre
            spread = np.einsum("ij,ij->i", x, product(1.0, triangle, x.T, lower=1).T)
            found[place] = 2 * (x @ direction) + count / (count - 1) * spread
        return found

    def _blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Fresh blocks [n, D], which may be overwritten."""
        size = min(MAX_BLOCK_ROWS, max(64, CHUNK_VALUES // self._features.shape[1]))
        for start in range(0, len(self._features), size):
            place = slice(start, start + size)
            yield place, self._features[place].astype(self._dtype) - self._offset


class DeviceRows:
    """Rows on a CUDA device, in float64."""

    def __init__(self, features: np.ndarray, device: torch.device) -> None:
        self._features, self._device = features, device
        self.offset = features.mean(0, dtype=np.float64)
        self._offset = linalg.as_float64(self.offset.copy(), device)

    def moments(self, shares: np.ndarray) -> tuple[Tensor, Tensor]:
        count, width = self._features.shape
        p = linalg.as_float64(shares.copy(), self._device)
        mean, second = self._offset.new_zeros(width), self._offset.new_zeros(width, width)
        for place, x in self._blocks():
            weighted = p[place, None] * x
            mean += weighted.sum(0)
            second.addmm_(weighted.T, x)
        sigma = (second - mean[:, None] * mean) * (count / (count - 1))
        return mean, (sigma + sigma.T) / 2

    def slopes(self, mean: Tensor, difference: Tensor, half_map: Tensor) -> np.ndarray:
        count = len(self._features)
        found = np.empty(count)
        for place, block in self._blocks():
            x = block - mean
            spread = x.square().sum(1) - (x @ half_map).square().sum(1)
            found[place] = (2 * (x @ difference) + count / (count - 1) * spread).cpu().numpy()
        return found

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        import torch

        size = max(64, CHUNK_VALUES // self._features.shape[1])
        for start in range(0, len(self._features), size):
            place = slice(start, start + size)
            yield place, torch.from_numpy(np.array(self._features[place], np.float64)).to(self._device) - self._offset


def _folded(half_map: np.ndarray) -> np.ndarray:
    """L [D, D], lower triangular, with x^T L x = |x|^2 - |W^T x|^2 for every x."""
    found = -2 * np.tril(half_map @ half_map.T)
    diagonal = found.diagonal() / 2 + 1
    np.fill_diagonal(found, diagonal)
    return found
