"""Autoencoders that a user's own function makes: `module:factory`, with weights from a file."""

from __future__ import annotations

import json
import re
from typing import Any

from torch import nn

from fdr.errors import InputError, WeightsError
from fdr.ifid.autoencoders.base import AutoencoderSpec, LoadedAutoencoder
from fdr.ifid.autoencoders.objects import AutoencoderOptions, check_object, identity_of, wrap
from fdr.weights import call_factory, find_factory, load_weights, made_digest

_NAME = re.compile(r"(?:py:)?([\w.]+):(\w+)")


def is_factory(name: str) -> bool:
    """True for "module:factory" and for its other spelling, "py:module:factory"."""
    return _NAME.fullmatch(name) is not None


def load(name: str, options: AutoencoderOptions) -> LoadedAutoencoder:
    """Call the factory with `options.arguments` and load the weights `options.weights` into what it returns.

    If that is a module, its latents are cached under a digest of the factory's file, the arguments, the source of the
    module's classes and the weights. Latents of other objects are never cached. Raises `InputError` if the factory
    fails or returns something else, `WeightsError` for weights that are damaged or do not fit.
    """
    match = _NAME.fullmatch(name)
    assert match is not None
    target = f"{match[1]}:{match[2]}"
    factory = find_factory(match[1], match[2], f"Autoencoder {name!r}")
    asked_by = f"Autoencoder {name!r}"
    model = call_factory(factory, (), options.arguments, f"{asked_by}: its factory", "check --vae-args")
    if isinstance(model, LoadedAutoencoder):
        raise InputError(f"{asked_by}: its factory made a LoadedAutoencoder; let it return the model itself.")
    check_object(model, f"{asked_by} must be an object with encode(images) and decode(latents); its factory made")
    if options.weights is not None:
        _load_weights(model, name, options)
    spec = AutoencoderSpec(
        name=name,
        family="factory",
        model=target,
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
