"""torch.export files (.pt2), checked before torch reads them.

torch's reader unpickles some of their parts, can load compiled code from them, looks operators up by any dotted name
and evaluates shape expressions as Python. No network needs that, so a file that asks for it is refused.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fdr.encoders.libraries import first_line, quiet
from fdr.errors import WeightsError

_PARTS = re.compile(
    r"(data/weights/(weight_\d+|\w+_config\.json)|data/constants/(tensor_\d+|\w+_config\.json)|models/\w+\.json"
    r"|data/(weights|constants|sample_inputs)/\w+\.pt|archive_format|archive_version|byteorder|version|\.data/\w+|\.?extra/.*)"
)
_OPERATORS = re.compile(
    r"torch\.ops\.((?!aten\.from_file)(aten|prims|prim|torchvision)\.\w+(\.\w+)?"
    r"|higher_order\.(cond|while_loop|map_impl|scan|wrap_with_set_grad_enabled|wrap_with_autocast))"
    r"|torch\.sym_\w+|math\.\w+"
    r"|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|pos|and_|or_|eq|ne|lt|le|gt|ge)"
)
_EXPRESSION = re.compile(r"([\w\s()+\-*/,<>=&|~.]|'\w+')*")
_FUNCTIONS = frozenset(
    {"Symbol", "Integer", "Add", "Mul", "Pow", "Max", "Min", "Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv"}
)
"""What torch writes into the sizes of a network with a free batch dimension, or of one for images of any size."""


def load_export(path: Path) -> torch.export.ExportedProgram:
    """The program of a .pt2 file. Raises `WeightsError` for one that is damaged, foreign or asks to run other code."""
    try:
        _check(path)
        with quiet("torch.export", "torch._export"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.load(path)
    except WeightsError:
        raise
    except Exception as error:  # the reader asserts, indexes and casts its way through a damaged file
        raise WeightsError(
            f"{str(path)!r} is not a torch.export file that torch {torch.__version__} can read "
            f"({type(error).__name__}: {first_line(error)}); write it with torch.export.save of a torch near this one."
        ) from error


def _check(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            part = member.partition("/")[2]
            if not _PARTS.fullmatch(part):
                raise _refused(path, f"holds {part or member!r}, which is no part of a network")
            if part.endswith("_config.json"):
                _check_payloads(path, json.loads(archive.read(member)))
            elif part.startswith("models/"):
                _check_graph(path, json.loads(archive.read(member)))
            elif part.endswith(".pt"):
                _check_tensors(path, part, archive.read(member))


def _check_payloads(path: Path, payloads: Any) -> None:
    for name, payload in payloads["config"].items():
        if payload["use_pickle"]:
            raise _refused(path, f"holds {name!r} as a pickle")


def _check_tensors(path: Path, part: str, data: bytes) -> None:
    """Example inputs, and all tensors of older exports: torch's reader unpickles what its safe reader refuses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice about foreign pickles
            torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise _refused(path, f"holds more than tensors in {part!r}") from error


def _check_graph(path: Path, graph: Any) -> None:
    for key, value in _strings(graph):
        if key == "target" and re.search(r"[.#]", value) and not _OPERATORS.fullmatch(value):
            raise _refused(path, f"calls {value!r}")
        if key == "expr_str":
            called = set(re.findall(r"([A-Za-z_]\w*)\s*\(", value))
            if not _EXPRESSION.fullmatch(value) or "__" in value or re.search(r"\.\s*[A-Za-z_]", value):
                raise _refused(path, f"has the shape {value[:60]!r}")
            if called - _FUNCTIONS:
                raise _refused(path, f"calls {min(called - _FUNCTIONS)!r} in a shape")


def _strings(node: Any) -> Iterator[tuple[str, str]]:
    """Every string that is the value of a key, in all depths."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if isinstance(value, str):
            yield key, value
        else:
            yield from _strings(value)
    for value in node if isinstance(node, list) else ():
        yield from _strings(value)


def _refused(path: Path, what: str) -> WeightsError:
    return WeightsError(
        f"{str(path)!r} {what}, and fdr runs nothing but a network's own operators from an export; save the network "
        "alone with torch.export.save, or load it yourself through py:MODULE:FACTORY."
    )
