"""The statistics files of fd_evaluator: where they are on this machine, by the names that it gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fdr.encoders import AbstractEncoder
from fdr.errors import InputError, unknown
from fdr.frechet import Moments
from fdr.references import find_reference, registry
from fdr.runtime import Progress, path_in_environment

STATS_DIR, CACHE_DIR = "NANOGEN_EVALS_STATS_DIR", "NANOGEN_EVALS_CACHE_DIR"
"""Environment variables of fd_evaluator: a folder of statistics files, and the folder that it downloads them to."""
_DOWNLOADED = "datasets--nanovisionx--nanogen-evals-stats/snapshots"
"""Where huggingface_hub puts the files within that folder."""
_SETS = ("imagenet256:nanogen", "imagenet256")
"""The references of fdr that are the same files."""


@dataclass(frozen=True)
class StatisticsFile:
    """A statistics file, and the reference of fdr that it is."""

    name: str
    reference: str


def known_files() -> Mapping[str, StatisticsFile]:
    """The files by the names that fd_evaluator gives them."""
    rows = [(name, row) for name in _SETS for row in registry()[name].encoders.values()]
    files = {Path(row.alias).stem: StatisticsFile(row.alias, name) for name, row in rows}
    return dict(sorted(files.items()))


def list_references() -> list[str]:
    """The names that `fid_reference` may have."""
    return list(known_files())


def find_statistics(name: str | Path) -> str:
    """The file for a name or a path, or the name of a reference that `fdr` fetches when it is loaded.

    A path is taken as it is. A name is looked for in the folder `NANOGEN_EVALS_STATS_DIR` if that is set, else among
    the downloads of fd_evaluator. Raises `InputError` for another name, and for a file that this folder lacks.
    """
    path = Path(name).expanduser()
    if path.exists():
        return str(path)
    files = known_files()
    if str(name) in registry():
        return str(name)
    if str(name) not in files:
        raise unknown("reference", str(name), files, "Or give the path of a statistics file.")
    file = files[str(name)]
    folder = path_in_environment(STATS_DIR)
    if folder is not None:
        if not (folder / file.name).is_file():
            raise InputError(
                f"{STATS_DIR} is {str(folder)!r}, which has no {file.name}; put the file there, or unset it."
            )
        return str(folder / file.name)
    downloads = path_in_environment(CACHE_DIR) or Path.home() / ".cache" / "nanogen-evals" / "stats"
    found = sorted((downloads / _DOWNLOADED).glob(f"*/{file.name}"))
    return str(found[-1]) if found else file.reference


def load_statistics(found: str, encoder: AbstractEncoder, progress: Progress) -> Moments:
    """The moments of what `find_statistics` gave, for an encoder."""
    return find_reference(found, encoder, progress=progress).moments
