"""The inputs of commands that take reports, or samples to measure: `fdr check`, `fdr compare` and `fdr panel`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fdr.cli import _options
from fdr.cli._measurement import measurement
from fdr.errors import InputError

if TYPE_CHECKING:
    from fdr.reports import Report


class InputCommand(_options.Command):
    """A command whose argument `inputs` names reports, which are only read, or samples, which are measured."""

    def measures(self, ctx: click.Context) -> bool:
        """True when samples are measured."""
        try:
            return not any(map(is_json, ctx.params["inputs"]))
        except InputError:
            return False


def read_reports(inputs: Sequence[str], done: str) -> dict[str, list[Report]] | None:
    """The reports of each file, recognised by content; None if the inputs are samples to measure.

    `done` is what the command does with them ("checked"). Raises `UsageError` for both kinds at once, and for an option
    of the measurement beside reports.
    """
    from fdr.reports import load_reports, unique_names

    are_reports = [is_json(item) for item in inputs]
    if not any(are_reports):
        return None
    if not all(are_reports) or _options.is_typed("gen"):
        raise click.UsageError(f"Reports and samples cannot be {done} in one command.")
    typed = [name for name in _options.names_of(measurement) if _options.is_typed(name)]
    if typed:
        raise click.UsageError(
            f"{_options.flag(typed[0])} says how samples are measured, but {inputs[0]!r} is a report already."
        )
    return dict(zip(unique_names(inputs), map(load_reports, inputs), strict=True))


def is_json(item: str) -> bool:
    """True for a file called *.json, and for one that starts like JSON, which no archive of images does."""
    from fdr.runtime import missing_path

    path = Path(item)
    if path.suffix == ".json" and not path.exists():
        raise InputError(f"The report {missing_path(path)}")
    if not path.is_file() or path.suffix == ".json":
        return path.is_file()
    try:
        with open(path, "rb") as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    except OSError as error:
        raise InputError(f"Cannot read {item!r}: {error.strerror}.") from error
