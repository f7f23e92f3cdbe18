"""Files that are derived from a complete entry and stored in its folder: moments, and the records of the images.

The file name contains a digest of the features and a digest of the file's own content. A file that is lost is computed
again or costs a warning; no number changes.
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
from fdr.images import as_records

if TYPE_CHECKING:
    from fdr.frechet import Moments

MOMENTS_VERSION = 1  # raise it when a release derives different values from the same features
_NAME = re.compile(
    r"(?P<kind>moments-(?P<output>.+)|images)-(?P<features>[0-9a-f]{16})-(?P<content>[0-9a-f]{16})\.np[yz]"
)


def derived_files(folder: Path, kind: str | None = None) -> list[Path]:
    """The derived files in `folder`: those of one kind ("images", "moments-pool"), or all."""
    named = [(path, _NAME.fullmatch(path.name)) for path in folder.iterdir()]
    return sorted(path for path, name in named if name and kind in (None, name["kind"]))


def is_undamaged(path: Path) -> bool:
    """True if the content of a derived file matches the digest in its name."""
    name = _NAME.fullmatch(path.name)
    return name is not None and _content_digest(path) == name["content"]


def load_moments(folder: Path, output: str, features_digest: str) -> Moments | None:
    """The stored moments of `output` for the features with that digest; None if they are absent or damaged."""
    from fdr.frechet import Moments

    try:
        path = _find(folder, f"moments-{_quoted(output)}", features_digest)
        return None if path is None else Moments.load(path)
    except (OSError, FdrError):  # removed in the meantime, or another format: compute them again
        return None


def save_moments(folder: Path, output: str, features_digest: str, moments: Moments) -> bool:
    """Save the moments atomically and remove those of earlier features; False if the folder cannot be written."""
    return _store(folder, f"moments-{_quoted(output)}", features_digest, ".npz", lambda tmp: _save(moments, tmp))


def load_images(folder: Path, features_digest: str) -> np.ndarray | None:
    """The image records for the features with that digest; None if they are absent or damaged."""
    try:
        path = _find(folder, "images", features_digest)
        return None if path is None else as_records(np.load(path, allow_pickle=False))
    except (OSError, ValueError):
        return None


def save_images(folder: Path, features_digest: str, images: np.ndarray) -> bool:
    """Save `images`, one record per good row, in the same way as `save_moments`."""
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
    except OSError:  # derived files only save time, so a full or read-only disk is no error
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
