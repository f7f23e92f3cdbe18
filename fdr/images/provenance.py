"""The facts about its generator in a set of samples that `fdr sample` wrote."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from fdr.images.labels import MAX_JSON_BYTES
from fdr.runtime import DAMAGE, are_texts, decode_json

SETTINGS = "samples.json"


def stated_training(path: Path) -> tuple[str, ...] | None:
    """The encoders that the generator was trained on, by `samples.json` of a folder or the comment of an npz.

    None if there is no such statement, or none that can be read: images count without it.
    """
    try:
        stated = _stated(path)
    except DAMAGE:
        return None
    names = stated.get("trained_on") if isinstance(stated, dict) and "generator" in stated else None
    return tuple(names) if isinstance(names, list) and are_texts(names) else None


def _stated(path: Path) -> Any:
    if path.suffix == ".npz" and path.is_file():
        with zipfile.ZipFile(path) as archive:
            return decode_json(archive.comment) if archive.comment else None
    file = path / SETTINGS
    if file.is_file() and file.stat().st_size <= MAX_JSON_BYTES:
        return decode_json(file.read_bytes())
    return None
