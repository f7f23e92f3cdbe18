"""What `fdr check` leaves behind: the files of a verdict, the table, what GitHub shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fdr.cli._outputs import check_outputs, take_stdout
from fdr.cli._render import print_verdict, write_text

if TYPE_CHECKING:
    from fdr.gate import Verdict
    from fdr.runtime import GitHubJob


@dataclass(frozen=True)
class Outputs:
    """The files to write."""

    report: Path | None
    json: Path | None
    junit: Path | None
    markdown: Path | None
    openmetrics: Path | None

    def check(self) -> None:
        """Raise now for what cannot be written later."""
        check_outputs(vars(self))

    @property
    def of_verdict(self) -> bool:
        """True when a file is for the verdict."""
        return any((self.json, self.junit, self.markdown, self.openmetrics))

    @property
    def take_stdout(self) -> bool:
        """True when stdout is one of the files."""
        return take_stdout(vars(self))

    def tell(self, verdict: Verdict, job: GitHubJob | None) -> None:
        """Write the files; print the table where stdout is none of them; annotate the job."""
        from fdr import verdict_files

        renderers = {
            "json": verdict_files.verdict_to_json,
            "junit": verdict_files.verdict_to_junit,
            "markdown": verdict_files.verdict_to_markdown,
            "openmetrics": verdict_files.verdict_to_openmetrics,
        }
        for name, render in renderers.items():
            path = getattr(self, name)
            if path is not None:
                write_text(path, render(verdict))
        if not self.take_stdout:
            print_verdict(verdict)
        if job is not None:
            from fdr.github import annotations_of, write_job_files

            for line in annotations_of(verdict):
                click.echo(line, err=True)
            write_job_files(verdict, job, self.report)
