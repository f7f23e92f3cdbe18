"""Reading TorchScript archives, which torch has deprecated. This is the only file that calls torch.jit's reader."""

from __future__ import annotations

import pickle
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fdr.errors import WeightsError, first_line
from fdr.runtime import DAMAGE, check_zip
from fdr.weights.export_operators import Refused
from fdr.weights.script_check import check_code, check_functions

_MAX_CODE = 1 << 24
"""The most bytes of code in one archive; a network of 500 million parameters has less than one MiB. Raising the limit
accepts archives that take longer to check."""


def is_archive(path: Path) -> bool:
    """True for a zip with TorchScript's constants; False for anything else, unreadable files included."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except DAMAGE:
        return False


def load_archive(path: Path, device: torch.device | str = "cpu") -> torch.jit.ScriptModule:
    """The module of a TorchScript archive, in eval mode.

    An archive holds a program in TorchScript's own language, which could read and write files and print. Its code is
    checked before torch compiles it, and all its graphs before any of them runs; it can still waste memory and time
    when it is called. Raises `WeightsError` for a file that is none, is damaged, or holds more than a network.
    """
    try:
        check_zip(path, is_exact=True)
        _check_members(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit announces its end at every call
            return _loaded(path, torch.device(device)).eval()
    except Refused as error:
        raise error.about(path, "torch.jit.save") from None
    except DAMAGE as error:
        reason = first_line(error)[:160]
        raise WeightsError(
            f"{str(path)!r} is not a TorchScript archive that torch {torch.__version__} can read ({reason}); expected "
            "a file written by torch.jit.save."
        ) from error


def _loaded(path: Path, device: torch.device) -> torch.jit.ScriptModule:
    """Load like torch.jit.load, but keep access to the functions that modules share, so that they are checked."""
    from torch.jit._recursive import wrap_cpp_module

    unit = torch._C.CompilationUnit()
    read: Any = torch._C.import_ir_module  # whose type lacks the last argument
    module = read(unit, str(path), device, {}, False)
    check_functions(unit)
    wrapped: torch.jit.ScriptModule = wrap_cpp_module(module)
    return wrapped


def _check_members(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name.partition("/")[2] for name in archive.namelist()}
        if not {"constants.pkl", "data.pkl"} <= parts or "model.json" in parts:
            raise ValueError("it has no constants.pkl and data.pkl")
        code = [member for member in archive.infolist() if member.filename.endswith(".py")]
        if sum(member.file_size for member in code) > _MAX_CODE:
            raise Refused(f"has more than {_MAX_CODE >> 20} MiB of code")
        for member in code:
            check_code(archive.read(member).decode("utf-8"))
        for name in archive.namelist():
            if re.fullmatch(r"[^/]+/\w+\.pkl", name):
                _check_objects(archive.read(name))


def _check_objects(data: bytes) -> None:
    """Refuse objects of C++ classes, which read their own state; a network of plain tensors has none."""
    try:
        for opcode, argument, _ in pickletools.genops(data):
            is_foreign = opcode.name == "GLOBAL" and ".classes." in str(argument).replace(" ", ".")
            if is_foreign or opcode.name == "STACK_GLOBAL":
                raise Refused(f"holds an object of {str(argument)[:80]!r}")
    except (ValueError, pickle.UnpicklingError, IndexError, KeyError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"a pickle in it is damaged: {error}") from error


def archive_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive by name, as OpenAI publishes CLIP."""
    return dict(load_archive(path).state_dict())
