"""Torch checkpoints that hold Python objects beside their tensors, read with empty stand-ins for those objects.

Trainers save their options with the weights (an argparse.Namespace, a configuration, a NumPy scalar). The restricted
unpickler of torch reads the file; it is given a stand-in for every foreign name, so that no class of the file is
imported, called or filled. Names of Python's own functions are no options of a trainer, and are refused.
"""

from __future__ import annotations

import pickle
import pickletools
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

from fdr.errors import WeightsError
from fdr.runtime import pickles_in

_PLAIN = {"int", "float", "complex", "bool", "str", "bytes", "bytearray", "list", "dict", "tuple", "set", "frozenset"}
_PLAIN |= {"object", "slice", "range"}
_DATA_MODULES = {"argparse", "pathlib", "collections", "datetime", "decimal", "fractions", "enum", "typing", "uuid"}
_DATA_NAMES = {"types.SimpleNamespace", "copyreg._reconstructor", "_codecs.encode"}
_DATA_NAMES |= {f"builtins.{name}" for name in _PLAIN}
_OLD_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def load_inert(path: Path) -> Any:
    """The content of a torch checkpoint, with an `OrderedDict` for each foreign object, which keeps its items if any.

    Raises `WeightsError` for a name that is no data, and torch's errors for a damaged file.
    """
    import torch

    names = sorted({name for file in pickles_in(path) for name in _globals_in(file)})
    refused = [name for name in names if not _is_data(name)]
    if refused:
        raise WeightsError(
            f"Weight file {str(path)!r} holds more than tensors: it asks for {refused[0]}, which no weights need, and "
            "fdr runs no code from weight files; save its state dict alone, as .safetensors or with torch.save."
        )
    stand_ins: list[Any] = [(_stand_in(name), name) for name in names]
    with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def class_of(value: Any) -> str | None:
    """The name of the class that an empty stand-in replaces; None for anything else."""
    name = getattr(value, "stands_for", None) if type(value) is OrderedDict and not value else None
    return name[:100] if isinstance(name, str) else None  # the file may have put something else there


def _globals_in(file: IO[bytes]) -> set[str]:
    found = set()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "STACK_GLOBAL":
            raise pickle.UnpicklingError("it was saved with a pickle protocol above 3")
        if opcode.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            found.add(f"{_OLD_NAMES.get(module, module)}.{name}")
    return found


def _is_data(name: str) -> bool:
    module = name.partition(".")[0]
    return name in _DATA_NAMES or module in _DATA_MODULES or module not in sys.stdlib_module_names


def _stand_in(name: str) -> type:
    """A class that ignores all arguments and makes empty objects."""

    def empty(cls: type, *_: Any, **__: Any) -> Any:
        held: OrderedDict[Any, Any] = OrderedDict()  # torch lets nothing else take the items of a dict's subclass
        held.stands_for = name  # type: ignore[attr-defined]
        return held

    def bare(cls: type, *_: Any, **__: Any) -> Any:
        return object.__new__(cls)

    with_state = name.startswith("numpy.")  # its state is a tuple, not a dict
    return type("StandIn", (), {"__new__": bare if with_state else empty, "__setstate__": lambda *_: None})
