"""The files that a command was asked to write, of which one may be stdout ("-")."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fdr.cli._render import write_text
from fdr.errors import FdrError

if TYPE_CHECKING:
    from fdr.report import Report

Paths = Mapping[str, Path | None]
"""By option, without its dashes; None where it was not given."""


def check_outputs(paths: Paths) -> None:
    """Raise now for what cannot be written later."""
    from fdr.files import check_writable

    named = {name: path for name, path in paths.items() if path is not None}
    for path in named.values():
        if str(path) != "-":
            check_writable(path)
    if sum(str(path) == "-" for path in named.values()) > 1:
        raise click.UsageError(f"Only one of {', '.join(f'--{name}' for name in named)} can be stdout.")


def take_stdout(paths: Paths) -> bool:
    """True when stdout is one of the files."""
    return any(str(path) == "-" for path in paths.values())


def write_reports(paths: Paths, reports: Sequence[Report], show: Callable[[], None]) -> None:
    """The files "json", "csv" and "markdown" of `paths`, as far as they are asked for; `show` where none is stdout.

    What was measured is shown even where a file cannot be written.
    """
    from fdr.report import reports_to_csv, reports_to_json, reports_to_markdown

    renderers = {"json": reports_to_json, "csv": reports_to_csv, "markdown": reports_to_markdown}
    asked = {path: renderers[name] for name, path in paths.items() if name in renderers and path is not None}
    writes = [functools.partial(write_text, path, render(reports)) for path, render in asked.items()]
    all_of(*writes, *(() if take_stdout(paths) else (show,)))


def all_of(*actions: Callable[[], None]) -> None:
    """Do all of them, also when one fails; the first failure is raised at the end."""
    failures = []
    for action in actions:
        try:
            action()
        except FdrError as error:
            failures.append(error)
    if failures:
        raise failures[0]
