"""Encoders of the user's own: any callable, `py:MODULE:FACTORY`, registered factories and entry points.

A factory takes nothing, or the `EncoderOptions`; it returns an `AbstractEncoder`, an `nn.Module`, or any callable from
float32 images [B, 3, H, W] in [0, 1] to [B, D].
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fdr import runtime
from fdr.encoders.base import AbstractEncoder, EncoderOptions, EncoderSpec
from fdr.errors import InputError
from fdr.weights import UNKNOWN, call_factory, find_factory, made_digest, module_digest, source_digest


def load(name: str, options: EncoderOptions) -> AbstractEncoder:
    """The encoder "py:MODULE:FACTORY". Raises `InputError` when the module or the factory fails."""
    module_name, _, factory_name = name.removeprefix("py:").partition(":")
    if not module_name or not factory_name:
        raise InputError(f"Encoder {name!r} is not of the form py:MODULE:FACTORY, for example py:my_encoder:make.")
    return made_by(find_factory(module_name, factory_name, f"Encoder {name!r}"), name, options)


def made_by(factory: Callable[..., Any], name: str, options: EncoderOptions) -> AbstractEncoder:
    """The encoder that `factory` makes, called `name`. Raises `InputError` if it fails or makes something else.

    Features of a module are cached under a digest of the factory's file, the source of the module's classes and the
    weights. A plain function may read anything else, so its source is recorded but its features are not cached.
    """
    asked_by = f"The factory of encoder {name!r}"
    takes_options = _takes_options(factory)
    if options.weights is not None and not takes_options:
        raise InputError(f"{asked_by} takes no options, so it cannot use --weights; drop it.")
    advice = "it is called with the EncoderOptions if it takes an argument, and with nothing otherwise"
    made = call_factory(factory, (options,) if takes_options else (), {}, asked_by, advice)
    if isinstance(made, AbstractEncoder):
        return made
    if not callable(made):
        raise InputError(
            f"{asked_by} made {type(made).__name__}; expected an AbstractEncoder, an nn.Module or a callable from "
            "images [B, 3, H, W] to features [B, D]."
        )
    encoder = CallableEncoder(made, options.device)
    digest = made_digest(factory, encoder.spec.weights)
    weights = f"source:{source_digest(factory)[:16]}" if digest == UNKNOWN else digest
    encoder.spec = replace(encoder.spec, name=name, weights=weights)
    return encoder


def _takes_options(factory: Callable[..., Any]) -> bool:
    """True when the factory has a parameter to put the options in."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in parameters)


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
