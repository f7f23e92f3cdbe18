"""A run folder: the options it was started with, the lock that one run at a time holds, and the checkpoints.

A checkpoint is one file, whole or absent, with everything that a run needs to continue as if it had not stopped. It is
a torch archive of tensors and plain values, read with weights_only. Its keys "model" and "model_ema" are those that
other tools and `fdr.load_generator` know.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from filelock import Timeout

from fdr._version import __version__
from fdr.errors import InputError, RunError, first_line
from fdr.pages import EVALUATIONS as EVALUATIONS
from fdr.pages import GRIDS as GRIDS
from fdr.pages import LOG_NAME as LOG_NAME
from fdr.pages import OPTIONS_NAME as OPTIONS_NAME
from fdr.pages import REALS_NAME as REALS_NAME
from fdr.pages import is_run_folder
from fdr.runtime import (
    DAMAGE,
    HELD,
    atomic_path,
    check_torch_file,
    decode_json,
    locked_file,
    utf8_path,
    write_atomically,
    write_error,
)
from fdr.training.options import TrainOptions, changed

SCHEMA = "fdr-train/1"
REFERENCE_NAME = "reference"
LOCK_NAME = ".lock"
ADDED = {"lag_correction", "lag_every", "conditional", "local_rho"}
"""Options that runs of earlier states of fdr lack; their runs go on with the defaults."""
CHECKPOINT_SCHEMA = "fdr-checkpoint/1"
CHECKPOINTS = "checkpoints"
_HALF_WRITTEN = ".*.tmp"
_CHECKPOINT_NAME = re.compile(r"step-(\d{8,})\.pt")


def read_options(run: Path) -> TrainOptions:
    """The options a run was started with. Raises `InputError` when there is none, or its file is damaged."""
    path = run / OPTIONS_NAME
    if not path.is_file():
        raise InputError(f"{str(run)!r} is no run of fdr train: it has no {OPTIONS_NAME}.")
    try:
        data = decode_json(path.read_bytes())
        if data["schema"] != SCHEMA:
            raise InputError(f"{str(path)!r} has schema {data['schema']!r}; expected {SCHEMA!r}.")
        stored: dict[str, Any] = data["options"]
        names = {field.name for field in fields(TrainOptions)}
        odd = sorted((names - stored.keys() - ADDED) | (stored.keys() - names))
        if odd:
            raise InputError(f"{str(path)!r} is of another version of fdr ({data['fdr_version']}): {', '.join(odd)}.")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        return TrainOptions(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{str(path)!r} is damaged ({error}); it cannot be resumed.") from error


def check_folder(run: Path, options: TrainOptions) -> None:
    """Raise `InputError` when `run` was started with other options, or is a folder of something else."""
    if is_run_folder(run):
        difference = changed(read_options(run), options)
        if difference is not None:
            raise InputError(
                f"Run {str(run)!r} cannot go on with these options: {difference}; leave that out, or start a new run "
                f"from the generator of this one, in another folder: fdr train --gen {run} -o NEW."
            )
    elif run.exists() and (not run.is_dir() or not all(map(_is_early, run.iterdir()))):
        raise InputError(f"{str(run)!r} exists and is no run of fdr train; name another folder with -o.")


def write_options(run: Path, options: TrainOptions) -> None:
    """Make `run` the folder of a run with these options."""
    data = {"schema": SCHEMA, "fdr_version": __version__, "options": asdict(options)}
    write_atomically(run / OPTIONS_NAME, (json.dumps(data, indent=2) + "\n").encode())


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Lock the run folder, so that two processes never train in it; the system unlocks it when the process ends.

    Half-written files of a killed process are removed first. A folder that is still empty at the end is removed.
    """
    with contextlib.ExitStack() as stack:
        try:
            is_new = not run.exists()
            run.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked_file(run / LOCK_NAME, blocking=False))
        except Timeout as error:
            marker = f" (if none is, remove {error.lock_file})" if error.lock_file.endswith(HELD) else ""
            raise InputError(
                f"Another process is training in {str(run)!r}; wait for it, or name another folder{marker}."
            ) from None
        except OSError as error:
            raise write_error(run, error) from error
        try:
            for path in run.rglob(_HALF_WRITTEN):
                path.unlink(missing_ok=True)
            yield
        finally:
            stack.close()
            if is_new and all(path.name == LOCK_NAME for path in run.iterdir()):
                shutil.rmtree(run)


def _is_early(path: Path) -> bool:
    """True for files of a run that was killed before it wrote its options."""
    return path.name in (LOCK_NAME, LOCK_NAME + HELD, REFERENCE_NAME) or path.match(_HALF_WRITTEN)


def checkpoint_path(run: Path, step: int) -> Path:
    """The path of the checkpoint after `step` steps."""
    return run / CHECKPOINTS / f"step-{step:08d}.pt"


def list_checkpoints(run: Path) -> dict[int, Path]:
    """The checkpoints of a run by step, oldest first."""
    found = [
        (match, path)
        for path in (run / CHECKPOINTS).glob("step-*.pt")
        if (match := _CHECKPOINT_NAME.fullmatch(path.name))
    ]
    return dict(sorted((int(match.group(1)), path) for match, path in found))


def save_checkpoint(run: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Write a checkpoint of tensors and plain values. Raises `RunError` when the disk is full; older ones stay."""
    import torch

    path = checkpoint_path(run, step)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save({"schema": CHECKPOINT_SCHEMA, "step": step, **state}, file)
        except RuntimeError as error:  # torch's writer says so, rather than the system, when the disk is full
            raise RunError(f"Cannot write {str(path)!r}: {first_line(error)}; free some space.") from error
    return path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state that a checkpoint holds, on the CPU. Raises `InputError` when it is damaged or not one of ours."""
    import torch

    try:
        check_torch_file(path)  # a flipped bit would change the run from here on
        with utf8_path(path) as readable:
            state = torch.load(readable, map_location="cpu", weights_only=True)
    except (*DAMAGE, pickle.UnpicklingError) as error:
        raise InputError(
            f"Checkpoint {str(path)!r} is damaged ({first_line(error)[:120]}); remove it to resume from an earlier one."
        ) from error
    if not isinstance(state, dict) or state.get("schema") != CHECKPOINT_SCHEMA:
        raise InputError(f"{str(path)!r} is no checkpoint of fdr train; remove it from the folder.")
    return state


def prune(run: Path, keep: int, milestone_every: int | None, kept_step: int | None = None) -> None:
    """Remove all but the newest `keep` checkpoints, those at multiples of `milestone_every`, and `kept_step`'s."""
    found = list_checkpoints(run)
    for step in list(found)[:-keep]:
        if step != kept_step and (not milestone_every or step % milestone_every):
            found[step].unlink(missing_ok=True)
