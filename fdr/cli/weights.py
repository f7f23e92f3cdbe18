"""`fdr weights`: the weight files of encoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fdr.cli import _options, completion
from fdr.cli._outputs import Output, is_stdout, write_json
from fdr.cli._progress import progress_for
from fdr.cli._render import print_table
from fdr.runtime import human_bytes

if TYPE_CHECKING:
    from fdr.weights import Holding, Verdict, WeightOptions

_all_without = click.argument("names", nargs=-1, metavar="[ENCODERS]...", shell_complete=completion.encoders)
_named = click.argument("names", nargs=-1, required=True, metavar="ENCODERS...", shell_complete=completion.encoders)


def _weight_options(weights_dir: Path | None, offline: bool, quiet: bool) -> WeightOptions:
    from fdr.weights import WeightOptions

    return WeightOptions(weights_dir=weights_dir, offline=offline or None, progress=progress_for(quiet))


fetching = _options.stack(
    _options.option("--to DIR", "Copy all the files into this folder, with a SHA256SUMS.", type=Output("store")),
    _options.theme("options", _weight_options, _options.weights_dir, _options.offline, _options.quiet),
    _options.dry_run,
)
"""The options of a command that fetches files, as its arguments `to`, `options` and `dry_run`."""


@click.group("weights", epilog="Example: fdr weights fetch fdr6 --dry-run")
def command() -> None:
    """List, fetch or verify the weight files of encoders, or collect them for a machine without network.

    ENCODERS are names as in --reps: dinov2, fdr6, timm:NAME, openclip:ARCH/TAG, hf:OWNER/NAME, ...
    The name lpips stands for the two files of LPIPS.

    For a machine without network: run fdr weights fetch fdr6 --to DIR here, copy DIR, and use --weights-dir DIR
    --offline there.
    """


def _holdings(names: Sequence[str], weights_dir: Path | None) -> list[Holding]:
    """The files of the named encoders and scores, or of all that have a name."""
    from fdr.encoders import SCORES, holdings, list_encoders

    return holdings(list(names) or [*(row.name for row in list_encoders()), *SCORES], weights_dir)


def _facts(holding: Holding) -> dict[str, Any]:
    return {
        "encoders": list(holding.encoders),
        "file": holding.file.filename,
        "state": "missing" if holding.path is None else "found",
        "path": None if holding.path is None else str(holding.path),
        "bytes": holding.num_bytes,
        "sha256": holding.file.sha256,
        "licence": holding.file.licence or None,
        "source": holding.file.source or None,
    }


@command.command("list", cls=_options.Command, epilog="Example: fdr weights list fdr6 --json -")
@_all_without
@_options.weights_dir
@_options.json_out
def list_files(names: tuple[str, ...], weights_dir: Path | None, json_path: Path | None) -> None:
    """List weight files: their encoders, size, place (or missing), digest and licence.

    Without ENCODERS, list those of all encoders known by name. This uses no network; the size of a missing file is the
    published one.
    """
    found = _holdings(names, weights_dir)
    if not write_json(json_path, {"files": [_facts(holding) for holding in found]}):
        return
    table = [
        (
            ", ".join(holding.encoders),
            _size(holding),
            "missing" if holding.path is None else str(holding.path),
            (holding.file.sha256 or "not published")[:13],
            holding.file.licence or "see its source",
        )
        for holding in found
    ]
    print_table(("encoders", "size", "weights", "sha256", "licence"), table, right=("size",))
    click.echo(_totals(found))


def _size(holding: Holding) -> str:
    return "" if holding.num_bytes is None else human_bytes(holding.num_bytes)


def _totals(found: Sequence[Holding]) -> str:
    """ "2 files here, 1.3 GB; 3 missing, 3.1 GB to fetch"."""
    here, missing = ([h for h in found if (h.path is None) == is_missing] for is_missing in (False, True))
    unknown = sum(holding.num_bytes is None for holding in missing)
    more = f" and {unknown} of unknown size" if unknown else ""
    sizes = [human_bytes(sum(holding.num_bytes or 0 for holding in group)) for group in (here, missing)]
    return f"{len(here)} files here, {sizes[0]}; {len(missing)} missing, {sizes[1]}{more} to fetch"


@command.command("fetch", cls=_options.Command, epilog="Example: fdr weights fetch fdr6 --to usb/ --dry-run")
@_named
@fetching
@_options.json_out
def fetch_files(
    names: tuple[str, ...], to: Path | None, options: WeightOptions, dry_run: bool, json_path: Path | None
) -> None:
    """Fetch the files that are missing, so that later runs need no network. With --to, copy all files into one folder.

    That folder also gets a SHA256SUMS, and --weights-dir DIR finds every file in it. A file is refused when its digest
    differs from the published one.
    """
    from fdr.weights import fetch

    found = _holdings(names, options.weights_dir)
    lines = not is_stdout(json_path)
    if dry_run:
        for holding in found if lines else ():
            click.echo(fetch_plan(holding))
        click.echo(_totals(found), err=not lines)
    else:
        wanted, found = found, []
        for holding in fetch(wanted, options, to):
            found.append(holding)
            if lines:
                click.echo(f"{', '.join(holding.encoders)}: {holding.path}")
    write_json(json_path, {"files": [_facts(holding) for holding in found]})


def fetch_plan(holding: Holding) -> str:
    """Say what a fetch would do with one file: "dinov2: would fetch https://... (1.2 GB, no published digest)"."""
    names = ", ".join(holding.encoders)
    if holding.path is not None:
        return f"{names}: here, {holding.path}"
    size = "size unknown" if holding.num_bytes is None else human_bytes(holding.num_bytes)
    proof = f"sha256 {holding.file.sha256[:12]}" if holding.file.sha256 else "no published digest"
    return f"{names}: would fetch {holding.file.source or holding.file.filename} ({size}, {proof})"


@command.command("verify", cls=_options.Command, epilog="Example: fdr weights verify --weights-dir usb/")
@_all_without
@_options.weights_dir
@_options.json_out
def verify_files(names: tuple[str, ...], weights_dir: Path | None, json_path: Path | None) -> int:
    """Check the files against a digest: that of the publisher or the hub, or one in a SHA256SUMS beside them.

    A file without any such digest is read instead. The exit code is 1 when a file is damaged, or when a file of the
    named ENCODERS is missing.
    """
    from fdr.weights import verify

    chosen = [holding for holding in _holdings(names, weights_dir) if names or holding.path is not None]
    verdicts = list(verify(chosen))
    if write_json(json_path, {"files": [_verdict_facts(verdict) for verdict in verdicts]}):
        for verdict in verdicts:
            place = verdict.holding.path or ", ".join(verdict.holding.encoders)
            click.echo(f"{verdict.state:<8} {place}  {verdict.sentence}")
        bad = sum(verdict.state in ("damaged", "missing") for verdict in verdicts)
        click.echo(f"{len(verdicts)} files, {bad} damaged or missing")
    return 1 if any(verdict.state in ("damaged", "missing") for verdict in verdicts) else 0


def _verdict_facts(verdict: Verdict) -> dict[str, Any]:
    return {**_facts(verdict.holding), "state": verdict.state, "sha256": verdict.sha256, "sentence": verdict.sentence}


@command.command("path", cls=_options.Command, epilog="Example: fdr weights path inception")
@_named
@_options.weights_dir
def print_paths(names: tuple[str, ...], weights_dir: Path | None) -> None:
    """Print where the weight files of ENCODERS are, one per line. The exit code is 2 if one is missing."""
    from fdr.errors import WeightsError
    from fdr.weights import WeightOptions, missing_sentence

    for holding in _holdings(names, weights_dir):
        if holding.path is None:
            options = WeightOptions(weights_dir=weights_dir)
            raise WeightsError(missing_sentence(holding.file, options, holding.encoders[0], "not found"))
        click.echo(str(holding.path))
