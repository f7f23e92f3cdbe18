"""Code that a user names: importing a module, finding a factory in it, and identifying it by its source."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from fdr.errors import InputError, first_line, unknown


def find_factory(module_name: str, factory_name: str, asked_by: str) -> Callable[..., Any]:
    """The callable `factory_name` of a module. Raises `InputError` when the import fails or it has no such callable."""
    module = import_named(module_name, asked_by)
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        choices = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown(f"factory of module {module_name}", factory_name, choices, f"Asked for by {asked_by}.")
    return factory


def source_digest(factory: Callable[..., Any]) -> str:
    """sha256 of the file that defines a factory; the digest of no bytes where there is no file."""
    file = getattr(sys.modules.get(getattr(factory, "__module__", "")), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes() if file and os.path.isfile(file) else b"").hexdigest()


def import_named(module: str, asked_by: str) -> ModuleType:
    """Import the module that a user named; like `python -m`, this also searches the current folder.

    Raises `InputError`, beginning with `asked_by`, for whatever the import raises.
    """
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # what a user's module raises at import is anything
        raise InputError(
            f"{asked_by}: importing {module!r} failed with {type(error).__name__}: {first_line(error)}; it is "
            "looked for in the current folder and among the installed packages."
        ) from error
