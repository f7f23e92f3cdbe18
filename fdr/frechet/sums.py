"""Running sums over features: count, mean and scatter, the one accumulation behind every `Moments`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fdr.errors import InputError
from fdr.frechet.covariance import as_numpy, is_tensor
from fdr.runtime import resolve_device

if TYPE_CHECKING:
    import torch

BLOCK_ROWS = 2048
"""Rows that are summed together, however the features arrive, so that the same rows in order give the same bits.

Changing it changes the last digits of every result.
"""


def chan_update(count: int, mean: Any, scatter: Any, rows: int, other_mean: Any, other: Any) -> tuple[int, Any]:
    """Merge (rows, other_mean, other) into (count, mean, scatter) by Chan, Golub and LeVeque (1979).

    Returns the new count and mean; `scatter` [D, D], the sum of centred outer products, is updated in place.
    """
    total = count + rows
    delta = other_mean - mean
    scatter += other
    if count == 0:
        return total, mean + delta
    scatter += delta[:, None] * (delta * (count * rows / total))[None, :]
    return total, mean + delta * (rows / total)


def batches(features: Any) -> Iterator[Any]:
    """The batches of `features`; one two-dimensional array (also one on disk) is cut into blocks."""
    if isinstance(features, str | bytes | os.PathLike):
        raise InputError(
            f"Features are expected, not the path {os.fspath(features)!r}; read moments with Moments.load."
        )
    if isinstance(features, Mapping):
        raise _several_encoders()
    if hasattr(features, "shape"):
        _check_rows(features)
        for start in range(0, features.shape[0], BLOCK_ROWS):
            yield features[start : start + BLOCK_ROWS]
    elif isinstance(features, Iterable):
        yield from features
    else:
        raise InputError(f"Features are expected as [N, D] or as batches of it; got {type(features).__name__}.")


class Sums:
    """Running sums over features [n, D], in float64: by NumPy on the CPU (its X^T X is a symmetric rank-k update,
    a quarter faster than torch's product), by torch on CUDA.

    Each block is centred on its own mean, so that a large mean costs no digits. While there are no more rows than
    columns they are kept, too: they are then the exact factor of a singular covariance.
    """

    def __init__(self, device: str | torch.device | None) -> None:
        self.device = device
        self.count = 0
        self.mean: Any = None
        self.scatter: Any = None
        self.block: Any = None
        self.filled = 0
        self.kept: list[Any] | None = []

    def add(self, batch: Any) -> None:
        """Add features [n, D], of any n, real dtype and device."""
        if isinstance(batch, Mapping):
            raise _several_encoders()
        batch = batch if is_tensor(batch) else np.asarray(batch)
        _check_rows(batch)
        if self.block is None:
            self._start(batch)
        elif batch.shape[1] != self.block.shape[1]:
            raise InputError(
                f"A batch of width {batch.shape[1]} follows batches of width {self.block.shape[1]}; "
                "one encoder gives one width."
            )
        batch = self._beside_block(batch)
        start = 0
        while start < len(batch):
            stop = min(len(batch), start + BLOCK_ROWS - self.filled)
            self.block[self.filled : self.filled + stop - start] = batch[start:stop]
            self.filled += stop - start
            start = stop
            if self.filled == BLOCK_ROWS:
                self._flush()

    def state(self) -> list[np.ndarray]:
        """Count, mean [D], scatter [D, D], and the kept rows [N, D] while there are no more than columns."""
        self._flush()
        if self.count == 0:
            return []
        kept = [] if self.kept is None else [np.concatenate([as_numpy(rows) for rows in self.kept])]
        return [np.array(self.count), as_numpy(self.mean), as_numpy(self.scatter), *kept]

    def absorb(self, state: list[np.ndarray]) -> None:
        """Add the `state` of other sums that were made on a CPU; exact up to rounding."""
        if not state:
            return
        count, mean, scatter, *kept = state
        self._flush()
        if self.block is None:
            self._start(np.empty((0, len(mean))))
        has_kept = self.kept is not None and bool(kept) and self.count + count <= len(mean)
        self.kept = [*(self.kept or []), kept[0]] if has_kept else None
        self.count, self.mean = chan_update(self.count, self.mean, self.scatter, int(count), mean, scatter)

    def finish(self, ddof: int) -> tuple[np.ndarray, np.ndarray, int, np.ndarray | None]:
        """mu [D], sigma [D, D], count and the centred rows [N, D] (None beyond N = D)."""
        self._flush()
        if self.count < 2:
            raise InputError(f"{self.count} sample{'' if self.count == 1 else 's'} given; moments need at least 2.")
        mean, scatter, factor = as_numpy(self.mean), as_numpy(self.scatter), None
        if self.kept is not None:
            factor = np.concatenate([as_numpy(rows) for rows in self.kept]) - mean
            with np.errstate(over="ignore", invalid="ignore"):
                scatter = factor.T @ factor
        if not np.isfinite(scatter).all():
            raise InputError("The features are too large: their squares overflow float64; expected values below 1e150.")
        return mean, scatter / (self.count - ddof), self.count, factor

    def _start(self, first: Any) -> None:
        dim = first.shape[1]
        if dim == 0:
            raise InputError("Features have width 0; expected [N, D] with D of at least 1.")
        device = self._torch_device(first)
        if device is None:
            self.block, self.mean, self.scatter = np.empty((BLOCK_ROWS, dim)), np.zeros(dim), np.zeros((dim, dim))
        else:
            import torch

            self.block = torch.empty(BLOCK_ROWS, dim, dtype=torch.float64, device=device)
            self.mean, self.scatter = self.block.new_zeros(dim), self.block.new_zeros(dim, dim)

    def _torch_device(self, first: Any) -> torch.device | None:
        """The CUDA device to accumulate on; None for NumPy (the CPU, and MPS, which has no float64)."""
        if self.device is not None:
            device = resolve_device(str(self.device))
        elif is_tensor(first):
            device = first.device
        else:
            return None
        return device if device.type == "cuda" else None

    def _beside_block(self, batch: Any) -> Any:
        """`batch` in a form that can be assigned to rows of the block, which casts it to float64."""
        if not is_tensor(self.block):
            return as_numpy(batch)
        import torch

        return batch if is_tensor(batch) else torch.from_numpy(np.array(batch))

    def _flush(self) -> None:
        """Add the filled rows of the block, which are overwritten."""
        if self.filled == 0:
            return
        block, rows = self.block[: self.filled], self.filled
        mean = block.mean(0)
        if not bool((abs(mean) < np.inf).all()):
            raise _non_finite(as_numpy(block), self.count)
        if self.kept is not None:
            self.kept = [*self.kept, block + 0.0] if self.count + rows <= block.shape[1] else None
        block -= mean
        with np.errstate(over="ignore", invalid="ignore"):  # `finish` looks for it
            self.count, self.mean = chan_update(self.count, self.mean, self.scatter, rows, mean, block.T @ block)
        self.filled = 0


def _check_rows(batch: Any) -> None:
    if len(batch.shape) != 2:
        raise InputError(f"Features have shape {list(batch.shape)}; expected [N, D], one row per image.")
    if is_tensor(batch):
        is_real = not batch.is_complex()
    else:
        is_real = batch.dtype.kind in "fiu"
    if not is_real:
        raise InputError(f"Features have dtype {batch.dtype}; expected real numbers.")


def _several_encoders() -> InputError:
    return InputError("Features of several encoders were given (a mapping); pass those of one encoder.")


def _non_finite(block: np.ndarray, start: int) -> InputError:
    bad = np.flatnonzero(~np.isfinite(block).all(axis=1)) + start
    shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
    return InputError(
        f"Features hold NaN or infinity in {len(bad)} of the rows {start} to {start + len(block) - 1} "
        f"(row{'' if len(bad) == 1 else 's'} {shown}); the encoder overflowed or an image is broken."
    )
