"""Which weight files the encoders need, and which of them are on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fdr.encoders.catalogue import find_row
from fdr.encoders.registry import family_module, find_encoder, parse_encoders
from fdr.weights import Holding, WeightsFile, locate, lpips_files

SCORES = {"lpips": lpips_files}
"""Scores that are no encoders, and whose networks have weight files as well."""


def needed_files(name: str) -> tuple[WeightsFile, ...]:
    """The files that the encoder or score `name` is loaded from; none for random weights and encoders of one's own.

    Only open-ended names import their library. Raises `InputError` for a name that means nothing.
    """
    if name in SCORES:
        return SCORES[name]()
    row = find_row(name)
    if row is not None:
        return () if row.weights is None else (row.weights,)
    family = find_encoder(name)[1]
    find = None if family is None else getattr(family_module(family), "needed_files", None)
    return () if find is None else find(name)


def holdings(names: str | Sequence[str], weights_dir: Path | None = None) -> list[Holding]:
    """The files of these encoders, bundles or scores, each once, in order. No network and no hashing."""
    given = names.split(",") if isinstance(names, str) else [part for name in names for part in name.split(",")]
    scores = [name for name in dict.fromkeys(part.strip() for part in given) if name in SCORES]
    encoders = [name for name in given if name.strip() not in SCORES]
    known = [*(parse_encoders(encoders) if any(encoders) or not scores else ()), *scores]
    return locate([(name, file) for name in known for file in needed_files(name)], weights_dir)
