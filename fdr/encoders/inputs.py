"""Decoded images of any sizes -> one batch of network input, on the host or on the encoder's device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fdr.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fdr.encoders.base import AbstractEncoder

_HOST_BATCH = 4
"""Images that are preprocessed together on a CPU."""


def preprocessed(encoder: AbstractEncoder, images: Sequence[Tensor]) -> Tensor:
    """Images [3, H, W] of any sizes, uint8 or float32 in [0, 1] -> network input [B, 3, h, w].

    Runs where the encoder wants it: on the host, or on its device. Images of one size share calls; on the host a few
    at a time, so that the temporaries of a resize stay in the processor's cache and out of the memory peak.
    """
    import torch

    device = torch.device("cpu") if encoder.host_preprocess else encoder.device
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault((image.dtype, *image.shape), []).append(index)
    step = _HOST_BATCH if device.type == "cpu" else len(images)
    inputs: Tensor | None = None
    with torch.inference_mode():
        for indices in groups.values():
            for at in range(0, len(indices), step):
                chosen = indices[at : at + step]
                part = _preprocessed_alike(encoder, [images[index] for index in chosen], device)
                if inputs is None:
                    inputs = part.new_empty((len(images), *part.shape[1:]))
                if part.shape[1:] != inputs.shape[1:]:
                    sizes = ", ".join(f"{shape[-1]}x{shape[-2]}" for shape in list(groups)[:3])
                    raise InputError(
                        f"{encoder.spec.name} takes images as they are, and these have several sizes ({sizes}, ...); "
                        "bring them to one size with --size, or resize in the encoder."
                    )
                inputs[chosen] = part
    assert inputs is not None
    return inputs


def _preprocessed_alike(encoder: AbstractEncoder, images: Sequence[Tensor], device: torch.device) -> Tensor:
    import torch

    stack = torch.stack(tuple(images))
    if device.type == "cuda":
        stack = stack.pin_memory().to(device, non_blocking=True)
    scaled = stack.float().div_(255) if stack.dtype == torch.uint8 else stack
    return encoder.preprocess(scaled.to(device))
