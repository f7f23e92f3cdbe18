"""Describes what a statistics file or a reference folder holds, for `fdr show`."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fdr.errors import FdrWarning, InputError
from fdr.frechet import ClassMoments, Moments, listing
from fdr.references.find import moments_digest
from fdr.references.formats.checks import check_moments, numerical_rank
from fdr.references.formats.recognise import open_statistics
from fdr.references.geometry import LARGEST_DIM, effective_rank, participation_ratio
from fdr.references.geometry import spectrum as eigenvalues
from fdr.references.index import INDEX_NAME, indexed_file, read_index, reference_folder
from fdr.references.manifest import known_as
from fdr.references.noise_floor import PREFIX, NoiseFloor
from fdr.runtime import file_digest


def describe(path: Path, *, spectrum: bool = False) -> dict[str, Any]:
    """What a reference folder or a statistics file of any tool holds; with `spectrum`, eigenvalues as well.

    Doubtful moments are an `FdrWarning`. Raises `InputError` for a path that is neither.
    """
    folder = reference_folder(path)
    if folder is not None:
        index = read_index(folder)
        files = {row["name"]: indexed_file(folder, row) for row in index["encoders"]}
        encoders = {name: _described(Moments.load(file), str(file), spectrum) for name, file in files.items()}
        return {"name": index["name"], "images": index["images"], "encoders": encoders}
    if path.is_dir():
        raise InputError(f"Folder {str(path)!r} is no reference: it has no {INDEX_NAME}.")
    file, sha256 = open_statistics(path), file_digest(path)
    known, entries = None, {}
    for entry in file.entries:
        moments = file.load(entry)
        known = known or known_as(sha256, moments.mu, moments.sigma)
        where = f"{path}" if len(file.entries) == 1 else f"{path}: {entry.name}"
        names = {"output": entry.output, "encoder": ", ".join(entry.encoders) or None}
        described = _described(moments, where, spectrum)
        entries[entry.name] = {"kind": entry.kind, **{k: v for k, v in names.items() if v}, **described}
    name = None if known is None else known.name
    head = {"file": str(path), "sha256": sha256, "format": file.format, "reference": name}
    return {**head, **(next(iter(entries.values())) if len(entries) == 1 else {"entries": entries})}


def _described(moments: Moments, where: str, spectrum: bool) -> dict[str, Any]:
    values = eigenvalues(moments) if spectrum or moments.dim <= LARGEST_DIM else None
    for sentence in check_moments(moments, where):
        warnings.warn(sentence, FdrWarning, stacklevel=2)
    floor = NoiseFloor.of(moments.attributes)
    return {
        "digest": moments_digest(moments),
        "dim": moments.dim,
        "count": moments.count,
        "ddof": moments.ddof,
        "mean norm": float(np.linalg.norm(moments.mu)),
        "mu sum": float(moments.mu.sum()),
        "sigma sum": float(moments.sigma.sum()),
        "trace": float(np.trace(moments.sigma)),
        "rank": numerical_rank(moments, where),
        **({} if values is None else {"effective rank": effective_rank(values)}),
        "participation ratio": participation_ratio(moments.sigma),
        **(_extremes(values, moments.dim) if spectrum and values is not None else {}),
        "leverage curve": "none" if moments.curve is None else f"{len(moments.curve.h)} points",
        **({} if moments.classes is None else {"classes": _classes(moments.classes)}),
        **({} if floor is None else {"noise floor": asdict(floor)}),
        **{name: value for name, value in moments.attributes.items() if not name.startswith(PREFIX)},
    }


def _classes(classes: ClassMoments) -> str:
    low, high = int(classes.counts.min()), int(classes.counts.max())
    images = f"{low}" if low == high else f"{low} to {high}"
    return f"{len(classes.names)} of {images} images each ({listing(list(classes.names))})"


def _extremes(values: np.ndarray, dim: int) -> dict[str, float | None]:
    smallest, largest = float(values[0]) if len(values) == dim else 0.0, float(values[-1])
    condition = largest / smallest if smallest > 0 else None
    return {"largest eigenvalue": largest, "smallest eigenvalue": smallest, "condition": condition}
