"""The files of named references: which are on this machine, and whether their moments are valid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fdr import weights
from fdr.encoders import parse_encoders
from fdr.errors import InputError, unknown
from fdr.references.formats.checks import check_moments
from fdr.references.formats.recognise import open_statistics
from fdr.references.manifest import RegistryEntry, reference_stats_dir, registry
from fdr.weights import Holding, Verdict, WeightsFile


def references() -> list[RegistryEntry]:
    """All named references, each once, in the order of the manifest."""
    return list({entry.name: entry for entry in registry().values()}.values())


def named(name: str) -> RegistryEntry:
    """The reference with that name or alias. Raises `InputError` with near matches."""
    if name not in registry():
        raise unknown("reference", name, registry(), "See fdr references list.")
    return registry()[name]


def published_file(entry: RegistryEntry, encoder: str) -> WeightsFile:
    """The file of a reference, described so that it can be found and fetched like a weight file."""
    row = entry.encoders[encoder]
    shipped = reference_stats_dir() / row.file
    if shipped.is_file():
        return WeightsFile(str(shipped))
    return WeightsFile(
        row.file,
        aliases=() if row.alias == row.file else (row.alias,),
        sha256=row.sha256,
        digest_by=row.digest_by or "the publisher",
        size=row.size,
        url=row.url,
        what=(f"moments of reference {entry.name!r} for", f"statistics file of reference {entry.name!r} for"),
    )


def files_of(
    reference: RegistryEntry, weights_dir: Path | None = None, encoders: str | Sequence[str] | None = None
) -> list[Holding]:
    """The files of a reference for all its encoders, or for those in `encoders` (bundles work). Fetches nothing.

    Raises `InputError` for an encoder that the reference has no moments for.
    """
    wanted = list(reference.encoders) if encoders is None else parse_encoders(encoders)
    missing = [encoder for encoder in wanted if encoder not in reference.encoders]
    if missing:
        raise InputError(
            f"Reference {reference.name!r} has no moments for {missing[0]}; it has {', '.join(reference.encoders)}."
        )
    return weights.locate([(encoder, published_file(reference, encoder)) for encoder in wanted], weights_dir)


def verify(reference: RegistryEntry, weights_dir: Path | None = None) -> Iterator[Verdict]:
    """Check the files of a reference: their digest if one is published, else whether their moments are valid."""

    def read(file: Holding) -> str:
        assert file.path is not None
        statistics = open_statistics(file.path)
        for encoder in file.encoders:
            row = reference.encoders[encoder]
            entry = statistics.entry(row.entry) if row.entry else statistics.select(encoder, row.dim)
            if row.dim is not None and entry.dim != row.dim:
                raise InputError(f"{str(file.path)!r} holds {entry.dim}-d moments; expected {row.dim}-d for {encoder}.")
            check_moments(statistics.load(entry), str(file.path))
        return "its moments are valid"

    return weights.verify(files_of(reference, weights_dir), read)
