"""What tests/training/test_train_run.py runs as processes of its own: runs that are killed at chosen places.

Usage: train_program.py FOLDER PLACE...; a place is "step N" (after that step) or "write N" (before the Nth file takes
its name). Each is one child that kills itself there, then another that goes on to the end, in FOLDER/PLACE.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import train_worlds
from worlds import images, npz

from fdr.training import RunOptions, TrainOptions, TrainResult, train

STEPS = 12
SPARSE = RunOptions(
    device="cpu",
    checkpoint_every=5,
    log_every=2,
    grid_every=5,
    grid_size=4,
    keep=2,
    alarm_every=3,
    alarm_count=110,
)


def options(folder: Path, **changes: Any) -> TrainOptions:
    """Training with everything that has a state: dropout, averages, an EMA population, a watched encoder."""
    reference = folder / "real.npz"
    if not reference.is_file():
        npz(reference, images(40))
    given = TrainOptions(
        str(train_worlds.weights(folder)),
        "train_worlds:Net",
        {"dropout": 0.2},
        reps=("py:train_worlds:tiny",),
        monitor=("py:train_worlds:other",),
        reference=str(reference),
        population="ema:0.9",
        fill=50,
        steps=STEPS,
        batch_size=8,
        lr=1e-2,
        clip=0.5,
        ema_kimg=(0.002, 0.1),
    )
    return replace(given, **changes)


def go(folder: Path, run: Path, should_stop: Callable[[], bool] = lambda: False) -> TrainResult:
    """One call of `train`."""
    return train(options(folder), run, SPARSE, should_stop=should_stop)


def killed_at(place: str, folder: Path, run: Path) -> None:
    """Train until `place`."""
    kind, number = place.split()
    seen = 0

    def count(*_: Any) -> bool:
        nonlocal seen
        seen += 1
        if seen == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    if kind == "step":
        go(folder, run, count)
        return
    rename = os.replace
    os.replace = lambda *paths: (count(), rename(*paths))[1]
    go(folder, run)


def in_child(work: Callable[[], Any]) -> int:
    """The status of a child process that does `work`."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    options(root)  # the files that all share
    for place in sys.argv[2:]:
        run = root / place
        assert in_child(lambda place=place, run=run: killed_at(place, root, run)) == signal.SIGKILL, place
        assert in_child(lambda run=run: go(root, run)) == 0, place
