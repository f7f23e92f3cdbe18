"""Encoder names: what they mean and which module loads them. Imports no torch and no plug-in until one is loaded."""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fdr import runtime
from fdr.encoders.base import AbstractEncoder, EncoderOptions
from fdr.encoders.catalogue import BUNDLES, ROWS, EncoderRow, find_row
from fdr.errors import FdrWarning, InputError, unknown
from fdr.runtime import Progress, SilentProgress, as_path, memory_for, named_arguments
from fdr.weights import ENCODERS, load_declared

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Family:
    """Encoders that one module of this folder loads: by `load(name, options)`.

    A module that has open-ended names also tells their files, by `needed_files(name)`.
    """

    module: str
    form: str = ""
    """How open-ended names are written; empty for a family of presets alone."""


FAMILIES = {
    "inception": Family("inception"),
    "timm": Family("timm_models", "any timm model: timm:NAME"),
    "openclip": Family("openclip_models", "any OpenCLIP pair: openclip:ARCH/TAG"),
    "hf": Family("transformers_models", "a vision model of transformers: hf:OWNER/NAME[@REVISION] or hf:FOLDER"),
    "torchscript": Family("programs", "a TorchScript file: torchscript:PATH"),
    "export": Family("programs", "a torch.export file: export:PATH"),
    "py": Family("callables", "a factory of your own: py:MODULE:FACTORY"),
    "random": Family("random_net", "random weights of another seed: random:SEED"),
}
"""Families by the prefix of their names."""

PREFIXES = {prefix: family.form for prefix, family in FAMILIES.items() if family.form}
"""Prefixes of open-ended names, and how they are written."""

_registered: dict[str, Callable[..., Any]] = {}


def register_encoder(name: str, factory: Callable[..., Any]) -> None:
    """Make `name` an encoder of this process, built by `factory` when it is asked for.

    `factory` takes nothing or the `EncoderOptions`, and returns an `AbstractEncoder`, an `nn.Module` or a callable from
    float32 images [B, 3, H, W] in [0, 1] to [B, D]. An installed package does the same with an entry point of the group
    "fdr.encoders". Raises `InputError` for a name that is taken or cannot be written in a list of names.
    """
    fault = _fault(name)
    if fault is not None or name in _registered:
        raise InputError(f"Cannot register encoder {name!r}: {fault or 'it is registered already'}; choose another.")
    if not callable(factory):
        raise InputError(f"Cannot register encoder {name!r}: its factory is {type(factory).__name__}, not a callable.")
    _registered[name] = factory


def plugin_encoders() -> dict[str, str]:
    """Encoders that were registered or are entry points of installed packages, and where they come from.

    Nothing of theirs is imported. An entry point with a name that is taken gets an `FdrWarning` and is left out.
    """
    found = {name: f"{factory.__module__}" for name, factory in _registered.items()}
    return found | {name: f"{point.value} ({_package(point)})" for name, point in _entry_points().items()}


def _entry_points() -> dict[str, EntryPoint]:
    points: dict[str, EntryPoint] = {}
    for point in importlib.metadata.entry_points(group=ENCODERS):
        fault = _fault(point.name) or ("it is registered in this process" if point.name in _registered else None)
        if point.name in points and points[point.name].value != point.value:
            fault = f"{_package(points[point.name])} provides it too"
        if fault is not None:
            warnings.warn(
                f"Encoder {point.name!r} of package {_package(point)} is left out: {fault}.", FdrWarning, stacklevel=2
            )
        else:
            points[point.name] = point
    return points


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown package"


def _fault(name: str) -> str | None:
    """Why `name` cannot be the name of a plug-in, or None."""
    if find_row(name) is not None or name in BUNDLES or name.partition(":")[0] in PREFIXES:
        return "fdr has an encoder of that name"
    if not re.fullmatch(r"[A-Za-z0-9_][\w.:+/@-]*", name):
        return "a name begins with a letter or digit and has no spaces or commas"
    return None


def list_encoders() -> tuple[EncoderRow, ...]:
    """The encoders known by name. Besides them there are the families of `PREFIXES` and the `plugin_encoders`."""
    return ROWS


def canonical_name(name: str) -> str:
    """`name` as it is spelt: upper and lower case make no difference, except in what follows a prefix."""
    return _search(name)[0]


def find_encoder(name: str) -> tuple[str, str | None]:
    """The spelling of a name, and the family that loads it: None for a bundle or a plug-in.

    Raises `InputError` for a name that means nothing, with near matches.
    """
    spelling, family, is_known = _search(name)
    if not is_known:
        names = [*(row.name for row in ROWS), *BUNDLES, *plugin_encoders()]
        raise unknown("encoder", name, names, f"Or {'; '.join(PREFIXES.values())}.")
    return spelling, family


def _search(name: str) -> tuple[str, str | None, bool]:
    """The spelling and the family of a name, and whether it means anything. Presets come before plug-ins."""
    prefix, colon, rest = name.partition(":")
    if colon and prefix.lower() in PREFIXES:
        return f"{prefix.lower()}:{rest}", prefix.lower(), bool(rest)
    presets: dict[str, str | None] = {row.name: row.family for row in ROWS} | dict.fromkeys(BUNDLES)
    if name.lower() in presets:  # which are all written in lower case
        return name.lower(), presets[name.lower()], True
    plugins = plugin_encoders()
    spelling = name if name in plugins else {other.lower(): other for other in plugins}.get(name.lower())
    return spelling or name, None, spelling is not None


def parse_encoders(names: str | Sequence[str]) -> list[str]:
    """Encoder names from "inception,fdr6" or a list: bundles expanded, each name once, in order.

    Raises `InputError` for an unknown name, with near matches, and for none at all.
    """
    given = names.split(",") if isinstance(names, str) else [part for name in names for part in name.split(",")]
    found = [find_encoder(name)[0] for name in map(str.strip, given) if name]
    if not found:
        raise InputError("No encoder was named; name at least one, for example inception.")
    return list(dict.fromkeys(member for name in found for member in BUNDLES.get(name, (name,))))


def family_module(family: str) -> ModuleType:
    """The module that loads the encoders of a family."""
    return importlib.import_module(f"fdr.encoders.{FAMILIES[family].module}")


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
    progress: Progress | None = None,
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
        progress=progress or SilentProgress(),
    )
    return as_encoder(encoder, options)


@memory_for("loading an encoder", "close what else uses the memory, or choose another --device")
def as_encoder(encoder: Any, options: EncoderOptions) -> AbstractEncoder:
    """`encoder` itself, the one it names, or a wrapped callable."""
    if isinstance(encoder, AbstractEncoder):
        return encoder
    if isinstance(encoder, str):
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

    A dict gives each callable its key as a name. `weights` gives weight files by encoder name. Raises `InputError` when
    it names an encoder that is not asked for, and for a dict that calls a named encoder by another name.
    """
    if isinstance(encoders, Mapping):
        encoders = [_called_as_named(name, item, options) for name, item in encoders.items()]
    given = list(encoders) if isinstance(encoders, list | tuple) else [encoders]
    files = {canonical_name(name): path for name, path in (weights or {}).items()}
    loaded: dict[str, AbstractEncoder] = {}
    for item in given:
        for one in parse_encoders(item) if isinstance(item, str) else [item]:
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
    factory = _registered.get(name) or load_declared(_entry_points()[name], f"Encoder {name!r}")
    return family_module("py").made_by(factory, name, options)
