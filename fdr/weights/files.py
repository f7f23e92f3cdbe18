"""Weight files: what one is, where it lies, which digest it has. `download.py` fetches, `state_dict.py` reads them.

Searched in this order, first match wins: `--weights-dir`, `$FDR_WEIGHTS`, our cache, torch.hub's checkpoints, the
Hugging Face hub cache. Only then comes the network, and never with `--offline`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from fdr import runtime
from fdr.errors import FdrWarning, WeightsError
from fdr.runtime import Progress, SilentProgress, file_digest, human_bytes, missing_path
from fdr.weights.download import FetchError, fetch_from_hub, fetch_url


@dataclass(frozen=True)
class WeightOptions:
    """How the files of a network are found; the defaults here are the only ones."""

    weights: Path | None = None
    """The weight file to use; None searches the usual places and then fetches it."""
    weights_dir: Path | None = None
    """The folder that is searched first, and where fetched files are saved."""
    offline: bool | None = None
    """True never touches the network; None follows the environment."""
    progress: Progress = field(default_factory=SilentProgress)

    def shown_by(self, progress: Progress) -> Self:
        """These options with `progress` for files that are fetched, unless they have a progress of their own."""
        return replace(self, progress=progress) if isinstance(self.progress, SilentProgress) else self


@dataclass(frozen=True)
class WeightsFile:
    """One published weight file."""

    filename: str
    """Its name in a weights folder."""
    aliases: tuple[str, ...] = ()
    """Other names, tried after `filename` in the same folder; may hold a subfolder: "timm--NAME/model.safetensors",
    or begin with "~/" and stand for one place."""
    sha256: str | None = None
    digest_by: str = "the publisher"
    """Who published `sha256`."""
    size: int | None = None
    """Bytes, to at least three digits; messages show it."""
    licence: str = ""
    url: str | None = None
    hub: tuple[str, str] | None = None
    """(repository, file) in the Hugging Face hub."""
    revision: str | None = None
    """Commit, tag or branch in the hub; None is its main branch."""
    others: tuple[WeightsFile, ...] = ()
    """Other publications of the same weights, searched and fetched after this one."""

    what: tuple[str, str] = ("weights of encoder", "weight file of encoder")
    """How messages name the weights, and the file."""

    @property
    def source(self) -> str:
        """The address a person can open in a browser; empty when none is known."""
        if self.hub is None:
            return self.url or ""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{self.hub[0]}/resolve/{self.revision or 'main'}/{self.hub[1]}"


def hub_file(repo: str, filename: str, size: int | None = None, licence: str = "") -> WeightsFile:
    """A file of a hub repository, in a weights folder as "owner--name/file"."""
    return WeightsFile(f"{repo.replace('/', '--')}/{filename}", size=size, licence=licence, hub=(repo, filename))


@dataclass(frozen=True)
class FoundWeights:
    """A weight file on this disk."""

    path: Path
    sha256: str


def find(file: WeightsFile, weights_dir: Path | None = None) -> Path | None:
    """Where `file`, or another publication of it, lies on this machine, or None. No network, no hashing, no torch."""
    found = find_publication(file, weights_dir)
    return None if found is None else found[1]


def find_publication(file: WeightsFile, weights_dir: Path | None = None) -> tuple[WeightsFile, Path] | None:
    """The first of `file` and its `others` that lies on this machine, and where.

    All of them are searched in `weights_dir`, then each in turn in all other places, so that a second publication is
    taken only when the first is not on this machine.
    """
    for one in (file, *file.others):
        path = None if weights_dir is None else _find_in([Path(weights_dir).expanduser()], one)
        if path is not None:
            return one, path
    for one in (file, *file.others):
        path = _find_in(runtime.weights_dirs(), one) or _find_in_hub_cache(one)
        if path is not None:
            return one, path
    return None


def _find_in(folders: Sequence[Path], file: WeightsFile) -> Path | None:
    paths = (folder / Path(name).expanduser() for folder in folders for name in (file.filename, *file.aliases))
    return next((path for path in paths if path.is_file()), None)


def resolve(file: WeightsFile, options: WeightOptions, encoder: str) -> FoundWeights:
    """The weight file for `encoder`: `options.weights`, else found, else fetched (unless offline).

    A user's file that is not the published one is used with an `FdrWarning`; a fetched one is refused. Raises
    `WeightsError`, which says what to fetch, from where, and where to put it.
    """
    if options.weights is not None:
        path = _explicit(options.weights, encoder)
        return _identified(path, _published_as(path, file), encoder)
    found = find_publication(file, options.weights_dir)
    if found is not None:
        return _identified(found[1], found[0], encoder)
    if runtime.is_offline(options.offline):
        raise WeightsError(
            missing_sentence(file, options, encoder, "not found on this machine, and the run is offline")
        )
    path = _fetch(file, options, encoder)
    return FoundWeights(path, file_digest(path))


def missing_sentence(file: WeightsFile, options: WeightOptions, encoder: str, why: str) -> str:
    """The message that says what to fetch, from where, how big it is, and where to put it."""
    name = file.hub[1] if file.hub else file.filename
    size = "" if not file.size else f" ({human_bytes(file.size)})"
    source = f" from {file.source}" if file.source else ""
    target = download_dir(options.weights_dir) / file.filename
    return (
        f"The {file.what[0]} {encoder!r} were {why}: fetch {name}{size}{source} and save it as "
        f"{str(target)!r}, or as {file.filename!r} in any folder named by --weights-dir."
    )


def download_dir(weights_dir: Path | None = None) -> Path:
    """The folder that fetched files go to: the first of the searched ones that can be written."""
    own = runtime.weights_dirs(weights_dir)[:-1]  # the last one is torch.hub's
    return next((folder for folder in own if _is_writable(folder)), own[-1])


def _is_writable(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


def _explicit(path: Path, encoder: str) -> Path:
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise WeightsError(f"The weight file of encoder {encoder!r}: {missing_path(path)}")
    raise WeightsError(f"{str(path)!r} of encoder {encoder!r} is a folder; name the weight file, or use --weights-dir.")


def _published_as(path: Path, file: WeightsFile) -> WeightsFile:
    """The publication whose name the user's file has; an entry without a digest when the name is unclear."""
    if not file.others:
        return file
    for one in (file, *file.others):
        if path.name in {Path(name).name for name in (one.filename, *one.aliases)}:
            return one
    return WeightsFile(path.name)


def _identified(path: Path, file: WeightsFile, encoder: str) -> FoundWeights:
    digest = file_digest(path)
    if file.sha256 is not None and digest != file.sha256:
        warnings.warn(
            f"{str(path)!r} is not the published {file.what[1]} {encoder!r} (sha256 {digest[:12]}, published "
            f"{file.sha256[:12]}); numbers made with it are not comparable with published ones.",
            FdrWarning,
            stacklevel=4,
        )
    return FoundWeights(path, digest)


def _find_in_hub_cache(file: WeightsFile) -> Path | None:
    if file.hub is None:
        return None
    from huggingface_hub import constants

    repo, name = file.hub
    if not (Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}").is_dir():
        return None  # spares the slow import of the downloader
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, name, revision=file.revision)
    return Path(found) if isinstance(found, str) else None


def _fetch(file: WeightsFile, options: WeightOptions, encoder: str) -> Path:
    """Fetch the first publication of `file` that can be fetched."""
    reasons = []
    for one in (file, *file.others):
        try:
            if one.hub is not None:
                return fetch_from_hub(*one.hub, one.revision, progress=options.progress)
            if one.url is not None:
                target = download_dir(options.weights_dir) / one.filename
                return fetch_url(one.url, target, one.sha256, progress=options.progress)
        except FetchError as error:
            reasons.append(error)
    if reasons:
        why = f"not found and could not be fetched ({'; '.join(dict.fromkeys(map(str, reasons)))})"
        raise WeightsError(missing_sentence(file, options, encoder, why)) from reasons[0]
    raise WeightsError(
        missing_sentence(file, options, encoder, "not found, and no address to fetch them from is known")
    )
