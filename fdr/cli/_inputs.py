"""The inputs of commands that take reports, or samples to measure: `fdr check`, `fdr compare` and `fdr panel`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from fdr.cli import _options
from fdr.cli._measurement import Measurement, measurement
from fdr.cli._outputs import Output, write_text
from fdr.cli._progress import progress_for
from fdr.errors import InputError

if TYPE_CHECKING:
    from fdr.evaluation import Evaluator, PlannedResult
    from fdr.images import ImageSource
    from fdr.reports import Report

T = TypeVar("T")

reports_of_samples = _options.option(
    "--report FILE", "Write the reports of the sample sets to FILE, when samples were measured.", type=Output("json")
)


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
    """True for a file called *.json, and for one that starts like JSON or a page of fdr report, which no archive of
    images does."""
    from fdr.reports import is_page
    from fdr.runtime import missing_path

    path = Path(item)
    if path.suffix == ".json" and not path.exists():
        raise InputError(f"The report {missing_path(path)}")
    if not path.is_file() or path.suffix == ".json":
        return path.is_file()
    try:
        with open(path, "rb") as file:
            head = file.read(64)
            return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") or is_page(head)
    except OSError as error:
        raise InputError(f"Cannot read {item!r}: {error.strerror}.") from error


def measure_comparable(
    samples: Sequence[str],
    measurement: Measurement,
    measure: Callable[[Evaluator, Sequence[ImageSource]], Sequence[T]],
    *,
    least: int = 1,
    dry_run: bool,
    quiet: bool,
) -> dict[str, T] | None:
    """What `measure` gives for each sample set, by its name; None after a dry run, which prints its plan.

    Raises `UsageError` below `least` sets, and `InputError` before the first image is read if their numbers would not
    be comparable.
    """
    from fdr.reports import unique_names

    with measurement.computing.on_ranks(progress_for(quiet)) as setup:
        evaluator, sources = measurement.prepare(samples, setup, dry_run=dry_run, are_compared=True)
        if len(sources) < least:
            raise click.UsageError(f"A comparison needs {least} sample sets or more; name another.")
        names = unique_names([source.name for source in sources])
        _refuse_incomparable({name: list(evaluator.planned(s)) for name, s in zip(names, sources, strict=True)})
        if dry_run:
            for line in evaluator.plan(sources) if setup.is_main else ():
                click.echo(line)
            return None
        measured = measure(evaluator, sources)
    if not setup.is_main:
        raise click.exceptions.Exit(0)  # main compares
    return dict(zip(names, measured, strict=True))


def write_reports(path: Path | None, reports: Sequence[Report]) -> None:
    """Write reports where --report says."""
    from fdr.reports import reports_to_json

    if path is not None:
        write_text(path, reports_to_json(reports))


def _refuse_incomparable(planned: Mapping[str, Sequence[PlannedResult]]) -> None:
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
