"""Any callable from images [B, 3, H, W] to features [B, D] as an encoder."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fdr import runtime
from fdr.encoders.base import AbstractEncoder, EncoderSpec
from fdr.errors import InputError

UNKNOWN = "unknown"
"""Weights of a plain function: nothing tells two versions of it apart, so its features are never cached."""


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


def module_digest(module: torch.nn.Module) -> str:
    """sha256 over the structure, the source of every class in it, and all weights; "unknown" without the source."""
    digest = hashlib.sha256(repr(module).encode())
    classes = {type(part) for part in module.modules()}
    for kind in sorted(classes, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}"):
        try:
            digest.update(_source_of(kind).encode())  # type: ignore[arg-type]
        except (OSError, TypeError):  # typed into an interpreter: its code could change unseen
            return UNKNOWN
    digest_state(module, digest)
    return digest.hexdigest()


@functools.lru_cache(maxsize=4096)
def _source_of(kind: type) -> str:
    """As it was when first asked for: Python parses a whole file to find it, which in 3.11 is not safe in threads."""
    return inspect.getsource(kind)


def digest_state(module: torch.nn.Module, digest: Any) -> None:
    """Update a hash with the names, types, shapes and bytes of all weights."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
