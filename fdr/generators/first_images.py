"""A few images of a new generator show whether it does what it declares."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fdr.errors import InputError, warn
from fdr.generators.base import OUTSIDE_SHARE, OVERSHOOT, Generator
from fdr.generators.labels import labels_of, noise_of
from fdr.runtime import described, is_out_of_memory

CHECKED_SAMPLES = 4
"""Samples that a new generator makes. Raising it makes loading slower and the check of the value range surer."""

_aten = torch.ops.aten
_LOOKUPS: dict[Any, Callable[..., list[tuple[int, Any]]]] = {
    _aten.embedding.default: lambda table, index, *_: [(table.shape[0], index)],
    _aten.index_select.default: lambda table, dim, index: [(table.shape[dim], index)],
    _aten.gather.default: lambda table, dim, index, *_: [(table.shape[dim], index)],
    _aten.scatter_.value: lambda table, dim, index, *_: [(table.shape[dim], index)],  # one_hot
    _aten.scatter.value: lambda table, dim, index, *_: [(table.shape[dim], index)],
    _aten.index.Tensor: lambda table, indices: list(zip(table.shape, indices, strict=False)),
}
"""For each operation that looks up rows of a table: the length of the table, and the index."""


class LabelBounds(TorchDispatchMode):
    """Inside, a label beyond a network's table is an `IndexError` on every device. On a GPU it would end the process.

    Each look-up waits for the device.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for length, index in _LOOKUPS[func](*args) if func in _LOOKUPS else ():
            if isinstance(index, Tensor) and index.dtype in (torch.int32, torch.int64) and index.numel():
                least, most = (int(value) for value in index.aminmax())
                if least < -length or most >= length:
                    raise IndexError(f"index {most if most >= length else least} in a table of {length} rows")
        return func(*args, **(kwargs or {}))


def check_first_images(generator: Generator) -> None:
    """Make a few images, and set the generator's `image_size`.

    The last label is among theirs, which a network of fewer classes cannot take. Raises `InputError` if the result is
    no batch of images, not finite, or outside of the declared range. A one-step form of a diffusion model that leaves
    its range gets an `FdrWarning` instead.
    """
    refuse_empty(generator.network, generator.name)
    labels = None
    if generator.num_classes is not None:
        labels = labels_of("random", 0, range(CHECKED_SAMPLES), generator.num_classes, generator.device)
        labels[-1] = generator.num_classes - 1
    try:
        images = _first_images(generator, labels)
    except InputError:
        raise
    except BaseException as error:  # a user's network may raise anything
        if is_out_of_memory(error) or isinstance(error, KeyboardInterrupt):
            raise
        raise _failure(generator, error, labels) from error
    _check_range(generator, images)
    generator.image_size = (images.shape[2], images.shape[3])


def _first_images(generator: Generator, labels: Tensor | None) -> Tensor:
    is_cuda = generator.device.type == "cuda"
    noise = noise_of(0, range(CHECKED_SAMPLES), generator.noise_shape, generator.device)
    bounds = LabelBounds() if is_cuda and labels is not None else contextlib.nullcontext()
    with torch.no_grad(), torch.random.fork_rng([generator.device] if is_cuda else []), bounds:
        return generator(noise, labels)


def _failure(generator: Generator, error: BaseException, labels: Tensor | None) -> InputError:
    """The sentence for a network that failed at once: what it was given, and what to check."""
    shape = [CHECKED_SAMPLES, *generator.noise_shape]
    if labels is not None and generator.num_classes is not None and isinstance(error, Exception):
        with contextlib.suppress(Exception):
            _first_images(generator, torch.zeros_like(labels))
            return InputError(
                f"{generator.name} takes label 0, but fails on labels up to {generator.num_classes - 1} "
                f"({described(error)}): it holds fewer classes than --num-classes {generator.num_classes}."
            )
    takes = "noise" if labels is None else "noise and labels"
    return InputError(
        f"{generator.name} failed on {takes} of shape {shape} ({described(error)}); check the noise shape and the "
        "number of classes, and that it was saved for batches of any length."
    )


def _check_range(generator: Generator, images: Tensor) -> None:
    if not bool(images.isfinite().all()):
        raise InputError(f"{generator.name} makes values that are not finite; check its weights.")
    outside = ((images < -OVERSHOOT) | (images > 1 + OVERSHOOT)).float().mean().item()
    if outside <= OUTSIDE_SHARE:
        return
    low, high = generator.spec.value_range
    least, most = (float(value) * (high - low) + low for value in images.aminmax())
    found = (
        f"{generator.name} makes values from {least:.3g} to {most:.3g}, {outside:.0%} of them outside of its value "
        f"range {low:g}:{high:g}"
    )
    if getattr(generator.network, "may_leave_range", False):
        warn(f"{found}: its one-step images are far from images yet; samples are clamped.")
        return
    advice = "declare -1:1" if low == 0 and least > -1.5 and most < 1.5 else "end it in a sigmoid or tanh"
    raise InputError(f"{found}; {advice}.")


def refuse_empty(network: nn.Module, name: str) -> None:
    """Raise `InputError` for a network with tensors on the device meta, which have a shape and no values."""
    tensors = itertools.chain(network.named_parameters(), network.named_buffers())
    empty = [key for key, tensor in tensors if tensor.is_meta]
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise InputError(
            f"{name} has tensors on the device meta, which hold no values ({empty[0]}{more}); make the network on the "
            "CPU, or give it its values with to_empty and load_state_dict."
        )
