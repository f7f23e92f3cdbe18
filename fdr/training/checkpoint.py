"""Checkpoints: everything a run needs to go on as if it had not stopped, one file each, whole or absent.

The file is a torch archive of tensors and plain values, read with weights_only. Its keys "model" and "model_ema" are
those that other tools and `fdr.load_generator` know.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fdr.errors import InputError, RunError
from fdr.runtime import DAMAGE, atomic_path, check_torch_file, utf8_path

SCHEMA = "fdr-checkpoint/1"
FOLDER = "checkpoints"
_NAME = re.compile(r"step-(\d{8,})\.pt")


def checkpoint_path(run: Path, step: int) -> Path:
    """The file of the state after `step` steps."""
    return run / FOLDER / f"step-{step:08d}.pt"


def list_checkpoints(run: Path) -> dict[int, Path]:
    """The checkpoints of a run by step, oldest first."""
    found = [(match, path) for path in (run / FOLDER).glob("step-*.pt") if (match := _NAME.fullmatch(path.name))]
    return dict(sorted((int(match.group(1)), path) for match, path in found))


def save_checkpoint(run: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Write tensors and plain values. Raises `RunError` when the disk is full; the older ones are untouched."""
    path = checkpoint_path(run, step)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save({"schema": SCHEMA, "step": step, **state}, file)
        except RuntimeError as error:  # torch's writer says so, rather than the system, when the disk is full
            raise RunError(f"Cannot write {str(path)!r}: {str(error).splitlines()[0]}; free some space.") from error
    return path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a file, on the CPU. Raises `InputError` when it is damaged or no checkpoint of ours."""
    try:
        check_torch_file(path)  # a flipped bit would change the run from here on
        with utf8_path(path) as readable:
            state = torch.load(readable, map_location="cpu", weights_only=True)
    except (*DAMAGE, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"Checkpoint {str(path)!r} is damaged ({reason[:120]}); remove it to resume from an earlier one."
        ) from error
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise InputError(f"{str(path)!r} is no checkpoint of fdr train; remove it from the folder.")
    return state


def prune(run: Path, keep: int, milestone_every: int | None) -> None:
    """Remove all but the newest `keep` checkpoints and those at multiples of `milestone_every`."""
    found = list_checkpoints(run)
    for step in list(found)[:-keep]:
        if not milestone_every or step % milestone_every:
            found[step].unlink(missing_ok=True)
