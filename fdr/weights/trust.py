"""Code that a file names, not the user: which names are accepted, and the error for the others.

A name that is typed on a command line or passed in Python is the user's own. From a file (a run folder, train.json, a
configuration) fdr accepts only its own names and those that an installed package declares with an entry point. Nothing
is imported to find that out.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from fdr.errors import InputError, first_line

ENCODERS, GENERATORS = "fdr.encoders", "fdr.generators"
"""Groups of entry points: "name = module:factory" in a package declares an encoder, or the network of a generator."""

_OWN = {ENCODERS: ("fdr.training.demo_generator:pixels",), GENERATORS: ("fdr.training.demo_generator:Decoder",)}
"""Code that fdr itself declares, for the runs of its demo."""

_CODE = re.compile(r"(py|torchscript|export):(.*)", re.DOTALL | re.IGNORECASE)
"""Names of encoders that are code: Python, or a program in a file."""


def declared_in(group: str) -> list[EntryPoint]:
    """The entry points of installed packages. A folder of metadata in the current folder is not installed."""
    return [point for point in importlib.metadata.entry_points(group=group) if not _is_here(point)]


def find_declared(group: str, target: str) -> EntryPoint | None:
    """The entry point that declares `target`, by its name or as "module:factory"; None when none does."""
    points = declared_in(group) + [EntryPoint(value, value, group) for value in _OWN[group]]
    return next((point for point in points if target in (point.name, point.value)), None)


def load_declared(point: EntryPoint, asked_by: str) -> Any:
    """Import the object of an entry point, even when a module in the current folder has the same name.

    Raises `InputError` when the import fails for any reason.
    """
    try:
        with contextlib.nullcontext() if _is_here(point) else _without_current_folder():
            return point.load()
    except Exception as error:  # a third-party package may raise anything
        raise InputError(
            f"{asked_by}{_of_package(point)} failed to load from {point.value!r}: {type(error).__name__}: "
            f"{first_line(error)}."
        ) from error


def _of_package(point: EntryPoint) -> str:
    return "" if point.dist is None else f" of package {point.dist.name}"


def check_encoders(names: Iterable[str], where: str, instead: str = "--reps") -> None:
    """Raise `InputError` when the file `where` names an encoder that is code which no installed package declares."""
    for name in (part.strip() for text in names for part in text.split(",")):
        match = _CODE.match(name)
        points = importlib.metadata.entry_points(group=ENCODERS)
        is_here = any(point.name.lower() == name.lower() and _is_here(point) for point in points)
        is_own = match is not None and match[2] in _OWN[ENCODERS]  # declared ones are called by their name
        if (match is not None or is_here) and not is_own:
            what = CODE if match is None or match[1].lower() == "py" else PROGRAM
            raise untrusted(where, name, f"{instead} {name}", what)


CODE = "code that no installed package declares"
PROGRAM = "a program in a file"
PLACE = "a folder of this machine"


def untrusted(where: str, target: str, typed: str, what: str = CODE) -> InputError:
    """The error for code that a file names; `typed` is how the user would name it on the command line."""
    return InputError(
        f"{where} asks for {target!r}, {what}; if you trust it, add --trust, or name it yourself: {typed}."
    )


def _is_here(point: EntryPoint) -> bool:
    """True when the package lies in the current folder, where Python may look, but nobody installed it."""
    if point.dist is None:
        return False
    return Path(str(point.dist.locate_file(""))).resolve() == Path(os.getcwd()).resolve()


@contextlib.contextmanager
def _without_current_folder() -> Iterator[None]:
    before, here = list(sys.path), Path(os.getcwd()).resolve()
    sys.path[:] = [entry for entry in before if entry and Path(entry).resolve() != here]
    try:
        yield
    finally:
        sys.path[:] = before
