"""How a run is shown while it goes. The library calls; the command line draws; the default is silence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from fdr.runtime import Progress, SilentProgress
from fdr.training.log import StepRecord


class View(Progress, Protocol):
    """A `Progress` for what comes before the first step (weights, reference, fill), and the steps themselves."""

    def running(self, steps: int, done: int) -> AbstractContextManager[None]:
        """Around the steps; `done` of them are done already."""

    def reached(self, step: int) -> None:
        """`step` steps are done."""

    def show(self, record: StepRecord) -> None:
        """A logged step."""


class SilentView(SilentProgress):
    """Shows nothing."""

    @contextmanager
    def running(self, steps: int, done: int) -> Iterator[None]:
        yield

    def reached(self, step: int) -> None:
        return None

    def show(self, record: StepRecord) -> None:
        return None
