"""Writes what `fdr check` leaves behind: files with the verdict or the error, the table, annotations for GitHub."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fdr.cli._options import (
    Function,
    dry_run,
    gather,
    json_out,
    markdown_out,
    names_of,
    option,
    stack,
    switch,
    text_file,
)
from fdr.cli._outputs import Output, all_of, is_stdout, write_text
from fdr.cli._render import print_verdict
from fdr.errors import FdrError, PeerError

if TYPE_CHECKING:
    from fdr.gate import Verdict
    from fdr.runtime import GitHubJob

UNFINISHED = "The check has not finished: it still runs, or something stopped it before it could say more."
KINDS = {
    "json": ("{", '"schema": "fdr-check/'),
    "junit": ("<?xml", 'name="fdr check"'),
    "markdown": ("### fdr check", ""),
    "openmetrics": ("# TYPE fdr_", ""),
}
"""How the file of an earlier check begins, and a text in its first lines, by kind."""
HEAD_BYTES = 512


@dataclass(frozen=True)
class Outputs:
    """The files that a check writes, and the GitHub job that shows its verdict."""

    report: Path | None = None
    verdicts: Sequence[tuple[str, Path]] = ()
    """Kind and path of each file for the verdict."""
    job: GitHubJob | None = None
    is_dry: bool = False
    """A dry run writes no file."""

    @property
    def spares_stdout(self) -> bool:
        """True when no file is stdout."""
        return self._num_stdout == 0

    @property
    def _num_stdout(self) -> int:
        return sum(map(is_stdout, (self.report, *(path for _, path in self.verdicts))))

    @contextlib.contextmanager
    def replaced_on_failure(self) -> Iterator[None]:
        """Make sure that no verdict of an earlier check survives this one.

        The files say that the check has not finished while it runs, and what went wrong if it ends with an error.
        """
        try:
            if not self.is_dry and _is_main_rank():
                self._write_failure(UNFINISHED)
            yield
        except click.exceptions.Exit:
            raise
        except BaseException as error:
            self.report_error(error)
            raise

    def report_error(self, error: BaseException) -> None:
        """Write an error where the verdict would have gone; a job and stdout get it once.

        If one of several ranks fails, that rank writes it.
        """
        if isinstance(error, PeerError):
            return
        message, is_reported = _sentence_of(error), getattr(error, "is_reported", False)
        if not self.is_dry:
            self._write_failure(message, has_stdout=not is_reported and self._num_stdout == 1 and _is_main_rank())
        if self.job is not None and not is_reported:
            from fdr.gate import annotation, write_job_error

            click.echo(annotation("error", "fdr check", message), err=True)
            if not self.is_dry:
                with contextlib.suppress(FdrError):
                    write_job_error(message, self.job)
        error.is_reported = True  # type: ignore[attr-defined]

    def _write_failure(self, message: str, *, has_stdout: bool = False) -> None:
        """Write a message to every file; leave out those that cannot be written, or that no check wrote."""
        renderers = _renderers()
        for kind, path in self.verdicts:
            with contextlib.suppress(FdrError, OSError):
                if has_stdout if is_stdout(path) else _is_free(path, kind):
                    write_text(path, renderers[kind][1](message))

    def write(self, verdict: Verdict) -> None:
        """Write the files, print the table if none of them is stdout, and annotate the job."""
        from fdr.gate import annotations_of, write_job_files

        renderers = _renderers()
        writes = [functools.partial(write_text, path, renderers[kind][0](verdict)) for kind, path in self.verdicts]
        all_of(*writes, *((functools.partial(print_verdict, verdict),) if self.spares_stdout else ()))
        if self.job is not None:
            for line in annotations_of(verdict):
                click.echo(line, err=True)
            write_job_files(verdict, self.job, self.report)


def _outputs_of(report: Path | None, no_annotations: bool, dry_run: bool, **paths: Path | None) -> Outputs:
    from fdr.runtime import github_job

    verdicts = [(kind, path) for kind in KINDS if (path := paths[f"{kind}_path"]) is not None]
    return Outputs(report, verdicts, None if no_annotations else github_job(), dry_run)


def _saying_how_it_ended(command: Function) -> Function:
    """Make the `outputs` of a command say how it ended, whatever happens in it."""

    @functools.wraps(command)
    def run(*, outputs: Outputs, **values: object) -> object:
        with outputs.replaced_on_failure():
            return command(outputs=outputs, **values)

    return run


_options = stack(
    option(
        "--report FILE", "Write the report of the evaluation to FILE, when samples were measured.", type=Output("json")
    ),
    json_out,
    text_file("junit", "the result as JUnit XML"),
    markdown_out,
    text_file("openmetrics", "the numbers as OpenMetrics text, for GitLab,"),
    switch("--no-annotations", "Write no annotations, summary and outputs in GitHub Actions."),
    dry_run,
)
verdict_outputs = stack(_options, gather("outputs", _outputs_of, names_of(_options)), _saying_how_it_ended)
"""The options of `Outputs`, as the argument `outputs` of a command.

The decorator stands above all others, so that errors in their options reach the files.
"""


def outputs_in(arguments: Sequence[str]) -> Outputs:
    """The files that the arguments name, whatever else is wrong with them.

    They take an error from before the options were read, such as a misspelt option or a damaged configuration.
    """
    from fdr.runtime import github_job

    files = [(kind, Path(text)) for kind, text in _files_in(arguments)]
    job = None if "--no-annotations" in arguments else github_job()
    return Outputs(None, files, job, "--dry-run" in arguments)


def _files_in(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """("junit", "x.xml") for --junit x.xml and --junit=x.xml."""
    for text, following in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        flag, separator, value = text.partition("=")
        if flag.startswith("--") and flag[2:] in KINDS and (value or following):
            yield flag[2:], value if separator else following


def _renderers() -> Mapping[str, tuple[Callable[[Verdict], str], Callable[[str], str]]]:
    """The functions that write a verdict, and an error in its place, by kind."""
    from fdr import gate

    return {
        "json": (gate.verdict_to_json, gate.error_to_json),
        "junit": (gate.verdict_to_junit, gate.error_to_junit),
        "markdown": (gate.verdict_to_markdown, gate.error_to_markdown),
        "openmetrics": (gate.verdict_to_openmetrics, gate.error_to_openmetrics),
    }


def _sentence_of(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "The check was interrupted."
    if isinstance(error, click.ClickException):
        return error.format_message()
    return str(error) if isinstance(error, FdrError) else f"{type(error).__name__}: {error}"


def _is_free(path: Path, kind: str) -> bool:
    """True if there is no file, or an empty one, or one that an earlier check wrote."""
    if not path.exists():
        return path.parent.is_dir()
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES).decode(errors="replace")
    start, within = KINDS[kind]
    return not head or (head.startswith(start) and within in head)


def _is_main_rank() -> bool:
    from fdr.runtime import rank_place

    try:
        return rank_place().rank == 0
    except FdrError:
        return True
