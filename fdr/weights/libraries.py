"""Importing the large model libraries only when they are used; a broken one affects its own encoders only."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from fdr.errors import InputError, first_line

_ADVICE = {
    "timm": "reinstall timm and the torchvision that belongs to this torch",
    "transformers": "pip install 'transformers>=5,<6'",
    "tokenizers": "pip install 'transformers>=5,<6', which brings it",
    "diffusers": "pip install 'diffusers>=0.36'",
    "open_clip": "pip install open_clip_torch, and the torchvision that belongs to this torch",
}


def load_library(name: str, user: str, kind: str = "Encoder") -> ModuleType:
    """Import the module `name` for the encoder `user`. Raises `InputError` when the import fails for any reason."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken neighbour (torchvision of another torch) raises anything
        raise InputError(
            f"{kind} {user!r} needs {name}, which failed to import: {type(error).__name__}: {first_line(error)}; "
            f"{_ADVICE[name]}."
        ) from error


@contextlib.contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Let these loggers ("" is the root) report errors only.

    `logging.info` on a root without handlers installs one that prints, for good; an idle one keeps it from doing so.
    """
    named = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in named]
    idle = logging.NullHandler()
    for logger in named:
        logger.setLevel(logging.ERROR)
        logger.addHandler(idle)
    try:
        yield
    finally:
        for logger, level in zip(named, levels, strict=True):
            logger.setLevel(level)
            logger.removeHandler(idle)


@contextlib.contextmanager
def silent(library: Any) -> Iterator[None]:
    """Let transformers or diffusers draw no bars and print no report on stderr; our own errors say what is wrong."""
    bars = library.utils.logging
    was_enabled = bars.is_progress_bar_enabled() if hasattr(bars, "is_progress_bar_enabled") else False
    bars.disable_progress_bar()
    try:
        with quiet(library.__name__):
            yield
    finally:
        if was_enabled:
            bars.enable_progress_bar()
