"""`--gpus N` starts this command again as N ranks on this machine, and watches them until they are done."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING

import click

from fdr.errors import InputError
from fdr.runtime import rank_environment, rank_place

if TYPE_CHECKING:
    from fdr.runtime import Group

GRACE = 10.0
"""Seconds for the other ranks to end by themselves after one has failed. Raising it kills fewer and waits longer."""


@contextlib.contextmanager
def ranks(gpus: int | None) -> Iterator[Group]:
    """The group of ranks that this process belongs to. It is alone unless torchrun, Slurm or `--gpus` made it a rank.

    With `--gpus N`, a process that is no rank yet starts N ranks, waits for them, and exits with their code.
    """
    from fdr.runtime import SOLO, propagate_failures

    place = rank_place()
    if gpus == 1 or (gpus is None and place.size == 1):
        yield SOLO
        return
    if place.size == 1:
        raise click.exceptions.Exit(_watch(_start(gpus or 1)))
    if gpus not in (None, place.local_size):
        raise InputError(f"--gpus {gpus} was given to a rank of {place.local_size} on this machine; leave it out.")
    from fdr.runtime import join_ranks

    group = join_ranks()
    if group.rank > 0:
        _be_silent()
    with propagate_failures(group):
        yield group
    group.leave()


def _main_speaks(rank: int) -> int | None:
    return None if rank == 0 else subprocess.DEVNULL


def _start(size: int) -> list[subprocess.Popen[bytes]]:
    arguments = click.get_current_context().find_root().obj
    return start_ranks([sys.executable, "-m", "fdr", *arguments], size)


def start_ranks(
    command: Sequence[str], size: int, stdout_of: Callable[[int], IO[bytes] | int | None] = _main_speaks
) -> list[subprocess.Popen[bytes]]:
    """Start `command` as `size` ranks on this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port, held = listener.getsockname()[1], listener.fileno()
        return [
            subprocess.Popen(
                command,
                env=rank_environment(rank, size, port, os.getpid(), held if rank == 0 else None),
                pass_fds=(held,) if rank == 0 else (),
                stdout=stdout_of(rank),
            )
            for rank in range(size)
        ]


def _watch(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all ranks, hand our signals on to them, and return the exit code of the first that failed."""
    previous = signal.signal(signal.SIGTERM, lambda *_: _terminate(processes))
    try:
        return _first_failure(processes)
    except KeyboardInterrupt:  # the terminal has sent it to the ranks, too
        _end(processes)
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)


def _first_failure(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    while True:
        codes = [process.poll() for process in processes]
        failed = [(rank, code) for rank, code in enumerate(codes) if code]
        if failed:
            break
        if None not in codes:
            return 0
        time.sleep(0.05)
    rank, code = next(((r, c) for r, c in failed if c < 0), failed[0])
    if code < 0:
        name = signal.Signals(-code).name
        click.echo(
            f"fdr: error: Rank {rank} of {len(processes)} was ended by {name}"
            f"{' (out of memory?)' if name == 'SIGKILL' else ''}; what was cached stays, and the same command resumes.",
            err=True,
        )
        _end(processes, grace=0)
        return 1
    _end(processes)
    return code


def _end(processes: Sequence[subprocess.Popen[bytes]], grace: float = GRACE) -> None:
    deadline = time.monotonic() + grace
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        if process.poll() is None:
            process.kill()
            process.wait()


def _terminate(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()


def _be_silent() -> None:
    """Drop warnings: rank 0 prints them for all, and another rank prints only why it failed."""
    import warnings

    warnings.showwarning = lambda *_, **__: None
