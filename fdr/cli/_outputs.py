"""The files that a command was asked to write, of which one may be stdout ("-")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fdr.cli._render import write_text

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


def write_reports(paths: Paths, reports: Sequence[Report]) -> None:
    """The files "json", "csv" and "markdown" of `paths`, as far as they are asked for."""
    from fdr.report import reports_to_csv, reports_to_json, reports_to_markdown

    renderers = {"json": reports_to_json, "csv": reports_to_csv, "markdown": reports_to_markdown}
    for name, render in renderers.items():
        path = paths.get(name)
        if path is not None:
            write_text(path, render(reports))
