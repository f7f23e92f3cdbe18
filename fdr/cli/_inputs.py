"""The inputs of commands that take reports, or samples to measure: `fdr check`, `fdr compare` and `fdr panel`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fdr.cli import _options
from fdr.cli._measurement import measurement
from fdr.errors import InputError

if TYPE_CHECKING:
    from fdr.evaluation import PlannedResult
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
    options = _options.names_of(measurement)
    typed = [name for name in options if _options.is_typed(name)]
    if not all(are_reports) or "gen" in typed:
        raise click.UsageError(f"Reports and samples cannot be {done} in one command.")
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


def refuse_incomparable(planned: Mapping[str, Sequence[PlannedResult]]) -> None:
    """Raise `InputError` before anything is measured, if numbers of two sets would not be comparable."""
    from fdr.comparison import signature_differences

    (first, base), *others = planned.items()
    for name, rows in others:
        for a, b in zip(base, rows, strict=False):
            found = [d for d in signature_differences(a.signature, b.signature) if d.is_decisive]
            if found and {d.field for d in found} == {"n"}:
                raise InputError(
                    f"{first} has {found[0].a} images and {name} {found[0].b}, and {a.key} of sets of different size "
                    "cannot be compared: an FD of few images is larger than one of many. Measure as many of each "
                    f"(--count {min(map(int, (found[0].a, found[0].b)))}), or compare the debiased FD (--metrics "
                    "fd_debiased)."
                )
            if found:
                differing = "; ".join(f"{d.field} ({d.meaning}) is {d.a} and {d.b}" for d in found)
                raise InputError(f"{a.key} of {first} and {name} cannot be compared: {differing}.")
