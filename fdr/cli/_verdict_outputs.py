"""What `fdr check` leaves behind: the files of a verdict or of an error, the table, what GitHub shows."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fdr.cli._outputs import all_of, take_stdout
from fdr.cli._render import print_verdict, write_text
from fdr.errors import FdrError, PeerError

if TYPE_CHECKING:
    from fdr.gate import Verdict
    from fdr.runtime import GitHubJob

UNFINISHED = "The check has not finished: it still runs, or something stopped it before it could say more."
_OWN = {
    "json": ("{", '"schema": "fdr-check/'),
    "junit": ("<?xml", 'name="fdr check"'),
    "markdown": ("### fdr check", ""),
    "openmetrics": ("# TYPE fdr_", ""),
}
"""How a file begins that an earlier check wrote, and what its first lines hold, by option."""
HEAD_BYTES = 512


@dataclass(frozen=True)
class Outputs:
    """The files to write, and the GitHub job that is told as well."""

    report: Path | None
    json: Path | None
    junit: Path | None
    markdown: Path | None
    openmetrics: Path | None
    job: GitHubJob | None = None

    @property
    def verdicts(self) -> Mapping[str, Path]:
        """The files for the verdict that were asked for, by option."""
        return {name: path for name in _OWN if (path := getattr(self, name)) is not None}

    @property
    def files(self) -> Mapping[str, Path | None]:
        """All files, by option."""
        return {"report": self.report, **self.verdicts}

    @property
    def of_verdict(self) -> bool:
        """True when a file is for the verdict."""
        return bool(self.verdicts)

    @property
    def take_stdout(self) -> bool:
        """True when stdout is one of the files."""
        return take_stdout(self.files)

    @contextlib.contextmanager
    def replaced_on_failure(self, *, is_dry: bool) -> Iterator[None]:
        """No verdict of an earlier check survives a check that ends without one, however it ends.

        The files say that the check has not finished while it runs, and what went wrong when it ends with an error. A
        dry run writes nothing.
        """
        try:
            if not is_dry and _is_main_rank():
                _write_error(self.verdicts.items(), UNFINISHED)
            yield
        except click.exceptions.Exit:
            raise
        except BaseException as error:
            self.tell_error(error, is_dry=is_dry)
            raise

    def tell(self, verdict: Verdict) -> None:
        """Write the files; print the table where stdout is none of them; annotate the job."""
        from fdr import gate

        renderers = {
            "json": gate.verdict_to_json,
            "junit": gate.verdict_to_junit,
            "markdown": gate.verdict_to_markdown,
            "openmetrics": gate.verdict_to_openmetrics,
        }
        writes = [functools.partial(write_text, path, renderers[name](verdict)) for name, path in self.verdicts.items()]
        all_of(*writes, *(() if self.take_stdout else (functools.partial(print_verdict, verdict),)))
        if self.job is not None:
            from fdr.gate import annotations_of, write_job_files

            for line in annotations_of(verdict):
                click.echo(line, err=True)
            write_job_files(verdict, self.job, self.report)

    def tell_error(self, error: BaseException, *, is_dry: bool) -> None:
        """Put an error where the verdict would have gone."""
        has_stdout = sum(str(path) == "-" for path in self.files.values()) == 1
        _tell_error(self.verdicts.items(), error, self.job, is_dry=is_dry, has_stdout=has_stdout)


def tell_error_of_arguments(arguments: Sequence[str], error: BaseException) -> None:
    """Put an error into every file that the arguments name, whatever became of the arguments.

    So an error before the options were read, such as a misspelt option or a damaged configuration, is told as well.
    """
    from fdr.runtime import github_job

    files = [(name, Path(text)) for name, text in _files_in(arguments)]
    job = None if "--no-annotations" in arguments else github_job()
    has_stdout = not getattr(error, "is_told", False) and [str(path) for _, path in files].count("-") == 1
    _tell_error(files, error, job, is_dry="--dry-run" in arguments, has_stdout=has_stdout)


def _files_in(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """("junit", "x.xml") for --junit x.xml and --junit=x.xml."""
    for text, following in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        flag, separator, value = text.partition("=")
        if flag.startswith("--") and flag[2:] in _OWN and (value or following):
            yield flag[2:], value if separator else following


def _tell_error(
    files: Iterable[tuple[str, Path]], error: BaseException, job: GitHubJob | None, *, is_dry: bool, has_stdout: bool
) -> None:
    """Of several ranks, the one that failed says why. A GitHub job is told once, and a dry run writes no file."""
    if isinstance(error, PeerError):
        return
    message = _sentence_of(error)
    if not is_dry:
        _write_error(files, message, has_stdout=has_stdout and _is_main_rank())
    if job is not None and not getattr(error, "is_told", False):
        from fdr.gate import annotation, write_job_error

        click.echo(annotation("error", "fdr check", message), err=True)
        if not is_dry:
            with contextlib.suppress(FdrError):
                write_job_error(message, job)
    error.is_told = True  # type: ignore[attr-defined]


def _write_error(files: Iterable[tuple[str, Path]], message: str, *, has_stdout: bool = False) -> None:
    """A file that cannot be written, or that no check wrote, is left as it is."""
    from fdr import gate

    renderers = {
        "json": gate.error_to_json,
        "junit": gate.error_to_junit,
        "markdown": gate.error_to_markdown,
        "openmetrics": gate.error_to_openmetrics,
    }
    for name, path in files:
        with contextlib.suppress(FdrError, OSError):
            if has_stdout if str(path) == "-" else _is_free(path, name):
                write_text(path, renderers[name](message))


def _sentence_of(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "The check was interrupted."
    if isinstance(error, click.ClickException):
        return error.format_message()
    return str(error) if isinstance(error, FdrError) else f"{type(error).__name__}: {error}"


def _is_free(path: Path, kind: str) -> bool:
    """True for a name without a file, for an empty file, and for what an earlier check wrote there."""
    if not path.exists():
        return path.parent.is_dir()
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES).decode(errors="replace")
    start, within = _OWN[kind]
    return not head or (head.startswith(start) and within in head)


def _is_main_rank() -> bool:
    from fdr.runtime import rank_facts

    try:
        return rank_facts().rank == 0
    except FdrError:
        return True
