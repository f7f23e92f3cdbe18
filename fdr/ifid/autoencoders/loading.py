"""`load_autoencoder` makes a `LoadedAutoencoder` of a name, a file, a folder, a function or an object."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fdr import runtime
from fdr.errors import InputError, WeightsError
from fdr.ifid.autoencoders import programs, weight_free
from fdr.ifid.autoencoders.base import AutoencoderSpec, LoadedAutoencoder
from fdr.ifid.autoencoders.objects import AutoencoderOptions, check_object, identity_of, wrap, wrap_object
from fdr.runtime import Progress, as_path, as_progress, memory_for, missing_path, named_arguments, refuse_stand_in
from fdr.weights import (
    CODE,
    CONFIG,
    PROGRAM,
    call_factory,
    find_factory,
    folder_of,
    is_repository,
    load_model,
    load_weights,
    made_digest,
    untrusted,
)


@named_arguments
@memory_for("loading an autoencoder", "close what else uses the memory, or choose another --device")
def load_autoencoder(
    name: Any,
    *,
    device: str | torch.device | None = None,
    posterior: str | None = None,
    seed: int = 0,
    value_range: tuple[float, float] | None = None,
    dtype: str = "float32",
    tf32: bool = False,
    weights: str | os.PathLike[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    progress: Progress | bool | None = None,
) -> LoadedAutoencoder:
    """Load the autoencoder `name` in eval mode on `device` (None: a GPU if there is one).

    `name` is a transform without weights ("haar", "dct", "pixel-unshuffle", each with a size as in "dct:8"); a
    repository or folder of diffusers ("stabilityai/sd-vae-ft-mse", "owner/name/vae"); a TorchScript file with methods
    `encode` and `decode`; a pair of torch.export files, named by their folder or by one of them; or "module:factory",
    which is called with `arguments` and whose model gets `weights`, a state dict as .safetensors or .pt. Only the code
    of a factory runs, never code from a repository or a file.

    `name` may also be an object with `encode`, which takes images [B, 3, H, W] in the value range and returns latents
    or a distribution over them, and `decode`, which takes latents and returns images; both may use any form that
    `posterior.py` reads. A module stays on its device if `device` is None, and its latents are cached under a digest of
    its weights and source. Latents of other objects are cached only if the object has an `AutoencoderSpec` as its
    attribute `spec`. A `LoadedAutoencoder` is returned as it is, without regard to the options.

    Posteriors are sampled, with noise from `seed` and the number of the image, unless the model is usually used with
    the mean or `posterior` says so. `value_range` gives the values of black and white in the model's images; the
    default is what the model declares, else (-1, 1).

    Raises `InputError` for an unknown name and for options that do not fit it, `WeightsError` for files that are
    missing, damaged or do not fit.
    """
    options = AutoencoderOptions(
        weights=None if weights is None else as_path(weights, "the weights"),
        weights_dir=None if weights_dir is None else as_path(weights_dir, "the folder of weights"),
        offline=offline,
        progress=as_progress(progress),
        arguments=dict(arguments or {}),
        device=device,
        dtype=dtype,
        tf32=tf32,
        posterior=posterior,
        seed=seed,
        value_range=value_range,
    )
    return open_autoencoder(name, options)


def open_autoencoder(item: Any, options: AutoencoderOptions) -> LoadedAutoencoder:
    """`load_autoencoder`, with its options as one object."""
    if isinstance(item, LoadedAutoencoder):
        return item
    return _load(os.fspath(item), options) if isinstance(item, str | os.PathLike) else wrap_object(item, options)


def _load(name: str, options: AutoencoderOptions) -> LoadedAutoencoder:
    device = runtime.resolve_device(None if options.device is None else str(options.device))
    options = replace(options, device=device)
    factory = _FACTORY.fullmatch(name)
    if factory is not None and not weight_free.is_weight_free(name):
        return _load_factory(name, factory[1], factory[2], options)
    if options.arguments:
        raise InputError(f"Autoencoder {name!r} is made by no factory; drop its arguments (--vae-args).")
    path = as_path(name, "the autoencoder").expanduser()
    is_on_hub = not path.exists() and is_repository(name)
    folder = folder_of(path) if path.is_dir() else None
    if folder is not None or (is_on_hub and path.suffix not in _FILES):
        return _load_diffusers(name, folder, options)
    if options.weights is not None:
        raise InputError(f"Autoencoder {name!r} brings its own weights; drop {str(options.weights)!r}.")
    if weight_free.is_weight_free(name):
        full_name, transform = weight_free.make_transform(name)
        spec = AutoencoderSpec(name=name, family="weight-free", model=full_name, weights="none")
        return wrap(transform, spec, replace(options, dtype="float32"))
    if not path.exists():
        raise InputError(
            f"There is no autoencoder {name!r}; expected {', '.join(weight_free.TRANSFORMS)}, a repository of the hub "
            f"as OWNER/NAME, a file or folder, or module:factory, and {missing_path(path)}"
        )
    refuse_stand_in(path)
    pair = programs.export_pair(path)
    if pair is not None:
        return programs.load_export_pair(name, pair, options)
    if path.is_dir():
        raise InputError(
            f"Folder {name!r} holds no autoencoder; expected {CONFIG} of a diffusers model, or "
            f"{programs.ENCODER} and {programs.DECODER}."
        )
    return programs.load_torchscript(name, path, options)


def _load_diffusers(name: str, folder: Path | None, options: AutoencoderOptions) -> LoadedAutoencoder:
    """The diffusers model in `folder`, or that of the hub repository `name`. Raises what `load_model` raises."""
    found = load_model(name, folder, options)
    extra = (("config", found.config_digest),)
    spec = AutoencoderSpec(name, "diffusers", found.class_name, found.weights_digest, extra=extra)
    return wrap(found.model, spec, options)


def _load_factory(name: str, module: str, function: str, options: AutoencoderOptions) -> LoadedAutoencoder:
    """Call the factory with `options.arguments` and load the weights `options.weights` into what it returns.

    If that is a module, its latents are cached under a digest of the factory's file, the arguments, the source of the
    module's classes and the weights. Latents of other objects are never cached. Raises `InputError` if the factory
    fails or returns something else, `WeightsError` for weights that are damaged or do not fit.
    """
    asked_by = f"Autoencoder {name!r}"
    factory = find_factory(module, function, asked_by)
    model = call_factory(factory, (), options.arguments, f"{asked_by}: its factory", "check --vae-args")
    if isinstance(model, LoadedAutoencoder):
        raise InputError(f"{asked_by}: its factory made a LoadedAutoencoder; let it return the model itself.")
    check_object(model, f"{asked_by} must be an object with encode(images) and decode(latents); its factory made")
    if options.weights is not None:
        _load_weights(model, name, options)
    spec = AutoencoderSpec(
        name=name,
        family="factory",
        model=f"{module}:{function}",
        weights=made_digest(factory, identity_of(model)),
        extra=(("arguments", json.dumps(dict(options.arguments), sort_keys=True, default=repr)),),
    )
    return wrap(model, spec, options)


def _load_weights(model: Any, name: str, options: AutoencoderOptions) -> None:
    assert options.weights is not None
    path = options.weights.expanduser()
    if not isinstance(model, nn.Module):
        raise InputError(f"Autoencoder {name!r} is a {type(model).__name__}, no nn.Module; it cannot be given weights.")
    if not path.is_file():
        raise WeightsError(f"Autoencoder {name!r}: there is no weight file {str(path)!r}; check --vae-weights.")
    load_weights(model, path, None, name, "--vae and --vae-args", advice="")


def check_named_by_file(name: str, where: str) -> None:
    """Raise `InputError` if the file `where` names an autoencoder that is code: a factory or a program."""
    path = Path(name).expanduser()
    is_data = weight_free.is_weight_free(name) or (path.is_dir() and folder_of(path) is not None)
    if not is_data and (_FACTORY.fullmatch(name) or path.exists()):
        raise untrusted(where, name, f"--vae {name}", PROGRAM if path.exists() else CODE)


_FACTORY = re.compile(r"(?:py:)?([\w.]+):(\w+)")
"""A function that makes an autoencoder: "module:factory", or its other spelling, "py:module:factory"."""
_FILES = (".pt", ".pth", ".pt2", ".ckpt", ".bin", ".safetensors", ".json", ".onnx")
"""Suffixes of files. A name such as models/vae.pt is never taken for a repository of the hub."""
