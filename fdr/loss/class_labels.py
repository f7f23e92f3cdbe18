"""The labels of a conditional loss: how a batch carries them, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fdr.errors import InputError

NO_LABELS = torch.empty(0, dtype=torch.int64)


def checked_ratio(ratio: float | None) -> float | None:
    """`ratio` as a float, or None. Raises `InputError` unless it is a number above 0."""
    if ratio is None:
        return None
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not (math.isfinite(ratio) and ratio > 0):
        raise InputError(
            f"conditional is {ratio!r}; expected the ratio of the conditional gradient to that of FD, a number above 0 "
            "such as 2.0, or None for no conditional term."
        )
    return float(ratio)


def images_and_labels(batch: Any, num_classes: int | None) -> tuple[Any, Tensor | None]:
    """The images and the labels of a batch: a pair where the loss is conditional, images alone where it is not."""
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], checked_labels(batch[1], batch[0], num_classes)
    return batch, checked_labels(None, batch, num_classes)


def checked_labels(labels: Any, images: Any, num_classes: int | None) -> Tensor | None:
    """int64 labels [B] of `images` [B, 3, H, W]; None for a loss without classes.

    Raises `InputError` for labels that are missing, of another number than the images, no whole numbers or no classes
    of the reference, and for labels that a loss without a conditional term has no use for.
    """
    if num_classes is None:
        if labels is None:
            return None
        raise InputError("Labels were given, but this loss has no conditional term; make it FDLoss(conditional=2.0).")
    if labels is None:
        raise InputError(
            "The labels of the images are missing, and the loss is conditional; call loss(images, labels), and give "
            "(images, labels) where a batch is made by a function or an iterable."
        )
    found = torch.as_tensor(labels)
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool or found.ndim != 1:
        raise InputError(
            f"Labels have shape {list(found.shape)} and dtype {found.dtype}; expected one whole number for each image."
        )
    if len(found) != len(images):
        raise InputError(f"There are {len(found)} labels for {len(images)} images; expected one for each.")
    if len(found) and not 0 <= int(found.min()) <= int(found.max()) < num_classes:
        raise InputError(
            f"Labels go from {int(found.min())} to {int(found.max())}, and the reference has the classes 0 to "
            f"{num_classes - 1}; generator and reference must have the same classes."
        )
    return found.detach().to(torch.int64)


def joined_labels(labels: Sequence[Tensor | None]) -> Tensor | None:
    """The labels of all chunks of a batch; None for a loss without classes."""
    found = [own for own in labels if own is not None]
    return torch.cat(found) if found else None


def check_same_labels(first: Tensor | None, second: Tensor | None, chunk: int) -> None:
    """Raise `InputError` unless both passes of a chunk had the same labels."""
    if first is not None and second is not None and not torch.equal(first, second):
        raise InputError(f"generate({chunk}) gave other labels the second time; draw them from a seed of the chunk.")
