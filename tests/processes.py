"""How tests wait: for what happens and not for a time, so that a busy machine makes them slow and never red."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

PATIENCE = 600.0
"""Seconds after which something counts as hanging. Lowering it fails tests on busy machines."""


def wait_until(condition: Callable[[], object], process: subprocess.Popen | None = None) -> None:
    """Wait until `condition()` holds or `process` has ended; a wait of `PATIENCE` fails."""
    deadline = time.monotonic() + PATIENCE
    while not condition() and (process is None or process.poll() is None):
        assert time.monotonic() < deadline, "what a test waits for has not happened"
        time.sleep(0.005)


@contextmanager
def ended(*processes: subprocess.Popen) -> Iterator[None]:
    """Leave none of `processes` behind, however the block ends."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def exit_codes(processes: Iterable[subprocess.Popen]) -> list[int]:
    """The exit codes of processes that end by themselves."""
    started = list(processes)
    with ended(*started):
        return [process.wait(PATIENCE) for process in started]


@contextmanager
def processor_limit(seconds: float, what: str) -> Iterator[None]:
    """Fail once the block has taken so many seconds of processor time, which other processes cannot use up."""

    def stop(*_: object) -> None:
        raise AssertionError(f"{what} has taken {seconds:g} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
