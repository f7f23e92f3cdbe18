"""`fdr references`: the references known by name."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fdr.cli import _options, completion
from fdr.cli._outputs import write_json
from fdr.cli._render import print_table
from fdr.cli.weights import fetch_plan, fetching

if TYPE_CHECKING:
    from fdr.weights import WeightOptions


@click.group("references", epilog="Example: fdr references list")
def command() -> None:
    """List, fetch or verify the references known by name (fdr eval --ref NAME)."""


@command.command("list", cls=_options.Command, epilog="Example: fdr references list --json -")
@_options.weights_dir
@_options.json_out
def list_references(weights_dir: Path | None, json_path: Path | None) -> None:
    """List the known references: encoders, images, and which files are here. This needs no torch and no network."""
    from fdr.references import files_of, references

    if not write_json(json_path, {"references": [_facts(one.name, weights_dir) for one in references()]}):
        return
    table = []
    for reference in references():
        files = files_of(reference, weights_dir)
        here = sum(file.path is not None for file in files)
        table.append(
            (
                ", ".join((reference.name, *reference.aliases)),
                ", ".join(reference.encoders),
                "" if reference.count is None else str(reference.count),
                f"{here}/{len(files)}",
                reference.title,
            )
        )
    print_table(("name", "encoders", "images", "files here", "what"), table, right=("images", "files here"))
    click.echo("a second name is an alias; provenance, addresses and digests: --json -")


def _facts(name: str, weights_dir: Path | None) -> dict[str, Any]:
    from fdr.references import files_of, named

    reference = named(name)
    paths = {encoder: file.path for file in files_of(reference, weights_dir) for encoder in file.encoders}
    encoders = {
        encoder: {
            "file": row.file,
            "entry": row.entry,
            "outputs": list(row.outputs),
            "url": row.url,
            "sha256": row.sha256,
            "digest_by": row.digest_by or None,
            "bytes": row.size,
            "dim": row.dim,
            "val_fd": None if row.val_fd is None else row.val_fd.value,
            "val_fd_decimals": None if row.val_fd is None else row.val_fd.decimals,
            "path": None if paths[encoder] is None else str(paths[encoder]),
        }
        for encoder, row in reference.encoders.items()
    }
    return {
        "name": reference.name,
        "aliases": list(reference.aliases),
        "title": reference.title,
        "images": reference.images,
        "count": reference.count,
        "samples": reference.samples,
        "provenance": reference.provenance,
        "encoders": encoders,
    }


@command.command(
    "fetch", cls=_options.Command, epilog="Example: fdr references fetch imagenet256 --reps fdr6 --dry-run"
)
@click.argument("name", shell_complete=completion.references)
@_options.listed(
    "--reps NAMES",
    "Fetch only the files of these encoders or bundles.  [default: all]",
    shell_complete=completion.encoders,
)
@fetching
def fetch_files(name: str, reps: str | None, to: Path | None, options: WeightOptions, dry_run: bool) -> None:
    """Fetch the files of one reference, so that later runs need no network.

    A file with a published digest is checked against it and refused when it differs.
    """
    from fdr.references import files_of, named
    from fdr.weights import fetch

    options = replace(options, weights_dir=to or options.weights_dir)
    files = files_of(named(name), options.weights_dir, reps)
    if dry_run:
        for file in files:
            click.echo(fetch_plan(file))
        return
    for file in fetch(files, options, to):
        click.echo(f"{', '.join(file.encoders)}: {file.path}")


@command.command("verify", cls=_options.Command, epilog="Example: fdr references verify imagenet256")
@click.argument("names", nargs=-1, metavar="[NAMES]...", shell_complete=completion.references)
@_options.weights_dir
def verify_files(names: tuple[str, ...], weights_dir: Path | None) -> int:
    """Check the files of references that are on this machine; without NAMES, those of all references.

    A file with a published digest is compared with it; of another one, the moments are checked.

    The exit code is 1 when one is damaged.
    """
    from fdr.references import named, references, verify

    chosen = [named(name) for name in names] or references()
    verdicts = [(reference, verdict) for reference in chosen for verdict in verify(reference, weights_dir)]
    here = [(reference, verdict) for reference, verdict in verdicts if verdict.state != "missing"]
    for reference, verdict in here:
        click.echo(f"{verdict.state:<8} {reference.name}  {verdict.holding.path}  {verdict.sentence}")
    num_damaged = sum(verdict.state == "damaged" for _, verdict in here)
    click.echo(f"{len(here)} of {len(verdicts)} files are here, {num_damaged} damaged")
    sys.stdout.flush()
    return 1 if num_damaged else 0
