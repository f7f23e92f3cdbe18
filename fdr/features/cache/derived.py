"""What follows from all features of an entry and is kept beside them: moments, and what was noted of the images.

The file name says which features and which bytes. Losing such a file costs time or a warning, never a number.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from fdr import runtime
from fdr.errors import FdrError
from fdr.images import as_facts

if TYPE_CHECKING:
    from fdr.frechet import Moments

MOMENTS_VERSION = 1  # raised whenever a release derives something else from the same features
_NAME = re.compile(
    r"(?P<kind>moments-(?P<output>.+)|images)-(?P<features>[0-9a-f]{16})-(?P<content>[0-9a-f]{16})\.np[yz]"
)


def derived_files(folder: Path, kind: str | None = None) -> list[Path]:
    """What is stored in `folder`: of one kind ("images", "moments-pool"), or all."""
    named = [(path, _NAME.fullmatch(path.name)) for path in folder.iterdir()]
    return sorted(path for path, name in named if name and kind in (None, name["kind"]))


def is_undamaged(path: Path) -> bool:
    """True when a derived file still has the content its name tells."""
    name = _NAME.fullmatch(path.name)
    return name is not None and _content_digest(path) == name["content"]


def load_moments(folder: Path, output: str, features_digest: str) -> Moments | None:
    """The moments of `output` saved for the features with that digest; None when there are none, or damaged ones."""
    from fdr.frechet import Moments

    try:
        path = _find(folder, f"moments-{_quoted(output)}", features_digest)
        return None if path is None else Moments.load(path)
    except (OSError, FdrError):  # gone meanwhile, or of another format: computed again
        return None


def save_moments(folder: Path, output: str, features_digest: str, moments: Moments) -> bool:
    """Save atomically and remove those of earlier features; False where the folder cannot be written."""
    return _store(folder, f"moments-{_quoted(output)}", features_digest, ".npz", lambda tmp: _save(moments, tmp))


def load_images(folder: Path, features_digest: str) -> np.ndarray | None:
    """What was noted of the images behind the features with that digest; None when there is nothing, or damaged."""
    try:
        path = _find(folder, "images", features_digest)
        return None if path is None else as_facts(np.load(path, allow_pickle=False))
    except (OSError, ValueError):
        return None


def save_images(folder: Path, features_digest: str, images: np.ndarray) -> bool:
    """Save `images`, one record per good row, in the manner of `save_moments`."""
    buffer = io.BytesIO()
    np.save(buffer, images, allow_pickle=False)
    return _store(folder, "images", features_digest, ".npy", lambda tmp: _write(tmp, buffer.getvalue()))


def _find(folder: Path, kind: str, features_digest: str) -> Path | None:
    tag = _features_tag(features_digest)
    files = (path for path in derived_files(folder, kind) if path.name.startswith(f"{kind}-{tag}-"))
    return next((path for path in files if is_undamaged(path)), None)


def _store(folder: Path, kind: str, features_digest: str, suffix: str, write: Callable[[Path], None]) -> bool:
    final = folder / f"{kind}-{_features_tag(features_digest)}{suffix}"
    try:
        with runtime.staged(final, write) as tmp:
            final = final.with_name(f"{final.stem}-{_content_digest(tmp)}{suffix}")
            runtime.publish(tmp, final)
            for path in derived_files(folder, kind):
                if path != final:
                    path.unlink(missing_ok=True)
    except OSError:  # they only save time: a full or read-only disk costs nothing else
        return False
    return True


def _write(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)


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
