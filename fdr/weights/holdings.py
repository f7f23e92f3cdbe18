"""Published files that encoders and references need: which are on this machine; fetching and verifying them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fdr.errors import FdrError, WeightsError
from fdr.runtime import atomic_path, check_writable, file_digest, write_atomically
from fdr.weights.files import WeightOptions, WeightsFile, find_publication, resolve
from fdr.weights.hub import INDEX, shard_names
from fdr.weights.state_dict import load_state_dict

SUMS = "SHA256SUMS"
"""The file with the digests of a folder that `fetch(..., to=...)` made; `sha256sum -c` reads it too."""


@dataclass(frozen=True)
class Holding:
    """One published file, and where it is."""

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


def locate(needed: Iterable[tuple[str, WeightsFile]], weights_dir: Path | None = None) -> list[Holding]:
    """The files of (encoder, file) pairs, each once, in order. No network and no hashing.

    The shards that an index lists follow it, once the index is here.
    """
    by_file: dict[WeightsFile, list[str]] = {}
    for name, file in needed:
        by_file.setdefault(file, []).append(name)
    found = [_located(tuple(encoders), file, weights_dir) for file, encoders in by_file.items()]
    return [one for holding in found for one in (holding, *_shards(holding, weights_dir))]


def _located(encoders: tuple[str, ...], file: WeightsFile, weights_dir: Path | None) -> Holding:
    found = find_publication(file, weights_dir)
    return Holding(encoders, file, None) if found is None else Holding(encoders, *found)


def _shards(holding: Holding, weights_dir: Path | None) -> list[Holding]:
    if holding.path is None or holding.path.name != INDEX:
        return []
    names = shard_names(holding.path, f"Encoder {holding.encoders[0]!r}")
    return [_located(holding.encoders, _beside(holding.file, name), weights_dir) for name in names]


def _beside(file: WeightsFile, name: str) -> WeightsFile:
    """The file called `name` beside `file`, in a weights folder and in the hub."""
    hub = None if file.hub is None else (file.hub[0], name)
    return replace(file, filename=str(Path(file.filename).with_name(name)), hub=hub, size=None, sha256=None)


def fetch(chosen: Iterable[Holding], options: WeightOptions, to: Path | None = None) -> Iterator[Holding]:
    """Fetch every file that is missing; with `to`, copy all of them into that folder.

    In `to` files have the names under which `--weights-dir` finds them, and a line in `SHA256SUMS`. A fetched file
    with another digest than the published one is refused; an `FdrWarning` says so of a file that was here before.
    Raises `WeightsError` saying what to fetch from where, `RunError` when the disk does not take it.
    """
    for holding in chosen:
        path = resolve(holding.file, options, holding.encoders[0]).path
        here = holding
        if holding.path is None:
            found = _located(holding.encoders, holding.file, options.weights_dir)
            here = replace(holding, path=path) if found.path is None else found
        yield here if to is None else replace(here, path=_copied(here.file, path, to.expanduser()))
        if holding.path is None:  # an index lists its shards only once it is here
            yield from fetch(_shards(here, options.weights_dir), options, to)


def _copied(file: WeightsFile, path: Path, folder: Path) -> Path:
    target = folder / _carried_name(file, path)
    if not (target.is_file() and target.samefile(path)):
        check_writable(target)
        with atomic_path(target) as temporary:
            shutil.copyfile(path, temporary)
    digests = read_sums(folder) | {target.relative_to(folder).as_posix(): file_digest(target)}
    write_atomically(folder / SUMS, "".join(f"{sha}  {name}\n" for name, sha in sorted(digests.items())).encode())
    return target


def _carried_name(file: WeightsFile, path: Path) -> str:
    """The first of the names that a weights folder is searched for which has the suffix of the file here."""
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


def read_weights(holding: Holding) -> str:
    """Read a weight file, a program or a JSON file, and say that this was possible. Raises for a damaged one."""
    assert holding.path is not None
    if holding.path.suffix == ".json":
        try:
            json.loads(holding.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise WeightsError(str(error)) from error
    else:
        from fdr.weights.programs import program_kind

        if program_kind(holding.path) is None:
            load_state_dict(holding.path)
    return "it can be read"


def verify(chosen: Iterable[Holding], read: Callable[[Holding], str] = read_weights) -> Iterator[Verdict]:
    """Check every file by a digest, or by `read` where there is none to compare with."""
    for holding in chosen:
        if holding.path is None:
            yield Verdict(holding, "missing", f"fetch it from {holding.file.source or 'where it was published'}")
        else:
            yield _verify(holding, holding.path, read)


def _verify(holding: Holding, path: Path, read: Callable[[Holding], str]) -> Verdict:
    digest = file_digest(path)
    expected, source = _expected(holding.file, path)
    if digest == expected:
        return Verdict(holding, "good", f"sha256 {digest[:12]}, as {source} says", digest)
    if expected is not None:
        sentence = f"sha256 {digest[:12]} where {source} says {expected[:12]}: fetch it again"
        return Verdict(holding, "damaged", sentence, digest)
    try:
        return Verdict(holding, "sound", f"sha256 {digest[:12]}; no digest is published, {read(holding)}", digest)
    except FdrError as error:
        return Verdict(holding, "damaged", str(error), digest)


def _expected(file: WeightsFile, path: Path) -> tuple[str | None, str]:
    """The digest that the file should have, and who says so."""
    if file.sha256 is not None:
        return file.sha256, file.digest_by
    blob = path.resolve().name  # the hub names a large file's blob by its sha256
    if path.resolve().parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob):
        return blob, "the hub"
    for folder in (path.parent, path.parent.parent):
        recorded = read_sums(folder).get(path.relative_to(folder).as_posix())
        if recorded is not None:
            return recorded, str(folder / SUMS)
    return None, ""
