"""Noise and labels of samples. Those of sample i depend on (seed, i) alone, not on the batch, the rank or the device.

Every sample has its own stream of random numbers: SFC64, seeded by NumPy's `SeedSequence` of the seed, the purpose and
the number of the sample. NumPy promises never to change these two, but not its normal distribution, so we have our own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from fdr.errors import InputError

SAMPLING_VERSION = 1
"""Raised whenever a release draws other noise or labels for the same seed, so that no cached feature is stale."""
NOISE, LABELS, NETWORK, POSTERIOR, NEIGHBOUR = 0, 1, 2, 3, 4
"""Purposes of a stream. Their numbers must not change, so only append. POSTERIOR is the posterior noise of
autoencoders, NEIGHBOUR the choice of a neighbour in iFID."""
LABEL_POLICIES = ("random", "balanced")
Labels = str | int
"""One of `LABEL_POLICIES`, or a class number that all samples get."""


def noise_of(
    seed: int,
    indices: Iterable[int],
    shape: Sequence[int],
    device: torch.device | str | None = None,
    purpose: int = NOISE,
) -> Tensor:
    """Standard normal noise of the samples `indices`, float32 [len(indices), *shape]. It is drawn on the CPU.

    The values are the normal quantiles of (k + 1/2) / 2^24 for random k: within 5.5 of zero, with a variance of 1 to
    1e-6.
    """
    numbers = list(indices)
    noise = torch.empty((len(numbers), math.prod(shape)))
    for row, number in zip(noise, numbers, strict=True):
        _draw_normal(seed, purpose, number, row)
    return noise.reshape(len(numbers), *shape).to(device or "cpu")


def labels_of(
    policy: Labels, seed: int, indices: Iterable[int], num_classes: int, device: torch.device | str | None = None
) -> Tensor:
    """Classes of the samples `indices`, int64 [len(indices)].

    "random" draws each class from all classes, "balanced" takes i modulo `num_classes`, and a number is the class of
    all samples.
    """
    if policy == "random":
        chosen = [int(_stream(seed, LABELS, index).random_raw()) % num_classes for index in indices]
    elif policy == "balanced":
        chosen = [index % num_classes for index in indices]
    else:
        chosen = [int(policy) for _ in indices]
    return torch.tensor(chosen, dtype=torch.int64, device=device)


def network_seed(seed: int, index: int) -> int:
    """The seed of torch's generator for the batch that begins at sample `index`, for networks that draw random
    numbers."""
    return int(_stream(seed, NETWORK, index).random_raw())


def uniform_of(seed: int, purpose: int, indices: Iterable[int]) -> np.ndarray:
    """One number in [0, 1) for each of `indices`, float64 [len(indices)]."""
    words = [int(_stream(seed, purpose, index).random_raw()) for index in indices]
    return (np.array(words, np.uint64) >> np.uint64(11)) * 2.0**-53


def check_labels(policy: Labels, num_classes: int | None) -> Labels:
    """The label policy, with the text "7" made a number.

    Raises `InputError` for a class that the generator does not have.
    """
    if policy in LABEL_POLICIES:
        return policy
    try:
        label = int(policy)
    except ValueError:
        raise InputError(
            f"Labels are {' or '.join(LABEL_POLICIES)}, or the number of a class; got {policy!r}."
        ) from None
    if num_classes is None:
        raise InputError(f"Class {label} was asked for, but the generator is unconditional; leave out the labels.")
    if not 0 <= label < num_classes:
        raise InputError(f"Class {label} was asked for, but the generator has the classes 0 to {num_classes - 1}.")
    return label


def _stream(seed: int, purpose: int, index: int) -> np.random.SFC64:
    return np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(purpose, index)))


def _draw_normal(seed: int, purpose: int, index: int, out: Tensor) -> None:
    """Fill the noise of one sample.

    Samples are drawn one by one, so that vector units treat all of them alike, wherever they are in the batch.
    """
    words = _stream(seed, purpose, index).random_raw((out.numel() + 1) // 2).astype("<u8", copy=False)
    bits = torch.from_numpy(words.view("<i4")[: out.numel()])
    bits.bitwise_right_shift_(8)  # 24 bits: exact in float32
    out.copy_(bits).mul_(2.0**-23).add_(2.0**-24).erfinv_().mul_(math.sqrt(2))
