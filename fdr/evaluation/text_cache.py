"""Embeddings of prompts in the cache, so that a command that is repeated does not run the text tower again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fdr.encoders import EncoderSpec
from fdr.runtime import DAMAGE, atomic_path

FOLDER = "texts"
"""The folder in the cache that keeps embeddings of prompts, one npz for each encoder and list of prompts."""
TEXTS_VERSION = 1
"""Raise it in a release that changes the embeddings of unchanged prompts: they are then made again."""
Embedded = tuple[np.ndarray, np.ndarray]
"""Embeddings, float32 [P, D], and which prompts were cut, bool [P]."""


def kept(
    cache: Path | None, spec: EncoderSpec, tokenizer: str, prompts: Sequence[str], embed: Callable[[], Embedded]
) -> Embedded:
    """The embeddings of `prompts` from the cache, else those of `embed`, which are then kept there."""
    if cache is None:
        return embed()
    key = json.dumps([TEXTS_VERSION, spec.hash, tokenizer, list(prompts)])
    path = cache / FOLDER / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    found = _read(path, len(prompts))
    if found is None:
        found = embed()
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, embeddings=found[0], is_cut=found[1])
    return found


def _read(path: Path, count: int) -> Embedded | None:
    """The contents of a file; None if there is none, or a damaged one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            embeddings, is_cut = file["embeddings"], file["is_cut"]
    except DAMAGE:
        return None
    is_whole = embeddings.dtype == np.float32 and embeddings.shape[:1] == is_cut.shape == (count,)
    return (embeddings, is_cut) if is_whole and embeddings.ndim == 2 and is_cut.dtype == bool else None
