"""The inputs of `fdr report`: reports, run folders, comparisons and explanations, told apart by their contents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdr.errors import InputError
from fdr.pages.compared import compared_from
from fdr.pages.explained import Explained, explained_from
from fdr.pages.run_folder import RunHistory, is_run_folder, read_run
from fdr.reports import Report, load_reports, unique_names
from fdr.runtime import decode_json


@dataclass(frozen=True)
class Inputs:
    """The inputs of a page by kind."""

    files: Mapping[str, Sequence[Report]]
    """The reports of each file."""
    runs: Sequence[RunHistory]
    compared: Sequence[Mapping[str, Any]]
    explained: Sequence[Explained]


def read_inputs(paths: Sequence[str]) -> Inputs:
    """Read everything. Raises `InputError` for what is missing, damaged, of another version, or none of the kinds."""
    folders = [item for item in paths if Path(item).is_dir()]
    for item in folders:
        if not is_run_folder(Path(item)):
            raise InputError(
                f"{item!r} is a folder and no run of fdr train; name a report or a folder with train.json."
            )
    files = [item for item in paths if item not in folders]
    others = {item: _other(Path(item)) for item in files}
    names = [item for item in files if others[item] is None]
    return Inputs(
        dict(zip(unique_names(names), map(load_reports, names), strict=True)),
        [read_run(Path(item)) for item in dict.fromkeys(folders)],
        [data for data in others.values() if isinstance(data, Mapping)],
        [data for data in others.values() if isinstance(data, Explained)],
    )


def _other(path: Path) -> Mapping[str, Any] | Explained | None:
    """A comparison or an explanation; None if the file is of another kind, or is none."""
    try:
        data = decode_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(data, Mapping):
        return None
    kind = str(data.get("schema")).partition("/")[0]
    if kind == "fdr-compare":
        return compared_from(data, repr(str(path)))
    return explained_from(data, repr(str(path))) if kind == "fdr-explain" else None
