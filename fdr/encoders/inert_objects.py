"""Torch checkpoints that hold Python objects beside their tensors, read with empty stand-ins for those objects.

Trainers save their options with the weights (an argparse.Namespace, a configuration, a NumPy scalar). The restricted
unpickler of torch reads the file; it is given a stand-in for every foreign name, so that no class of the file is
imported, called or filled. Names of Python's own functions are no options of a trainer, and are refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

from fdr.errors import WeightsError

LARGEST_PICKLE = 1 << 26
"""Bytes of the structure of a checkpoint (its names and shapes) that are searched for names of objects."""
_PLAIN = {"int", "float", "complex", "bool", "str", "bytes", "bytearray", "list", "dict", "tuple", "set", "frozenset"}
_PLAIN |= {"object", "slice", "range"}
_DATA_MODULES = {"argparse", "pathlib", "collections", "datetime", "decimal", "fractions", "enum", "typing", "uuid"}
_DATA_NAMES = {"types.SimpleNamespace", "copyreg._reconstructor", "_codecs.encode"}
_DATA_NAMES |= {f"builtins.{name}" for name in _PLAIN}
_OLD_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_LEGACY_PICKLES = 4
"""A torch file from before 1.6 begins with a magic number, a version, facts of the machine, and the object."""


def load_inert(path: Path) -> Any:
    """What a torch checkpoint holds; every foreign object is an empty `OrderedDict`, or holds the items it had.

    Raises `WeightsError` naming what is no data of a checkpoint; torch's errors for a file that is damaged.
    """
    import torch

    names = sorted(_globals_of(path))
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
    """The name of the class that an empty stand-in is there for; None for anything else."""
    return getattr(value, "stands_for", None) if type(value) is OrderedDict and not value else None


def _globals_of(path: Path) -> set[str]:
    """The names of classes and functions in the pickle of a torch file."""
    found: set[str] = set()
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            for _ in range(_LEGACY_PICKLES):
                found |= _globals_in(file)
        return found
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename.endswith("/data.pkl"):
                if member.file_size > LARGEST_PICKLE:
                    raise pickle.UnpicklingError("its structure is too large")
                found |= _globals_in(io.BytesIO(archive.read(member)))
    return found


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
    """A class whose instances are empty and which does nothing, whatever it is given."""

    def empty(cls: type, *_: Any, **__: Any) -> Any:
        held: OrderedDict[Any, Any] = OrderedDict()  # torch lets nothing else take the items of a dict's subclass
        held.stands_for = name  # type: ignore[attr-defined]
        return held

    def bare(cls: type, *_: Any, **__: Any) -> Any:
        return object.__new__(cls)

    with_state = name.startswith("numpy.")  # whose state is a tuple, not a dict
    return type("StandIn", (), {"__new__": bare if with_state else empty, "__setstate__": lambda *_: None})
