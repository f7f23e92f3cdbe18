"""Loading encoders by name, and taking objects and callables as encoders."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdr import runtime
from fdr.encoders.base import AbstractEncoder, EncoderOptions
from fdr.encoders.catalogue import BUNDLES
from fdr.encoders.registry import canonical_name, family_module, find_encoder, parse_encoders, plugin_factory
from fdr.errors import InputError, unknown
from fdr.runtime import Progress, as_path, as_progress, memory_for, named_arguments

if TYPE_CHECKING:
    from torch import Tensor


@named_arguments
def load_encoder(
    encoder: str | AbstractEncoder | Callable[[Tensor], Tensor],
    *,
    weights: str | os.PathLike[str] | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
    device: str | None = None,
    dtype: str = "float32",
    exact_order: bool = False,
    tf32: bool = False,
    offline: bool | None = None,
    progress: Progress | bool | None = None,
) -> AbstractEncoder:
    """The encoder of a name such as "inception", "dinov2" or "timm:resnet50.a1_in1k", ready to be called.

    `weights` is a file to use as it is; otherwise `weights_dir` and the usual places are searched, then the network
    (unless `offline`). An `AbstractEncoder` is returned as it is, another callable from images to [B, D] is wrapped.
    Raises `InputError` for an unknown name, `WeightsError` for missing or wrong weights.
    """
    options = EncoderOptions(
        weights=None if weights is None else as_path(weights, "the weights"),
        weights_dir=None if weights_dir is None else as_path(weights_dir, "the folder of weights"),
        device=None if device is None else str(device),
        dtype=dtype,
        exact_order=exact_order,
        tf32=tf32,
        offline=offline,
        progress=as_progress(progress),
    )
    return as_encoder(encoder, options)


@memory_for("loading an encoder", "close what else uses the memory, or choose another --device")
def as_encoder(encoder: Any, options: EncoderOptions) -> AbstractEncoder:
    """`encoder` itself, the one it names, or a wrapped callable."""
    if isinstance(encoder, AbstractEncoder):
        return encoder
    if isinstance(encoder, str):
        import torch

        with torch.inference_mode(False):  # its weights must serve passes with gradient as well
            return _load(*find_encoder(encoder), options)
    if callable(encoder):
        from fdr.encoders.callables import CallableEncoder

        return CallableEncoder(encoder, options.device)
    raise InputError(
        f"An encoder is a name, an AbstractEncoder or a callable from images to [B, D]; got {type(encoder).__name__}."
    )


def encoder_called(name: str, item: Any, options: EncoderOptions) -> AbstractEncoder:
    """`as_encoder`; a callable, which has no name of its own, is called `name`."""
    from fdr.encoders.callables import CallableEncoder

    encoder = as_encoder(item, options)
    if isinstance(encoder, CallableEncoder):
        encoder = copy.copy(encoder)
        encoder.spec = replace(encoder.spec, name=name)
    return encoder


def load_encoders(
    encoders: Any, options: EncoderOptions, weights: Mapping[str, Path] | None = None
) -> list[AbstractEncoder]:
    """Encoder objects for names, comma-separated names, bundles, objects and callables, in order, once each.

    A dict gives each callable its key as a name. `weights` gives weight files by encoder name; `options.weights` is the
    file of the only encoder. Raises `InputError` for weights of an encoder that is not asked for, and for a dict that
    calls a named encoder by another name.
    """
    if isinstance(encoders, Mapping):
        encoders = [_called_as_named(name, item, options) for name, item in encoders.items()]
    given = list(encoders) if isinstance(encoders, list | tuple) else [encoders]
    wanted = [one for item in given for one in (parse_encoders(item) if isinstance(item, str) else [item])]
    files = {canonical_name(name): path for name, path in (weights or {}).items()} or _only_file(wanted, options)
    loaded: dict[str, AbstractEncoder] = {}
    for one in wanted:
        file = files.pop(one, None) if isinstance(one, str) else None
        if isinstance(one, str) and one in loaded:
            continue
        encoder = as_encoder(one, replace(options, weights=file))
        if encoder.spec.name in loaded:
            raise InputError(f"Two encoders are called {encoder.spec.name!r}; give one of them another name.")
        loaded[encoder.spec.name] = encoder
    if files:
        raise unknown("encoder with explicit weights", next(iter(files)), loaded, "Name it in --reps, too.")
    if not loaded:
        raise InputError("No encoder was given; name at least one, for example inception.")
    return list(loaded.values())


def _only_file(wanted: list[Any], options: EncoderOptions) -> dict[str, Path]:
    """`options.weights` by the name of the only encoder. Raises `InputError` if it could be that of several."""
    if options.weights is None:
        return {}
    if len(wanted) != 1 or not isinstance(wanted[0], str):
        raise InputError(
            "EncoderOptions(weights=...) is the file of one encoder that is called by its name; for several encoders "
            "give weights={name: file}."
        )
    return {wanted[0]: options.weights}


def _called_as_named(name: str, item: Any, options: EncoderOptions) -> Any:
    """The encoder under the key `name`; a name stays one, so that its weight file is still looked up."""
    own = canonical_name(item) if isinstance(item, str) else (item := encoder_called(name, item, options)).spec.name
    if own != name:
        raise InputError(
            f"The encoder under the key {name!r} is {own!r}, and every report calls it by that name; use {own!r} as "
            "its key, or give a list of encoders."
        )
    return item


def _load(name: str, family: str | None, options: EncoderOptions) -> AbstractEncoder:
    if name in BUNDLES:
        raise InputError(f"{name!r} is a bundle, not one encoder; load {', '.join(BUNDLES[name])} one by one.")
    runtime.set_tf32(options.tf32)
    if family is not None:
        return family_module(family).load(name, options)
    return family_module("py").made_by(plugin_factory(name), name, options)
