"""The saved progress of a search: the results of finished blocks of queries, and the state of the current block."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fdr.runtime import DAMAGE, atomic_path

FORMAT = "fdr-search/1"
Shapes = Mapping[str, tuple[tuple[int, ...], type]]
"""The expected shape and dtype of each array, by name."""
_SAVE_SHARE = 20
"""Work is saved once it has lasted this many times as long as the last save. More saves less often."""
_SAVE_INTERVAL = 30.0
"""Seconds after which work is saved however long a save takes."""


def state_digest(facts: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> str:
    """sha256 over everything that changes the result of a search."""
    digest = hashlib.sha256(json.dumps([FORMAT, facts], sort_keys=True).encode())
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()


class SearchState:
    """The files that keep the progress of one block of queries; with `folder` None nothing is kept.

    A file that is damaged or belongs to another search counts as absent.
    """

    def __init__(self, folder: Path | None, digest: str, span: tuple[int, int]) -> None:
        self._folder, self._digest = folder, digest
        self._name = f"{span[0]:09}-{span[1]:09}.npz"
        self._saved_at, self._cost = time.monotonic(), 0.0

    def finished(self, shapes: Shapes) -> dict[str, np.ndarray] | None:
        """The result of the block, if it is finished."""
        return self._load("found", shapes)

    def running(self, shapes: Shapes) -> dict[str, np.ndarray] | None:
        """The last saved state of the block, if it is not finished."""
        return self._load("running", shapes)

    def finish(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Save the result of the block and delete its running state."""
        if self._folder is not None:
            self._save("found", arrays)
            with contextlib.suppress(OSError):
                self._path("running").unlink(missing_ok=True)

    @property
    def is_due(self) -> bool:
        """True if enough time has passed since the last save."""
        if self._folder is None:
            return False
        since = time.monotonic() - self._saved_at
        return since > min(_SAVE_INTERVAL, _SAVE_SHARE * self._cost)

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Save the running state."""
        if self._folder is not None:
            start = time.monotonic()
            self._save("running", arrays)
            self._saved_at = time.monotonic()
            self._cost = self._saved_at - start

    def _path(self, kind: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{kind}-{self._name}"

    def _save(self, kind: str, arrays: Mapping[str, np.ndarray]) -> None:
        with atomic_path(self._path(kind)) as temporary, open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, digest=np.array(self._digest), **arrays)

    def _load(self, kind: str, shapes: Shapes) -> dict[str, np.ndarray] | None:
        if self._folder is None:
            return None
        try:
            with open(self._path(kind), "rb") as file, np.load(file, allow_pickle=False) as saved:
                if str(saved["digest"]) != self._digest:
                    return None
                arrays = {name: saved[name] for name in shapes}
        except DAMAGE:
            return None
        fits = all(
            arrays[name].shape == shape and arrays[name].dtype == dtype for name, (shape, dtype) in shapes.items()
        )
        return arrays if fits else None
