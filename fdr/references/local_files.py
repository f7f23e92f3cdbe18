"""Finds, fetches and checks the files of named references on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fdr import weights
from fdr.encoders import parse_encoders
from fdr.errors import InputError, unknown
from fdr.references.find import published_file
from fdr.references.formats.checks import check_moments
from fdr.references.formats.recognise import open_statistics
from fdr.references.manifest import RegistryEncoder, RegistryEntry, reference_stats_dir, registry
from fdr.runtime import atomic_path, check_writable, file_digest
from fdr.weights import WeightOptions


@dataclass(frozen=True)
class ReferenceFile:
    """One file of a named reference, and the encoders that it has moments of."""

    reference: RegistryEntry
    row: RegistryEncoder
    encoders: tuple[str, ...]
    path: Path | None
    """The path on this machine; None if the file is not here."""
    is_shipped: bool
    """True if the file is part of the fdr package."""


@dataclass(frozen=True)
class Verdict:
    """The result of checking one file."""

    file: ReferenceFile
    state: str
    """"good": the published digest; "sound": no digest is published, its moments are valid; "damaged"."""
    sentence: str


def references() -> list[RegistryEntry]:
    """All named references, each once, in the order of the manifest."""
    return list({entry.name: entry for entry in registry().values()}.values())


def named(name: str) -> RegistryEntry:
    """The reference with that name or alias. Raises `InputError` with near matches."""
    if name not in registry():
        raise unknown("reference", name, registry(), "See fdr references list.")
    return registry()[name]


def files_of(
    reference: RegistryEntry, weights_dir: Path | None = None, encoders: str | Sequence[str] | None = None
) -> list[ReferenceFile]:
    """The files of a reference for all its encoders, or for those in `encoders` (bundles work). Fetches nothing.

    Raises `InputError` for an encoder that the reference has no moments for.
    """
    wanted = list(reference.encoders) if encoders is None else parse_encoders(encoders)
    missing = [encoder for encoder in wanted if encoder not in reference.encoders]
    if missing:
        raise InputError(
            f"Reference {reference.name!r} has no moments for {missing[0]}; it has {', '.join(reference.encoders)}."
        )
    by_file: dict[str, list[str]] = {}
    for encoder in wanted:
        by_file.setdefault(reference.encoders[encoder].file, []).append(encoder)
    return [_located(reference, tuple(names), weights_dir) for names in by_file.values()]


def _located(reference: RegistryEntry, encoders: tuple[str, ...], weights_dir: Path | None) -> ReferenceFile:
    row = reference.encoders[encoders[0]]
    shipped = reference_stats_dir() / row.file
    if shipped.is_file():
        return ReferenceFile(reference, row, encoders, shipped, True)
    return ReferenceFile(reference, row, encoders, weights.find(published_file(row), weights_dir), False)


def fetch(file: ReferenceFile, options: WeightOptions, to: Path | None = None) -> Path:
    """Return the path of the file, after fetching it if it is not here; with `to`, in that folder.

    A fetched file with another digest than the published one is refused. Raises `InputError` saying what to fetch
    from where, `RunError` when the disk does not take it.
    """
    if file.path is None or not file.is_shipped:
        path = weights.resolve(published_file(file.row), options, file.reference.name).path
    else:
        path = file.path
    if to is None or path.parent.resolve() == to.expanduser().resolve():
        return path
    target = to.expanduser() / file.row.file
    check_writable(target)
    with atomic_path(target) as temporary:
        shutil.copyfile(path, temporary)
    return target


def verify(files: Sequence[ReferenceFile]) -> Iterator[Verdict]:
    """Check every file that is here: its digest if one is published, else whether its moments are valid."""
    for file in files:
        if file.path is not None:
            yield _verify(file, file.path)


def _verify(file: ReferenceFile, path: Path) -> Verdict:
    digest = file_digest(path)
    if file.row.sha256 is not None and digest == file.row.sha256:
        return Verdict(file, "good", f"sha256 {digest[:12]}, as told by {file.row.digest_by}")
    if file.row.sha256 is not None:
        return Verdict(file, "damaged", f"sha256 {digest[:12]}, published {file.row.sha256[:12]}: fetch it again")
    try:
        statistics = open_statistics(path)
        for encoder in file.encoders:
            row = file.reference.encoders[encoder]
            entry = statistics.entry(row.entry) if row.entry else statistics.select(encoder, row.dim)
            if row.dim is not None and entry.dim != row.dim:
                raise InputError(f"{str(path)!r} holds {entry.dim}-d moments; expected {row.dim}-d for {encoder}.")
            check_moments(statistics.load(entry), str(path))
    except InputError as error:
        return Verdict(file, "damaged", str(error))
    return Verdict(file, "sound", f"sha256 {digest[:12]}; no digest is published, its moments are valid")
