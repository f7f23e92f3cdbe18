"""Code that a user names: finding and calling a factory, and the digests that identify code and networks."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fdr.errors import FdrError, InputError, first_line, unknown

if TYPE_CHECKING:
    import torch

UNKNOWN = "unknown"
"""The identity of a plain function: two versions of it cannot be told apart, so its features are never cached."""


def find_factory(module_name: str, factory_name: str, asked_by: str) -> Callable[..., Any]:
    """The callable `factory_name` of a module, which is imported from the current folder too, as by `python -m`.

    Raises `InputError` when the import fails or the module has no such callable.
    """
    module = import_user_module(module_name, asked_by)
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        choices = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown(f"factory of module {module_name}", factory_name, choices, f"Asked for by {asked_by}.")
    return factory


def find_object(module_name: str, name: str, asked_by: str) -> Any:
    """Any object `name` of a module. Raises `InputError` as `find_factory` does."""
    module = import_user_module(module_name, asked_by)
    if not hasattr(module, name):
        choices = [key for key in vars(module) if not key.startswith("_")]
        raise unknown(f"object of module {module_name}", name, choices, f"Asked for by {asked_by}.")
    return getattr(module, name)


def import_user_module(module_name: str, asked_by: str) -> ModuleType:
    """Import a module, from the current folder too. Raises `InputError` when that fails."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything when it is imported
        raise InputError(
            f"{asked_by}: importing {module_name!r} failed with {type(error).__name__}: {first_line(error)}; it is "
            "looked for in the current folder and among the installed packages."
        ) from error


def call_factory(
    factory: Callable[..., Any], given: Sequence[Any], named: Mapping[str, Any], asked_by: str, advice: str
) -> Any:
    """`factory(*given, **named)`. Raises `InputError` for whatever it raises, but for fdr's own errors."""
    try:
        return factory(*given, **named)
    except FdrError:
        raise
    except Exception as error:  # a user's factory may raise anything
        arguments = [*(type(value).__name__ for value in given), *(f"{key}={value!r}" for key, value in named.items())]
        raise InputError(
            f"{asked_by} called with {', '.join(arguments) or 'no arguments'} raised {type(error).__name__}: "
            f"{first_line(error)}; {advice}."
        ) from error


def source_digest(factory: Callable[..., Any]) -> str:
    """sha256 of the file that defines a factory; the digest of no bytes where there is no file."""
    file = getattr(sys.modules.get(getattr(factory, "__module__", "")), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes() if file and os.path.isfile(file) else b"").hexdigest()


def made_digest(factory: Callable[..., Any], inner: str) -> str:
    """sha256 over the file of a factory and `inner`, the digest of what it made; "unknown" where that is unknown."""
    return UNKNOWN if inner == UNKNOWN else hashlib.sha256(f"{source_digest(factory)} {inner}".encode()).hexdigest()


def module_digest(module: torch.nn.Module) -> str:
    """sha256 over the structure, the source of every class in it, and all weights; "unknown" without the source."""
    digest = hashlib.sha256(repr(module).encode())
    classes = {type(part) for part in module.modules()}
    for kind in sorted(classes, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}"):
        try:
            digest.update(_source_of(kind).encode())  # type: ignore[arg-type]
        except (OSError, TypeError):  # typed into an interpreter: its code could change unseen
            return UNKNOWN
    digest_state(module, digest)
    return digest.hexdigest()


@functools.lru_cache(maxsize=4096)
def _source_of(kind: type) -> str:
    """The source of a class, cached: Python parses a whole file to find it, which in 3.11 is not safe in threads."""
    return inspect.getsource(kind)


def digest_state(module: torch.nn.Module, digest: Any) -> None:
    """Update a hash with the names, types, shapes and bytes of all weights."""
    import torch

    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
