"""Any callable from images [B, 3, H, W] to features [B, D] as an encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fdr import runtime
from fdr.encoders.base import AbstractEncoder, EncoderSpec
from fdr.errors import InputError
from fdr.weights import UNKNOWN, module_digest


class CallableEncoder(AbstractEncoder):
    """A user's callable; it does its own resize and normalisation.

    A module is switched to eval mode and its weights are identified by a digest of its state dict at wrapping. A plain
    function is not cacheable, unless it carries an `EncoderSpec` as its attribute `spec`. Features of float64 stay so.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], device: str | None = None) -> None:
        self.function = function
        self.device = _device_of(function, device)
        if isinstance(function, torch.nn.Module):
            function.eval()
            function.to(self.device)
        self.spec = _spec_of(function)
        self.is_cacheable = self.spec.weights != UNKNOWN
        self.outputs = self.stored_outputs = (self.spec.output,)

    def preprocess(self, images: Tensor) -> Tensor:
        return images

    def forward(self, inputs: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        features = checked_features(self.function(inputs), len(inputs), self.spec.name)
        features = features if features.dtype == torch.float64 else features.float()
        return {name: features for name in outputs}


def checked_features(features: object, count: int, encoder: str) -> Tensor:
    """`features`, if they are a tensor [count, D]; raises `InputError` otherwise."""
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != count:
        shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InputError(
            f"Encoder {encoder!r} must make a tensor [B, D] of images [B, 3, H, W]; of {count} images it made {shape}."
        )
    return features


def _device_of(function: Callable[[Tensor], Tensor], device: str | None) -> torch.device:
    if device is None and isinstance(function, torch.nn.Module):
        tensors = (*function.parameters(), *function.buffers())
        return tensors[0].device if tensors else torch.device("cpu")
    return runtime.resolve_device(device)


def _spec_of(function: Callable[[Tensor], Tensor]) -> EncoderSpec:
    given = getattr(function, "spec", None)
    if isinstance(given, EncoderSpec):
        return given
    called = type(function) if isinstance(function, torch.nn.Module) else function
    short = getattr(called, "__qualname__", type(function).__qualname__)
    name = getattr(function, "name", None)
    return EncoderSpec(
        name=name if isinstance(name, str) else f"callable:{short}",
        family="callable",
        model=f"{getattr(called, '__module__', '')}.{short}",
        weights=module_digest(function) if isinstance(function, torch.nn.Module) else UNKNOWN,
        output="features",
        dim=0,
        input_size=0,
        resize="none",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
