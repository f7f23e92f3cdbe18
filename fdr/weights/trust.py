"""Names of code that a file gives, not the user: which of them are taken, and the sentence for the others.

What is typed on a command line, or passed in Python, is the user's own. Out of a file (a run folder, train.json, a
configuration) comes only what fdr itself knows and what an installed package declares with an entry point. Nothing is
imported to find that out.
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

from fdr.errors import InputError

ENCODERS, GENERATORS = "fdr.encoders", "fdr.generators"
"""Groups of entry points: "name = module:factory" in a package declares an encoder, or the network of a generator."""

_OWN = {ENCODERS: ("fdr.training.demo_generator:pixels",), GENERATORS: ("fdr.training.demo_generator:Decoder",)}
"""What fdr declares of itself, for the runs of its demo."""

_CODE = re.compile(r"(py|torchscript|export):(.*)", re.DOTALL | re.IGNORECASE)
"""Names of encoders that are code of their own: Python, or a program in a file."""


def declared_in(group: str) -> list[EntryPoint]:
    """The entry points of installed packages. A folder of metadata in the current folder is not installed."""
    return [point for point in importlib.metadata.entry_points(group=group) if not _is_here(point)]


def find_declared(group: str, target: str) -> EntryPoint | None:
    """The entry point that declares `target`, by its name or as "module:factory"; None when none does."""
    points = declared_in(group) + [EntryPoint(value, value, group) for value in _OWN[group]]
    return next((point for point in points if target in (point.name, point.value)), None)


def load_declared(point: EntryPoint) -> Any:
    """What an entry point stands for. A module of the same name in the current folder does not take its place."""
    if _is_here(point):
        return point.load()
    with _without_current_folder():
        return point.load()


def check_encoders(names: Iterable[str], where: str, instead: str = "--reps") -> None:
    """Raise `InputError` for an encoder of a file (`where`) that is code which no installed package declares."""
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
    """The sentence for something that a file asks for; `typed` is what names it on the command line."""
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
