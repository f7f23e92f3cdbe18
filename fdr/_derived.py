"""Moments kept beside the features they were computed from; the file name says which features and which bytes."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from fdr import _atomic
from fdr.errors import FdrError

if TYPE_CHECKING:
    from fdr.moments import Moments

MOMENTS_VERSION = 1  # raised whenever a release computes other moments from the same features
_NAME = re.compile(r"moments-(?P<output>.+)-(?P<features>[0-9a-f]{16})-(?P<content>[0-9a-f]{16})\.npz")


def moments_files(folder: Path, output: str | None = None) -> list[Path]:
    """Stored moments in `folder`: of one output, or all."""
    named = [(path, _NAME.fullmatch(path.name)) for path in folder.iterdir()]
    return sorted(path for path, name in named if name and (output is None or name["output"] == _quoted(output)))


def is_undamaged(path: Path) -> bool:
    """True when a moments file still has the content its name tells."""
    name = _NAME.fullmatch(path.name)
    return name is not None and _content_digest(path) == name["content"]


def load_moments(folder: Path, output: str, features_digest: str) -> Moments | None:
    """The moments of `output` saved for the features with that digest; None when there are none, or damaged ones."""
    from fdr.moments import Moments

    start = f"moments-{_quoted(output)}-{_features_tag(features_digest)}-"
    try:
        for path in moments_files(folder, output):
            if path.name.startswith(start) and is_undamaged(path):
                return Moments.load(path)
    except (OSError, FdrError):  # gone meanwhile, or of another format: computed again
        return None
    return None


def save_moments(folder: Path, output: str, features_digest: str, moments: Moments) -> bool:
    """Save atomically and remove those of earlier features; False where the folder cannot be written."""
    final = folder / f"moments-{_quoted(output)}-{_features_tag(features_digest)}.npz"
    try:
        with _atomic.staged(final, lambda tmp: _save(moments, tmp)) as tmp:
            final = final.with_name(f"{final.stem}-{_content_digest(tmp)}.npz")
            _atomic.publish(tmp, final)
            for path in moments_files(folder, output):
                if path != final:
                    path.unlink(missing_ok=True)
    except OSError:  # they only save time: a full or read-only disk costs nothing else
        return False
    return True


def _save(moments: Moments, path: Path) -> None:
    try:
        moments.save(path)
    except FdrError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from error
        raise


def _quoted(output: str) -> str:
    return quote(output, safe="")


def _features_tag(features_digest: str) -> str:
    return hashlib.sha256(f"{MOMENTS_VERSION}:{features_digest}".encode()).hexdigest()[:16]


def _content_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
