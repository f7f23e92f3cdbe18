"""Decoded images of any sizes become one batch of network input, which is uploaded while the last one is computed."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fdr.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fdr.encoders import AbstractEncoder

_HOST_BATCH = 4
"""Images that are preprocessed together on a CPU, so that the temporaries of a resize stay in its cache."""


@dataclass(frozen=True)
class StagedBatch:
    """A batch on its way into an encoder. The thread that runs the network calls `inputs` once."""

    encoder: AbstractEncoder
    parts: list[tuple[Tensor, Tensor]]
    """(rows of the batch, their images [n, 3, H, W] or network inputs) on the encoder's device; one part per size."""
    is_preprocessed: bool
    uploaded: torch.cuda.Event | None
    """The event that is reached when the parts are on the GPU; None on a CPU."""

    def inputs(self) -> Tensor:
        """Finish the preprocessing, and return the network input [B, 3, h, w] on the encoder's device."""
        import torch

        if self.uploaded is not None:
            stream = torch.cuda.current_stream(self.encoder.device)
            stream.wait_event(self.uploaded)
            for tensor in (tensor for part in self.parts for tensor in part):
                tensor.record_stream(stream)  # allocated for another stream, it may be freed only after this one
        if self.is_preprocessed:
            return self.parts[0][1]
        done = ((rows, _preprocessed(self.encoder, part)) for rows, part in self.parts)
        return _assembled(self.encoder, done, sum(len(rows) for rows, _ in self.parts))


def stage(encoder: AbstractEncoder, images: Sequence[Tensor]) -> StagedBatch:
    """Prepare images [3, H, W] of any sizes, uint8 or float32 in [0, 1], while the network works on an earlier batch.

    On a CPU, and for encoders that resize on the host, the images become network input here. A GPU receives the images
    from pinned memory on a separate stream and preprocesses them itself.
    """
    import torch

    device = encoder.device
    with torch.inference_mode():
        is_preprocessed = encoder.host_preprocess or device.type == "cpu"
        if is_preprocessed:
            parts = [(torch.arange(len(images)), _on_host(encoder, images))]
        else:
            parts = [(rows, torch.stack([images[row] for row in rows])) for rows in _alike(images)]
        if device.type != "cuda":
            parts = [(rows, part.to(device)) for rows, part in parts]
            return StagedBatch(encoder, parts, is_preprocessed, None)
        stream = _upload_stream(device)
        with torch.cuda.stream(stream):
            parts = [(_upload(rows, device), _upload(part, device)) for rows, part in parts]
            return StagedBatch(encoder, parts, is_preprocessed, stream.record_event())


def _upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy from pinned memory on the current stream; the host does not wait."""
    return tensor.pin_memory().to(device, non_blocking=True)


def _alike(images: Sequence[Tensor]) -> list[Tensor]:
    """The positions of the images, one tensor for each size and dtype."""
    import torch

    groups: dict[tuple[Any, ...], list[int]] = {}
    for row, image in enumerate(images):
        groups.setdefault((image.dtype, *image.shape), []).append(row)
    return [torch.tensor(rows) for rows in groups.values()]


def _on_host(encoder: AbstractEncoder, images: Sequence[Tensor]) -> Tensor:
    import torch

    parts = (
        (rows[at : at + _HOST_BATCH], torch.stack([images[row] for row in rows[at : at + _HOST_BATCH]]))
        for rows in _alike(images)
        for at in range(0, len(rows), _HOST_BATCH)
    )
    return _assembled(encoder, ((rows, _preprocessed(encoder, part)) for rows, part in parts), len(images))


def _preprocessed(encoder: AbstractEncoder, images: Tensor) -> Tensor:
    return encoder.preprocess(images if images.is_floating_point() else images.float().div_(255))


def _assembled(encoder: AbstractEncoder, parts: Iterable[tuple[Tensor, Tensor]], count: int) -> Tensor:
    """Put the parts (rows of the batch, their inputs) together to one batch. All must have one size by now."""
    inputs: Tensor | None = None
    for rows, part in parts:
        if len(rows) == count:
            return part
        if inputs is None:
            inputs = part.new_empty((count, *part.shape[1:]))
        if part.shape[1:] != inputs.shape[1:]:
            sizes = ", ".join(f"{shape[-1]}x{shape[-2]}" for shape in (inputs.shape, part.shape))
            raise InputError(
                f"{encoder.spec.name} takes images as they are, and these have several sizes ({sizes}, ...); "
                "bring them to one size with --size, or resize in the encoder."
            )
        inputs[rows] = part
    assert inputs is not None
    return inputs


@functools.cache
def _upload_stream(device: torch.device) -> torch.cuda.Stream:
    import torch

    return torch.cuda.Stream(device)
