"""All files that a run needs and that are not on this machine, at once, and the command that fetches them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import click

from fdr.cli._render import human_bytes
from fdr.errors import WeightsError


class _File(NamedTuple):
    owner: str
    name: str
    size: int | None
    encoders: tuple[str, ...]


def check_files(
    reps: str,
    reference: Any,
    weights_dir: Path | None,
    offline: bool | None,
    *,
    dry_run: bool,
    explicit: Collection[str] = (),
    is_main: bool = True,
) -> None:
    """List what is missing and end the command, in a dry run; raise `WeightsError` in an offline one.

    `explicit` are the encoders whose weight file is named. A run that may use the network fetches instead.
    """
    from fdr.runtime import is_offline

    offline = is_offline(offline)
    if not (dry_run or offline):
        return
    encoders = _missing_weights(reps, explicit, weights_dir)
    statistics = _missing_statistics(reps, reference, weights_dir)
    found = encoders + statistics
    if not found or (len(found) == 1 and not dry_run):  # the loader has a longer sentence about one file
        return
    command = " && ".join(_commands(encoders, statistics, reference, weights_dir))
    where = "the run is offline" if offline else "a run would fetch what is missing"
    total = sum(file.size or 0 for file in found)
    unknown = " and more of unknown size" if any(file.size is None for file in found) else ""
    many = "1 file is" if len(found) == 1 else f"{len(found)} files are"
    head = f"{many} not on this machine ({human_bytes(total)}{unknown}), and {where}"
    if not dry_run:
        listed = ", ".join(dict.fromkeys(file.owner for file in found))
        raise WeightsError(f"{head}: {listed}. Where there is a network: {command}.")
    sizes = ["" if file.size is None else f" ({human_bytes(file.size)})" for file in found]
    lines = [f"  {file.owner}: {file.name}{size}" for file, size in zip(found, sizes, strict=True)]
    if is_main:
        click.echo("\n".join((f"{head}:", *lines, f"Fetch with: {command}")))
    raise click.exceptions.Exit(2 if offline else 0)


def _missing_weights(reps: str, explicit: Collection[str], weights_dir: Path | None) -> list[_File]:
    from fdr.encoders import holdings, parse_encoders

    names = [name for name in parse_encoders(reps) if name not in explicit]
    missing = [holding for holding in holdings(names, weights_dir) if holding.path is None] if names else []
    return [_File(",".join(one.encoders), one.file.filename, one.file.size, one.encoders) for one in missing]


def _missing_statistics(reps: str, reference: Any, weights_dir: Path | None) -> list[_File]:
    from fdr.encoders import parse_encoders
    from fdr.references import files_of, registry

    if not isinstance(reference, str) or Path(reference).expanduser().exists() or reference not in registry():
        return []
    entry = registry()[reference]
    having = [name for name in parse_encoders(reps) if name in entry.encoders]
    files = files_of(entry, weights_dir, having) if having else []
    return [_File(reference, one.file.filename, one.file.size, one.encoders) for one in files if one.path is None]


def _commands(encoders: list[_File], statistics: list[_File], reference: Any, weights_dir: Path | None) -> list[str]:
    place = "" if weights_dir is None else f" --weights-dir {weights_dir}"
    commands = [f"fdr weights fetch {','.join(file.owner for file in encoders)}{place}"] if encoders else []
    names = dict.fromkeys(name for file in statistics for name in file.encoders)
    return commands + ([f"fdr references fetch {reference} --reps {','.join(names)}{place}"] if statistics else [])
