"""Objects of any class with `encode` and `decode`, as autoencoders."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from fdr import runtime
from fdr.errors import InputError
from fdr.ifid.autoencoders.base import AutoencoderSpec, LoadedAutoencoder
from fdr.ifid.autoencoders.layouts import layout_of
from fdr.weights import UNKNOWN, WeightOptions, module_digest


@dataclass(frozen=True)
class AutoencoderOptions(WeightOptions):
    """The options for loading an autoencoder; their defaults are set here and nowhere else.

    `weights` is a state dict for the model of a factory, or a file that replaces the weights of a diffusers model.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments for the factory."""
    device: str | torch.device | None = None
    dtype: str = "float32"
    tf32: bool = False
    posterior: str | None = None
    """"sample" or "mean"; None takes the usual one of the model."""
    seed: int = 0
    """Seed for samples of the posterior."""
    value_range: tuple[float, float] | None = None
    """Black and white. None takes what the model or the file beside it declares, else -1 and 1."""


def wrap_object(item: Any, options: AutoencoderOptions) -> LoadedAutoencoder:
    """Make an autoencoder of an object with `encode` and `decode`. Raises `InputError` if it lacks one of them."""
    check_object(item, "An autoencoder is a name, a path, or an object with encode(images) and decode(latents); got")
    kind = type(item)
    own = getattr(item, "name", None)
    spec = AutoencoderSpec(
        name=own if isinstance(own, str) else f"object:{kind.__qualname__}",
        family="object",
        model=f"{kind.__module__}.{kind.__qualname__}",
        weights=identity_of(item),
    )
    given = getattr(item, "spec", None)
    return wrap(item, given if isinstance(given, AutoencoderSpec) else spec, options)


def identity_of(model: Any) -> str:
    """sha256 over weights, structure, source and plain attributes of a module; "unknown" for other objects."""
    digest = module_digest(model) if isinstance(model, nn.Module) else UNKNOWN
    if digest == UNKNOWN:
        return UNKNOWN
    settings = [
        (name, key, value)
        for name, part in model.named_modules()
        for key, value in sorted(vars(part).items())
        if not key.startswith("_") and key != "training" and _is_plain(value)
    ]
    return hashlib.sha256(f"{digest} {settings!r}".encode()).hexdigest()


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def check_object(item: Any, beginning: str) -> None:
    """Raise an `InputError` that begins with `beginning` if `item` lacks the methods `encode` and `decode`."""
    if isinstance(item, type):
        raise InputError(f"{beginning} the class {item.__name__}; make an object of it.")
    missing = [name for name in ("encode", "decode") if not callable(getattr(item, name, None))]
    if missing:
        raise InputError(f"{beginning} a {type(item).__name__} without {' and '.join(missing)}.")


def wrap(
    model: Any, spec: AutoencoderSpec, options: AutoencoderOptions, sidecar: Mapping[str, Any] = MappingProxyType({})
) -> LoadedAutoencoder:
    """Put a model in eval mode on its device and make it the autoencoder that `spec` describes.

    The options, and what the model declares, replace fields of `spec`. `sidecar` holds "value_range" and "posterior" if
    a file beside the model declares them.
    """
    device = _device_of(model, options.device)
    runtime.set_tf32(options.tf32)
    runtime.check_dtype(options.dtype, device)
    if isinstance(model, nn.Module):
        model.eval()
        model.to(device)
    layout = layout_of(model)
    extra = dict(spec.extra) | ({"layout": layout.name} if layout.name else {})
    complete = replace(
        spec,
        value_range=_range(options.value_range or sidecar.get("value_range") or _declared_range(model, spec, layout)),
        posterior="deterministic",  # until the first encoding shows otherwise
        seed=options.seed,
        dtype=options.dtype,
        extra=tuple(sorted((extra | ({"tf32": "allowed"} if options.tf32 else {})).items())),
    )
    usual = sidecar.get("posterior") or layout.posterior
    return LoadedAutoencoder(layout.codec, complete, device, posterior=options.posterior, usual_posterior=usual)


def _declared_range(model: Any, spec: AutoencoderSpec, layout: Any) -> Any:
    own = getattr(model, "value_range", None)
    given = getattr(model, "spec", None)
    if isinstance(given, AutoencoderSpec):
        return given.value_range
    return layout.value_range if own is None else own


def _range(value: Any) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in value)
    except (TypeError, ValueError):
        raise InputError(
            f"The value range of an autoencoder is two numbers, black and white, such as -1:1; got {value!r}."
        ) from None
    return low, high


def _device_of(model: Any, device: str | torch.device | None) -> torch.device:
    """The device that was asked for, else that of the model, else the default one."""
    if device is not None:
        return runtime.resolve_device(str(device))
    own = getattr(model, "device", None)
    if isinstance(own, torch.device):
        return own
    modules = [model] if isinstance(model, nn.Module) else _modules_in(model)
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            return tensor.device
    return torch.device("cpu") if isinstance(model, nn.Module) else runtime.resolve_device(None)


def _modules_in(item: Any) -> list[nn.Module]:
    return [value for value in getattr(item, "__dict__", {}).values() if isinstance(value, nn.Module)]
