"""A run folder: the options it was started with, and the lock that one run at a time holds."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from filelock import Timeout

from fdr._version import __version__
from fdr.errors import InputError
from fdr.runtime import HELD, locked_file, write_atomically, write_error
from fdr.training.options import TrainOptions, changed

SCHEMA = "fdr-train/1"
OPTIONS_NAME = "train.json"
LOG_NAME = "log.jsonl"
REFERENCE_NAME = "reference"
LOCK_NAME = ".lock"
_HALF_WRITTEN = ".*.tmp"


def is_run(folder: Path) -> bool:
    """True when `fdr train` has started in `folder`."""
    return (folder / OPTIONS_NAME).is_file()


def read_options(run: Path) -> TrainOptions:
    """The options a run was started with. Raises `InputError` when there is none, or its file is damaged."""
    path = run / OPTIONS_NAME
    if not path.is_file():
        raise InputError(f"{str(run)!r} is no run of fdr train: it has no {OPTIONS_NAME}.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise InputError(f"{str(path)!r} has schema {data['schema']!r}; expected {SCHEMA!r}.")
        stored: dict[str, Any] = data["options"]
        names = {field.name for field in fields(TrainOptions)}
        if names != stored.keys():
            odd = sorted(names ^ stored.keys())
            raise InputError(f"{str(path)!r} is of another version of fdr ({data['fdr_version']}): {', '.join(odd)}.")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        return TrainOptions(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is damaged ({error}); it cannot be resumed.") from error


def check_folder(run: Path, options: TrainOptions) -> None:
    """Raise `InputError` when `run` is of other options, or holds what is no run."""
    if is_run(run):
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
    """Hold the run, so that two processes never train in one folder; the system lets go when the process ends.

    What a killed process was writing is removed first; a folder that nothing came into vanishes again.
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
    """True for what a run may have left that was killed before it had its options."""
    return path.name in (LOCK_NAME, LOCK_NAME + HELD, REFERENCE_NAME) or path.match(_HALF_WRITTEN)
