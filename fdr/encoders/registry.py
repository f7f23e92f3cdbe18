"""Names of encoders: what they mean, which file of this folder loads them, and which weight files they need.

Neither torch nor a plug-in is imported until an encoder is loaded or the files of an open-ended name are asked for.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

from fdr.encoders.catalogue import BUNDLES, ROWS, EncoderRow, find_row
from fdr.errors import FdrWarning, InputError, unknown
from fdr.weights import ENCODERS, Holding, WeightsFile, load_declared, locate, lpips_files


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


def plugin_factory(name: str) -> Callable[..., Any]:
    """The factory of a plug-in, which is imported now. Raises `InputError` when that fails."""
    return _registered.get(name) or load_declared(_entry_points()[name], f"Encoder {name!r}")


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


def parse_open_name(name: str, known: Collection[str]) -> tuple[str, dict[str, str]]:
    """The target and the settings of an open-ended name: "family:TARGET", "family:TARGET?key=value&key=value".

    A list of numbers inside a value is separated by colons, since commas separate encoders: "mean=0.5:0.5:0.5".
    Raises `InputError` for a setting that is not in `known`, is given twice or has no value, and for no target.
    """
    family, _, rest = name.partition(":")
    target, mark, query = rest.partition("?")
    settings: dict[str, str] = {}
    for part in query.split("&") if mark else ():
        key, equals, value = part.partition("=")
        if key not in known:
            raise unknown(f"setting of {name!r}", key, known)
        if not equals or not value or key in settings:
            raise InputError(f"Encoder {name!r}: expected each setting once, as {key}=VALUE; got {part!r}.")
        settings[key] = value
    if not target:
        raise InputError(f"Encoder {name!r} names nothing after {family!r}:; see docs/encoders.md for its form.")
    return target, settings


SCORES = {"lpips": lpips_files}
"""Scores that are no encoders, and whose networks have weight files as well."""


def needed_files(name: str) -> tuple[WeightsFile, ...]:
    """The files that the encoder or score `name` is loaded from; none for random weights and encoders of one's own.

    Only open-ended names import their library. Raises `InputError` for a name that means nothing.
    """
    if name in SCORES:
        return SCORES[name]()
    row = find_row(name)
    if row is not None:
        return () if row.weights is None else (row.weights,)
    family = find_encoder(name)[1]
    find = None if family is None else getattr(family_module(family), "needed_files", None)
    return () if find is None else find(name)


def holdings(names: str | Sequence[str], weights_dir: Path | None = None) -> list[Holding]:
    """The files of these encoders, bundles or scores, each once, in order. No network and no hashing."""
    given = names.split(",") if isinstance(names, str) else [part for name in names for part in name.split(",")]
    scores = [name for name in dict.fromkeys(part.strip() for part in given) if name in SCORES]
    encoders = [name for name in given if name.strip() not in SCORES]
    known = [*(parse_encoders(encoders) if any(encoders) or not scores else ()), *scores]
    return locate([(name, file) for name in known for file in needed_files(name)], weights_dir)
