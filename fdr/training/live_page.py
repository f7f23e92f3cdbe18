"""`RUN/report.html`: the page of `fdr report` of a run, written again and again while the run goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fdr.errors import first_line, warn
from fdr.pages import PAGE_NAME, PageOptions, check_extra, read_run, render_page
from fdr.runtime import write_atomically

LEAST_SECONDS = 30.0
"""The page is written at most so often, and a browser loads it again so often. Raising it shows news later."""
SHARE = 0.02
"""Largest share of the run's time that the page takes. Raising it shows news of large runs earlier."""


def check_page() -> None:
    """Raise `InputError` without the libraries that the page needs."""
    check_extra("--page was asked for; the page")


class LivePage:
    """Writes the page at an evaluation, at other entries of the log when it is due, and at the end of the run.

    It reads the log, so it comes behind `JsonLines` in the list of sinks. A page that cannot be written is a warning,
    once: the run goes on.
    """

    def __init__(self, run: Path) -> None:
        check_page()
        self._run = run
        self._next = -math.inf
        self._has_failed = False

    def write(self, kind: str, values: Mapping[str, Any]) -> None:
        if kind == "evaluation" or time.monotonic() >= self._next:
            self._render(PageOptions(title=self._title, refresh=round(LEAST_SECONDS)))

    def close(self) -> None:
        self._render(PageOptions(title=self._title))

    @property
    def _title(self) -> str:
        return f"fdr train: {self._run.resolve().name}"

    def _render(self, options: PageOptions) -> None:
        began = time.monotonic()
        try:
            run = read_run(self._run)
            write_atomically(self._run / PAGE_NAME, render_page(run.last_evaluation(), [run], options))
        except Exception as error:  # whatever it is, the picture of a run must not end the run
            if not self._has_failed:
                warn(f"The page of the run could not be written, and the run goes on: {first_line(error)}.")
            self._has_failed = True
        now = time.monotonic()
        self._next = now + max(LEAST_SECONDS, (now - began) / SHARE)
