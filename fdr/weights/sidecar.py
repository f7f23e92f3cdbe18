"""The sidecar `PATH.json`: settings for a file that cannot hold them itself."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fdr.errors import InputError, unknown


def read_sidecar(path: Path, settings: Collection[str]) -> dict[str, Any]:
    """The settings in `PATH.json`, empty without it. Raises `InputError` for other content than these settings."""
    sidecar = path.with_name(path.name + ".json")
    if not os.path.isfile(sidecar):  # unlike Path.is_file, false for a name that is too long
        return {}
    try:
        said = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{str(sidecar)!r} is not readable JSON ({error}); correct or remove it.") from error
    if not isinstance(said, dict):
        raise InputError(f"{str(sidecar)!r} must hold an object with {', '.join(settings)}; it holds something else.")
    for key in said:
        if key not in settings:
            raise unknown(f"setting in {str(sidecar)!r}", key, settings)
    return said
