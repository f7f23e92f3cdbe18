"""The references known by name: what `reference_stats/manifest.toml` says. Loads no statistics and no torch."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any


@dataclass(frozen=True)
class ValidationFD:
    """FD of the real validation set against the reference: the denominator of FDr."""

    value: float
    decimals: int | None
    """Decimals of a rounded published constant; None when the value is exact."""
    source: str

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval that the rounding leaves open; a point when the value is exact."""
        half = 0.0 if self.decimals is None else 0.5 * 10.0**-self.decimals
        return self.value - half, self.value + half


@dataclass(frozen=True)
class RegistryEncoder:
    """One row of the registry: where an encoder's moments are and what their validation FD is."""

    file: str
    url: str | None
    sha256: str | None
    dim: int | None
    val_fd: ValidationFD | None
    entry: str | None = None
    """Which entry of the file; None where the file and the encoder leave no choice."""
    outputs: tuple[str, ...] = ()
    """Outputs besides the main one whose moments the file holds: "spatial", "mean"."""
    size: int | None = None
    """Bytes."""
    sums: tuple[float, float] | None = None
    """mu.sum() and sigma.sum() as published: they identify a file that was stored again."""
    note: str = ""

    @property
    def alias(self) -> str:
        """The name of the file at its source, which a user's copy may still bear."""
        return self.file if self.url is None else PurePosixPath(self.url).name


@dataclass(frozen=True)
class RegistryEntry:
    """A reference known by name."""

    name: str
    title: str
    images: str
    count: int | None
    provenance: str
    encoders: Mapping[str, RegistryEncoder]
    samples: int | None = None
    """Number of samples that the published protocol compares with it."""


def reference_stats_dir() -> Path:
    """The folder that ships with the package (in a source tree: the one beside it)."""
    inside = Path(__file__).parent / "reference_stats"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "reference_stats"


@functools.cache
def registry() -> Mapping[str, RegistryEntry]:
    """The references of `reference_stats/manifest.toml`, by name."""
    data = tomllib.loads((reference_stats_dir() / "manifest.toml").read_text(encoding="utf-8"))
    return {name: _registry_entry(name, entry) for name, entry in data.items()}


def _registry_entry(name: str, entry: Mapping[str, Any]) -> RegistryEntry:
    encoders = {
        encoder: _registry_encoder(name, row, entry.get("base_url")) for encoder, row in entry["encoders"].items()
    }
    return RegistryEntry(
        name,
        entry["title"],
        entry["images"],
        entry.get("count"),
        entry["provenance"],
        encoders,
        entry.get("samples"),
    )


def _registry_encoder(name: str, row: Mapping[str, Any], base: str | None) -> RegistryEncoder:
    val_fd = None
    if "val_fd" in row:
        val_fd = ValidationFD(row["val_fd"], row.get("decimals"), f"published for {name}")
    return RegistryEncoder(
        file=row["file"],
        url=row.get("url", None if base is None else base + row["file"]),
        sha256=row.get("sha256"),
        dim=row.get("dim"),
        val_fd=val_fd,
        entry=row.get("entry"),
        outputs=tuple(row.get("outputs", ())),
        size=row.get("size"),
        sums=None if "sums" not in row else (row["sums"][0], row["sums"][1]),
        note=row.get("note", ""),
    )
