"""Encoders of the user's own: `py:MODULE:FACTORY`, `fdr.register_encoder`, and the entry point group `fdr.encoders`.

A factory takes nothing, or the `EncoderOptions`; it returns an `AbstractEncoder`, an `nn.Module`, or any callable from
float32 images [B, 3, H, W] in [0, 1] to [B, D].
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fdr.encoders.base import AbstractEncoder, EncoderOptions
from fdr.encoders.callables import CallableEncoder
from fdr.errors import FdrError, InputError, first_line
from fdr.weights import UNKNOWN, find_factory, source_digest


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
    takes_options = _takes_options(factory)
    if options.weights is not None and not takes_options:
        raise InputError(f"The factory of encoder {name!r} takes no options, so it cannot use --weights; drop it.")
    try:
        made = factory(options) if takes_options else factory()
    except FdrError:
        raise
    except Exception as error:
        raise InputError(
            f"The factory of encoder {name!r} raised {type(error).__name__}: {first_line(error)}; it is called with "
            "the EncoderOptions if it takes an argument, and with nothing otherwise."
        ) from error
    if isinstance(made, AbstractEncoder):
        return made
    if not callable(made):
        raise InputError(
            f"The factory of encoder {name!r} made {type(made).__name__}; expected an AbstractEncoder, an nn.Module or "
            "a callable from images [B, 3, H, W] to features [B, D]."
        )
    encoder = CallableEncoder(made, options.device)
    encoder.spec = replace(encoder.spec, name=name, weights=_identity(factory, encoder.spec.weights))
    return encoder


def _takes_options(factory: Callable[..., Any]) -> bool:
    """True when the factory has a parameter to put the options in."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in parameters)


def _identity(factory: Callable[..., Any], weights: str) -> str:
    """A digest over the file the factory is in and `weights`; of a function, what is recorded of its source."""
    source = source_digest(factory)
    if weights == UNKNOWN:
        return f"source:{source[:16]}"
    return hashlib.sha256(f"{source} {weights}".encode()).hexdigest()
