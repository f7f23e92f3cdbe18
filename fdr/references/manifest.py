"""The registry of named references, read from `reference_stats/manifest.toml`. Loads no statistics and no torch."""

from __future__ import annotations

import functools
import importlib.resources
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from fdr.frechet import ValidationFD

if TYPE_CHECKING:
    import numpy as np

SUM_ROUNDING = 1e-4
"""How far a sum may be from the published one, which has four decimals."""


@dataclass(frozen=True)
class RegistryEncoder:
    """One row of the registry: the file with the moments of an encoder, and their validation FD."""

    file: str
    url: str | None = None
    sha256: str | None = None
    dim: int | None = None
    val_fd: ValidationFD | None = None
    entry: str | None = None
    """The entry of the file; None if the file has only one for the encoder."""
    outputs: tuple[str, ...] = ()
    """Other outputs than the main one that the file has moments for: "spatial", "mean"."""
    size: int | None = None
    """Size of the file in bytes."""
    sums: tuple[float, float] | None = None
    """The published mu.sum() and sigma.sum(). They identify the moments if the file was saved again."""
    digest_by: str = ""
    """Who published `sha256`."""

    @property
    def alias(self) -> str:
        """The name of the file at its source, which a user's copy may still have."""
        return self.file if self.url is None else PurePosixPath(self.url).name


@dataclass(frozen=True)
class RegistryEntry:
    """A named reference."""

    name: str
    title: str
    images: str
    count: int | None
    provenance: str
    encoders: Mapping[str, RegistryEncoder]
    samples: int | None = None
    """Number of samples in the published protocol for this reference."""
    aliases: tuple[str, ...] = ()


def reference_stats_dir() -> Path:
    """The folder that ships with the package (in a source tree: the one beside it)."""
    package = Path(str(importlib.resources.files("fdr")))
    inside = package / "reference_stats"
    return inside if inside.is_dir() else package.parent / "reference_stats"


@functools.cache
def registry() -> Mapping[str, RegistryEntry]:
    """The references of `reference_stats/manifest.toml`, by name and by alias."""
    data = tomllib.loads((reference_stats_dir() / "manifest.toml").read_text(encoding="utf-8"))
    entries = {name: _registry_entry(name, entry) for name, entry in data.items()}
    return entries | {alias: entry for entry in entries.values() for alias in entry.aliases}


def known_as(sha256: str, mu: np.ndarray, sigma: np.ndarray) -> RegistryEntry | None:
    """The reference whose file this is, by its digest or, if only sums are published, by the sums of its moments."""
    for entry in registry().values():
        for row in entry.encoders.values():
            if row.sha256 == sha256:
                return entry
            if row.sums is not None and row.dim == len(mu):
                gaps = abs(float(mu.sum()) - row.sums[0]), abs(float(sigma.sum()) - row.sums[1])
                if max(gaps) <= SUM_ROUNDING:
                    return entry
    return None


def _registry_entry(name: str, entry: dict[str, Any]) -> RegistryEntry:
    base, dim = entry.pop("base_url", None), entry.pop("dim", None)
    rows: dict[str, dict[str, Any]] = {encoder: {"file": file} for encoder, file in entry.pop("files", {}).items()}
    rows |= entry.pop("encoders", {})
    encoders = {encoder: _registry_encoder(name, {"dim": dim, **row}, base) for encoder, row in rows.items()}
    aliases, count = tuple(entry.pop("aliases", ())), entry.pop("count", None)
    return RegistryEntry(name=name, count=count, encoders=encoders, aliases=aliases, **entry)


def _registry_encoder(name: str, row: dict[str, Any], base: str | None) -> RegistryEncoder:
    if base is not None:
        row.setdefault("url", base + row["file"])
    if "sha256" in row:
        row.setdefault("digest_by", "its publisher")
    if "val_fd" in row:
        row["val_fd"] = ValidationFD(row["val_fd"], row.pop("decimals", None), f"published for {name}")
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return RegistryEncoder(**fields)
