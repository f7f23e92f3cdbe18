"""Networks saved as programs: TorchScript archives (torch.jit.save) and torch.export files (.pt2).

`torchscript.py` and `torch_export.py` check a file before torch reads it. Here a program becomes an ordinary module.
The sidecar `PATH.json` holds the settings that the file itself cannot hold.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fdr.errors import InputError, unknown
from fdr.weights.torch_export import load_export
from fdr.weights.torchscript import is_archive, load_archive


class ScriptedProgram(nn.Module):
    """A TorchScript program, or another method of one than `forward`."""

    def __init__(self, program: torch.jit.ScriptModule, method: str = "forward") -> None:
        super().__init__()
        self.program = program
        self.method = method

    @property
    def arguments(self) -> dict[str, bool]:
        """The names of the arguments of the method, and whether each must be given."""
        schema = getattr(self.program, self.method).schema
        return {argument.name: not argument.has_default_value() for argument in schema.arguments[1:]}

    def forward(self, *inputs: Tensor, **settings: Any) -> Any:
        with torch.jit.optimized_execution(False):  # otherwise the first batches run other code than the later ones
            return getattr(self.program, self.method)(*inputs, **settings)


class ExportedProgram(nn.Module):
    """A torch.export program. It has one mode, that in which it was exported."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, *inputs: Tensor) -> Any:
        return self.program(*inputs)

    def train(self, mode: bool = True) -> ExportedProgram:
        self.training = mode
        return self


def program_kind(path: Path) -> str | None:
    """ "export" for a .pt2 file, "torchscript" for a TorchScript archive, None for anything else."""
    if path.suffix == ".pt2":
        return "export"
    return "torchscript" if is_archive(path) else None


def load_program(kind: str, path: Path, device: torch.device) -> ScriptedProgram | ExportedProgram:
    """The program in a file of that kind. Raises `WeightsError` for one that is damaged, foreign or runs other code."""
    if kind == "torchscript":
        return ScriptedProgram(load_archive(path, device))
    return ExportedProgram(load_export(path, device))


def read_sidecar(path: Path, settings: Collection[str]) -> dict[str, Any]:
    """The settings in `PATH.json`, empty without it. Raises `InputError` for other content than these settings."""
    sidecar = path.with_name(path.name + ".json")
    if not os.path.isfile(sidecar):  # unlike Path.is_file, false for a name that is too long
        return {}
    try:
        found = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{str(sidecar)!r} is not readable JSON ({error}); correct or remove it.") from error
    if not isinstance(found, dict):
        raise InputError(f"{str(sidecar)!r} must hold an object with {', '.join(settings)}; it holds something else.")
    for key in found:
        if key not in settings:
            raise unknown(f"setting in {str(sidecar)!r}", key, settings)
    return found
