"""`evaluate_samples`: draw images from a generator within a training loop, always the same noise, and measure them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdr.errors import InputError
from fdr.generators import labels_of, network_seed
from fdr.reports import Report
from fdr.runtime import part_of, tensor_ranks
from fdr.torchmetrics.evaluation import Evaluation
from fdr.torchmetrics.loop_metric import LoopMetric

Sample = Callable[[int, Tensor | None], Tensor]
"""`sample(count, labels)`: images [count, 3, H, W], uint8 or floats in [0, 1]; labels are int64 [count] or None."""


def evaluate_samples(
    metric: LoopMetric,
    sample: Sample,
    num_images: int,
    *,
    batch_size: int = 64,
    seed: int = 0,
    labels: Any = None,
    num_classes: int | None = None,
) -> Report:
    """Draw `num_images` images, over all ranks together, and return the report of the metric, which is reset.

    `sample(count, labels)` makes images [count, 3, H, W], uint8 or floats in [0, 1]. It may draw random numbers from
    torch, NumPy and Python: they are seeded before each batch with `seed` and the number of its first image, so the
    noise is the same every time and for any number of ranks. The program's own random numbers go on afterwards as if
    nothing had been drawn. Gradients are off.

    `labels` are the classes of the images: a sequence [num_images], or "random", "balanced" or a class number as in
    `fdr eval --labels`, which need `num_classes`. They reach `sample` on the device of the metric; None if there are
    none. Every rank calls `sample` equally often, so that a generator may itself be divided among the ranks.

    Raises `InputError` for anything unusable.
    """
    _check(metric, num_images, batch_size)
    classes = _classes(labels, num_images, seed, num_classes)
    ranks = tensor_ranks(metric.process_group, metric.device)
    starts = range(0, num_images, batch_size)
    own, rounds = part_of(ranks, starts), -(-len(starts) // ranks.size)
    metric.reset()
    for turn in range(rounds):
        start = own[turn] if turn < len(own) else starts[-1]  # drawn for the other ranks' sake, and not measured
        count = min(batch_size, num_images - start)
        batch = None if classes is None else classes[start : start + count].to(metric.device)
        with torch.no_grad(), _seeded(network_seed(seed, start)):
            images = sample(count, batch)
        if not isinstance(images, Tensor) or len(images) != count:
            got = len(images) if isinstance(images, Tensor) else type(images).__name__
            raise InputError(
                f"sample(count, labels) was asked for {count} images, a tensor [{count}, 3, H, W]; got {got}."
            )
        if turn < len(own):
            metric.update(images, **({"labels": batch} if isinstance(metric, Evaluation) else {}))
    metric.compute()
    metric.reset()
    assert metric.report is not None
    return metric.report


def _check(metric: Any, num_images: int, batch_size: int) -> None:
    if not isinstance(metric, LoopMetric):
        raise InputError(f"evaluate_samples takes a metric of fdr.torchmetrics; got {type(metric).__name__}.")
    if metric.takes_real and metric.reset_real_features:
        raise InputError(
            "The metric has no reference, and forgets its real images when it is reset; make it with a reference, or "
            "with reset_real_features=False."
        )
    if num_images < 2 or batch_size < 1:
        raise InputError(f"2 or more images in batches of 1 or more are needed; got {num_images} and {batch_size}.")


def _classes(labels: Any, count: int, seed: int, num_classes: int | None) -> Tensor | None:
    """The class of each image, int64 [count]."""
    if labels is None:
        return None
    if isinstance(labels, str | int):
        if num_classes is None:
            raise InputError(f"labels={labels!r} need num_classes, the number of classes of the generator.")
        return labels_of(labels, seed, range(count), num_classes)
    classes = torch.as_tensor(labels)
    if classes.shape != (count,) or classes.is_floating_point():
        raise InputError(f"Labels are whole numbers [{count}], one for each image; got {list(classes.shape)}.")
    return classes.to("cpu", torch.int64)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers of Python, NumPy and torch from this seed; those of the program go on afterwards as before."""
    python, host = random.getstate(), torch.get_rng_state()
    numpy = np.random.get_state()  # noqa: NPY002 - a user's generator may draw from the global state
    apple = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    devices: Sequence[Tensor] = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(host)
        if apple is not None:
            torch.mps.set_rng_state(apple)
        if devices:
            torch.cuda.set_rng_state_all(devices)
