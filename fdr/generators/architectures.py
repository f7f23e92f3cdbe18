"""Networks of generators: made by a factory that is named, or read as a program (TorchScript, torch.export)."""

from __future__ import annotations

import inspect
import os
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fdr.encoders.export_archive import load_export
from fdr.encoders.factories import find_factory, source_digest
from fdr.encoders.libraries import first_line
from fdr.encoders.torchscript_archive import load_archive
from fdr.encoders.weights import file_digest
from fdr.errors import FdrError, InputError, unknown
from fdr.generators.base import Architecture, refuse_empty
from fdr.generators.presets import PRESETS


class ScriptedNetwork(nn.Module):
    """A TorchScript program."""

    def __init__(self, program: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.program = program

    def forward(self, *inputs: Tensor) -> Any:
        with torch.jit.optimized_execution(False):  # otherwise the first batches run other code than the later ones
            return self.program(*inputs)


class ExportedNetwork(nn.Module):
    """A torch.export program. It has one mode, that in which it was exported."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, *inputs: Tensor) -> Any:
        return self.program(*inputs)

    def train(self, mode: bool = True) -> ExportedNetwork:
        self.training = mode
        return self


def build(
    architecture: Architecture, device: torch.device, is_from_file: bool = False
) -> tuple[nn.Module, Architecture]:
    """The network, in eval mode on `device`, and its architecture with the digest of its code.

    `is_from_file`: the factory was named by a file, not by the user, and must be one that only makes networks.

    Raises `InputError` for a factory that fails, `WeightsError` for a program that is damaged or foreign.
    """
    if architecture.kind == "factory":
        factory = _find(architecture.target, is_from_file)
        network = _made_by(factory, architecture)
        code = source_digest(getattr(factory, "func", factory))  # a preset is a partial
    else:
        path = Path(architecture.target)
        read = _scripted if architecture.kind == "torchscript" else _exported
        network, code = read(path, device), file_digest(path)
    named = Architecture(architecture.kind, architecture.target, architecture.arguments, code)
    return network.to(device).eval(), named


def declared(network: nn.Module) -> dict[str, Any]:
    """What a network says of itself: its attributes noise_shape, num_classes, value_range."""
    inner = network.program if isinstance(network, ScriptedNetwork | ExportedNetwork) else network
    found = {name: getattr(inner, name, None) for name in ("noise_shape", "num_classes", "value_range")}
    return {name: value for name, value in found.items() if value is not None}


def needs_labels(network: nn.Module) -> bool:
    """True when the network cannot be called with noise alone, as far as its signature tells."""
    if isinstance(network, ScriptedNetwork):
        forward: Any = network.program.forward
        return sum(not argument.has_default_value() for argument in forward.schema.arguments[1:]) > 1
    if isinstance(network, ExportedNetwork):
        return False
    try:
        parameters = inspect.signature(network.forward).parameters.values()
    except (TypeError, ValueError):
        return False
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in parameters) > 1


def _scripted(path: Path, device: torch.device) -> nn.Module:
    return ScriptedNetwork(load_archive(path, device))


def _exported(path: Path, device: torch.device) -> nn.Module:
    return ExportedNetwork(load_export(path, device))


def _find(target: str, is_from_file: bool) -> Callable[..., Any]:
    module_name, separator, factory_name = target.partition(":")
    if not separator and target in PRESETS:
        return PRESETS[target]
    if not separator and "-" in target:  # no module's name
        raise unknown("architecture", target, PRESETS)
    if not module_name or not factory_name:
        raise InputError(
            f"Architecture {target!r} is neither known by name ({', '.join(PRESETS)}) nor of the form module:factory, "
            "for example my_model:build."
        )
    refused = InputError(
        f"The run folder asks for {target!r}, a function that might do anything: say --arch {target} (arch=) if "
        "you trust it, or annotate that it returns an nn.Module."
    )
    if is_from_file and module_name.partition(".")[0] in sys.stdlib_module_names:
        raise refused  # before its import, which may do something itself
    factory = find_factory(module_name, factory_name, f"Architecture {target!r}")
    if is_from_file and not (_only_makes_networks(factory) or _is_here(sys.modules[module_name])):
        raise refused
    return factory


def _only_makes_networks(factory: Callable[..., Any]) -> bool:
    """True for a class of networks, and for a function annotated to return one."""
    made: Any = factory
    if not inspect.isclass(factory):
        try:
            made = typing.get_type_hints(factory).get("return", None)
        except Exception:  # annotations are evaluated, and may name what is not there
            return False
    return inspect.isclass(made) and issubclass(made, nn.Module)


def _is_here(module: Any) -> bool:
    """True for a module in the current folder or below: the user's own."""
    file = getattr(module, "__file__", None)
    return file is not None and Path(os.getcwd()).resolve() in Path(file).resolve().parents


def _made_by(factory: Callable[..., Any], architecture: Architecture) -> nn.Module:
    arguments = dict(architecture.arguments)
    try:
        network = factory(**arguments)
    except FdrError:
        raise
    except Exception as error:  # a user's factory raises anything
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items()) or "no arguments"
        raise InputError(
            f"Architecture {architecture.target!r} called with {given} raised {type(error).__name__}: "
            f"{first_line(error)}; check --arch-args."
        ) from error
    if not isinstance(network, nn.Module):
        raise InputError(
            f"Architecture {architecture.target!r} made a {type(network).__name__}; expected an nn.Module that makes "
            "images of noise (and labels)."
        )
    refuse_empty(network, f"The network of architecture {architecture.target!r}")
    return network
