"""TorchScript archives, which torch has deprecated: the one place that reads them."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from fdr.errors import WeightsError


def is_archive(path: Path) -> bool:
    """True for a zip with TorchScript's constants; False for anything else, unreadable files included."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def load_archive(path: Path, device: torch.device | str = "cpu") -> torch.jit.ScriptModule:
    """The module of a TorchScript archive, in eval mode.

    An archive holds a program in TorchScript's own language, not Python: it can compute and waste memory and time, not
    open files or start processes. Raises `WeightsError` for a file that is none, or is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit announces its end at every call
            return torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:160]
        raise WeightsError(
            f"{str(path)!r} is not a TorchScript archive that torch {torch.__version__} can read ({reason}); expected "
            "a file written by torch.jit.save."
        ) from error


def archive_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive by name, as OpenAI publishes CLIP."""
    return dict(load_archive(path).state_dict())
