"""The networks of generators: made by a named factory, or read from a program (TorchScript or torch.export)."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fdr.errors import InputError, unknown
from fdr.generators.base import Architecture
from fdr.generators.first_images import refuse_empty
from fdr.generators.published.presets import PRESETS
from fdr.runtime import file_digest
from fdr.weights import (
    GENERATORS,
    PLACE,
    PROGRAM,
    ExportedProgram,
    ScriptedProgram,
    call_factory,
    declared_in,
    find_declared,
    find_factory,
    is_repository,
    load_declared,
    load_program,
    program_kind,
    source_digest,
    untrusted,
)

DECLARED = ("noise_shape", "num_classes", "value_range")
"""What users, files beside the weights, and attributes of a network say about it."""


def build(
    architecture: Architecture, device: torch.device, named_by: str | None = None
) -> tuple[nn.Module, Architecture]:
    """The network in eval mode on `device`, and its architecture with a digest of the code.

    `named_by` is the file that names the factory, or None if the user names it or trusts the file.

    Raises `InputError` for a factory that fails, or that a file may not name; `WeightsError` for a program that is
    damaged or foreign.
    """
    if architecture.kind == "factory":
        if named_by is not None:
            check_architecture(architecture, named_by)
        factory = _find(architecture.target, is_from_file=named_by is not None)
        network = _made_by(factory, architecture)
        code = source_digest(getattr(factory, "func", factory))  # a preset is a partial
    else:
        path = Path(architecture.target)
        network, code = load_program(architecture.kind, path, device), file_digest(path)
    named = Architecture(architecture.kind, architecture.target, architecture.arguments, code)
    return network.to(device).eval(), named


def preset(name: str, arguments: Mapping[str, Any]) -> Architecture:
    """The architecture of a preset, as `build` names it."""
    return Architecture("factory", name, arguments, source_digest(getattr(PRESETS[name], "func", PRESETS[name])))


def declared(network: Any) -> dict[str, Any]:
    """What a network or function declares in its attributes noise_shape, num_classes and value_range."""
    inner = network.program if isinstance(network, ScriptedProgram | ExportedProgram) else network
    found = {name: getattr(inner, name, None) for name in DECLARED}
    return {name: value for name, value in found.items() if value is not None}


def needs_labels(network: nn.Module) -> bool:
    """True if, by its signature, the network cannot be called with noise alone."""
    if isinstance(network, ScriptedProgram):
        return sum(network.arguments.values()) > 1
    try:
        parameters = inspect.signature(network.forward).parameters.values()
    except (TypeError, ValueError):
        return False
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in parameters) > 1


def check_architecture(architecture: Architecture, where: str) -> None:
    """Raise `InputError` if the file `where` names an architecture that a file may not name. Imports nothing.

    A file may name what installed packages declare, and presets, but no local folder as the autoencoder of a preset.
    """
    target = architecture.target
    if architecture.kind != "factory":  # a program, which is data that was checked
        return
    if target not in PRESETS and find_declared(GENERATORS, target) is None:
        raise untrusted(where, target, _typed(architecture))
    vae = str(architecture.arguments.get("vae", ""))
    if target in PRESETS and vae and (not is_repository(vae) or ".." in vae or Path(vae).exists()):
        raise untrusted(where, vae, _typed(architecture), PLACE)


def check_not_program(path: Path, where: str) -> None:
    """Raise `InputError` if the file `where` names a generator that is a program."""
    if path.is_file() and program_kind(path) is not None:
        raise untrusted(where, str(path), f"--gen {path}", PROGRAM)


def _typed(architecture: Architecture) -> str:
    """The command-line options that name an architecture, for messages."""
    given = [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in architecture.arguments.items()
    ]
    return shlex.join(["--arch", architecture.target, *(part for text in given for part in ("--arch-args", text))])


def _find(target: str, is_from_file: bool) -> Callable[..., Any]:
    """Find the factory: a preset, one that an installed package declares, or the user's own module:factory."""
    module_name, separator, factory_name = target.partition(":")
    if not separator and target in PRESETS:
        return PRESETS[target]
    point = find_declared(GENERATORS, target) if is_from_file or not separator else None
    if point is not None:
        factory = load_declared(point, f"Architecture {target!r}")
        if not callable(factory):
            raise InputError(f"Architecture {target!r} is a {type(factory).__name__}, not what makes a network.")
        return factory
    if not separator and "-" in target:  # this cannot be the name of a module
        raise unknown("architecture", target, [*PRESETS, *(point.name for point in declared_in(GENERATORS))])
    if not module_name or not factory_name:
        raise InputError(
            f"Architecture {target!r} is neither known by name ({', '.join(PRESETS)}) nor of the form module:factory, "
            "for example my_model:build."
        )
    return find_factory(module_name, factory_name, f"Architecture {target!r}")


def _made_by(factory: Callable[..., Any], architecture: Architecture) -> nn.Module:
    asked_by = f"Architecture {architecture.target!r}"
    network = call_factory(factory, (), architecture.arguments, asked_by, "check --arch-args")
    if not isinstance(network, nn.Module):
        raise InputError(
            f"{asked_by} made a {type(network).__name__}; expected an nn.Module from noise (and labels) to images."
        )
    refuse_empty(network, f"The network of architecture {architecture.target!r}")
    return network
