"""Which weight files encoders need, which of them are on this machine, and whether they are what was published."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fdr import weights
from fdr.encoders.catalogue import find_row
from fdr.encoders.registry import family_of, parse_encoders
from fdr.errors import WeightsError
from fdr.runtime import atomic_path, check_writable, write_atomically
from fdr.weights import WeightOptions, WeightsFile, lpips_files

SUMS = "SHA256SUMS"
"""Digests of the files of a folder made by `fetch(..., to=...)`; `sha256sum -c` reads it too."""


SCORES = {"lpips": lpips_files}
"""Names of scores, no encoders, whose networks have weight files as well."""


@dataclass(frozen=True)
class Holding:
    """One file that encoders need, and where it is."""

    encoders: tuple[str, ...]
    """The encoders and scores that need the file."""
    file: WeightsFile
    """The publication that lies here; the first one when none does."""
    path: Path | None
    """None when it is missing."""

    @property
    def num_bytes(self) -> int | None:
        """The size of the file here, else as published; None if unknown."""
        return self.file.size if self.path is None else self.path.stat().st_size


@dataclass(frozen=True)
class Verdict:
    """The outcome of checking one file."""

    holding: Holding
    state: str
    """"good": a digest agrees; "sound": there is none to compare with, it can be read; "damaged"; "missing"."""
    sentence: str
    sha256: str | None = None


def needed_files(name: str) -> tuple[WeightsFile, ...]:
    """The files that the encoder or score `name` is loaded from; none for random weights and encoders of one's own.

    Only open-ended names import their library. Raises `InputError` for a name that means nothing.
    """
    if name in SCORES:
        return SCORES[name]()
    family = family_of(name)
    row = find_row(name)
    if row is not None:
        return () if row.weights is None else (replace(row.weights, licence=row.licence),)
    target = name.partition(":")[2]
    if family == "timm":
        from fdr.encoders import timm_models

        return timm_models.needed_files(name)
    if family == "openclip":
        from fdr.encoders import openclip_models

        return openclip_models.needed_files(name)
    if family == "hf":
        from fdr.weights import needed_files

        return needed_files(target.partition("?")[0])
    if family in ("torchscript", "export"):
        return (WeightsFile(str(Path(target.partition("?")[0]).expanduser().absolute())),)
    return ()


def holdings(names: str | Sequence[str], weights_dir: Path | None = None) -> list[Holding]:
    """The files of these encoders, bundles or scores, each once, in order. No network and no hashing.

    The parts that a transformers index lists follow it, once the index is here.
    """
    by_file: dict[WeightsFile, list[str]] = {}
    for name in _parsed(names):
        for file in needed_files(name):
            by_file.setdefault(file, []).append(name)
    found = [_located(tuple(encoders), file, weights_dir) for file, encoders in by_file.items()]
    return [one for holding in found for one in (holding, *_shards(holding, weights_dir))]


def _parsed(names: str | Sequence[str]) -> list[str]:
    """The encoders that are named, then the scores."""
    given = names.split(",") if isinstance(names, str) else [part for name in names for part in name.split(",")]
    scores = [name for name in dict.fromkeys(part.strip() for part in given) if name in SCORES]
    encoders = [name for name in given if name.strip() not in SCORES]
    return [*(parse_encoders(encoders) if any(encoders) or not scores else ()), *scores]


def _located(encoders: tuple[str, ...], file: WeightsFile, weights_dir: Path | None) -> Holding:
    found = weights.find_publication(file, weights_dir)
    return Holding(encoders, file, None) if found is None else Holding(encoders, *found)


def _shards(holding: Holding, weights_dir: Path | None) -> list[Holding]:
    from fdr.weights import INDEX, shard_names

    if holding.path is None or holding.path.name != INDEX:
        return []
    names = shard_names(holding.path, f"Encoder {holding.encoders[0]!r}")
    files = [_beside(holding.file, name) for name in names]
    return [_located(holding.encoders, file, weights_dir) for file in files]


def _beside(file: WeightsFile, name: str) -> WeightsFile:
    """The file called `name` beside `file`, in a weights folder and in the hub."""
    hub = None if file.hub is None else (file.hub[0], name)
    return replace(file, filename=str(Path(file.filename).with_name(name)), hub=hub, size=None, sha256=None)


def fetch(chosen: Iterable[Holding], options: WeightOptions, to: Path | None = None) -> Iterator[Holding]:
    """Every file on this machine, fetched where it is missing; copied into the folder `to` where one is named.

    In `to` files have the names under which `--weights-dir` finds them, and a line in `SHA256SUMS`.
    Raises `WeightsError` saying what to fetch from where, `RunError` when the disk does not take it.
    """
    for holding in chosen:
        here = holding if holding.path is not None else _fetched(holding, options)
        yield here if to is None else replace(here, path=_copied(here, to.expanduser()))
        if holding.path is None:  # an index tells its parts only now
            yield from fetch(_shards(here, options.weights_dir), options, to)


def _fetched(holding: Holding, options: WeightOptions) -> Holding:
    path = weights.resolve(holding.file, options, holding.encoders[0]).path
    here = _located(holding.encoders, holding.file, options.weights_dir)
    return here if here.path is not None else replace(holding, path=path)


def _copied(holding: Holding, folder: Path) -> Path:
    assert holding.path is not None
    target = folder / _carried_name(holding.file, holding.path)
    if not (target.is_file() and target.samefile(holding.path)):
        check_writable(target)
        with atomic_path(target) as temporary:
            shutil.copyfile(holding.path, temporary)
    digests = read_sums(folder) | {target.relative_to(folder).as_posix(): weights.file_digest(target)}
    write_atomically(folder / SUMS, "".join(f"{sha}  {name}\n" for name, sha in sorted(digests.items())).encode())
    return target


def _carried_name(file: WeightsFile, path: Path) -> str:
    """Of the names that a weights folder is searched for, the first with the suffix that the file truly has."""
    names = [name for name in (file.filename, *file.aliases) if not name.startswith("~")]
    name = next((name for name in names if Path(name).suffix == path.suffix), names[0])
    return Path(name).name if Path(name).is_absolute() else name


def read_sums(folder: Path) -> dict[str, str]:
    """Digest by relative name from the folder's `SHA256SUMS`; empty without one. Lines of another form are skipped."""
    try:
        text = (folder / SUMS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    lines = re.findall(r"^([0-9a-f]{64})[ \t]+\*?(.+)$", text, flags=re.MULTILINE)
    return {name: sha for sha, name in lines}


def verify(chosen: Iterable[Holding], *, tells_missing: bool) -> Iterator[Verdict]:
    """Check every file that is here by a digest, or by reading it where there is none; missing ones where asked."""
    for holding in chosen:
        if holding.path is not None:
            yield _verify(holding, holding.path)
        elif tells_missing:
            yield Verdict(holding, "missing", f"fetch it from {holding.file.source or 'where it was published'}")


def _verify(holding: Holding, path: Path) -> Verdict:
    digest = weights.file_digest(path)
    expected, told_by = _expected(holding.file, path)
    if expected is None:
        return _read(holding, path, digest)
    if digest == expected:
        return Verdict(holding, "good", f"sha256 {digest[:12]}, {told_by}", digest)
    return Verdict(
        holding, "damaged", f"sha256 {digest[:12]} where {told_by} says {expected[:12]}: fetch it again", digest
    )


def _expected(file: WeightsFile, path: Path) -> tuple[str | None, str]:
    """The digest that the file should have, and who says so."""
    if file.sha256 is not None:
        return file.sha256, "the publisher"
    blob = path.resolve().name  # the hub names a large file's blob by its sha256
    if path.resolve().parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob):
        return blob, "the hub"
    for folder in (path.parent, path.parent.parent):
        recorded = read_sums(folder).get(path.relative_to(folder).as_posix())
        if recorded is not None:
            return recorded, str(folder / SUMS)
    return None, ""


def _read(holding: Holding, path: Path, digest: str) -> Verdict:
    """Whether a file without a digest can be read as what it is."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif not _is_program(path):
            weights.load_state_dict(path)
    except (WeightsError, OSError, ValueError, RecursionError) as error:
        return Verdict(holding, "damaged", str(error), digest)
    return Verdict(holding, "sound", f"sha256 {digest[:12]}; no digest is published, it can be read", digest)


def _is_program(path: Path) -> bool:
    from fdr.weights import is_archive

    return path.suffix == ".pt2" or is_archive(path)
