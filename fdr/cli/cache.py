"""`fdr cache`: the feature cache."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fdr.cli import _options
from fdr.cli._outputs import write_json
from fdr.cli._progress import progress_for
from fdr.cli._render import print_table
from fdr.runtime import human_bytes

_names = click.argument("names", nargs=-1, metavar="[NAMES]...")


def _store(cache: Path | None):
    from fdr.features import CacheStore
    from fdr.runtime import feature_cache_dir

    return CacheStore(cache or feature_cache_dir())


@click.group("cache", epilog="Example: fdr cache list")
def command() -> None:
    """List, verify or remove cached features."""


@command.command("list", cls=_options.Command, epilog="Example: fdr cache list --json -")
@_options.cache_dir
@_options.json_out
def list_entries(cache: Path | None, json_path: Path | None) -> None:
    """List the entries of the cache: encoder, source, rows done, size."""
    entries = _store(cache).entries()
    copied = ("name", "state", "rows_done", "num_rows", "encoder", "source", "outputs", "modified")
    data = [{**{name: getattr(e, name) for name in copied}, "bytes": e.num_bytes, "bad": e.num_bad} for e in entries]
    if not write_json(json_path, data):
        return
    rows = []
    for e in entries:
        counted = f"{e.rows_done}/{'?' if e.num_rows is None else e.num_rows}"
        rows.append((e.name, e.encoder, e.source, counted, human_bytes(e.num_bytes), e.state))
    print_table(("name", "encoder", "source", "rows", "size", "state"), rows, right=("rows", "size"))
    click.echo(f"{len(entries)} entries, {human_bytes(sum(e.num_bytes for e in entries))}, in {_store(cache).root}")


@command.command("verify", cls=_options.Command, epilog="Example: fdr cache verify")
@_names
@_options.cache_dir
@_options.quiet
def verify(names: tuple[str, ...], cache: Path | None, quiet: bool) -> int:
    """Check every byte of the entries whose names begin with one of NAMES, or of all entries.

    The exit code is 1 when something is damaged. Damaged shards are computed again when they are next needed.
    """
    num_damaged = 0
    for result in _store(cache).verify(names, progress_for(quiet)):
        if result.is_good:
            click.echo(f"good     {result.entry.name}  {result.num_shards} shards")
        else:
            num_damaged += 1
            click.echo(f"damaged  {result.entry.name}")
            for problem in result.problems:
                click.echo(f"           {problem}")
    if num_damaged:
        click.echo(f"fdr: {num_damaged} damaged; the next run that needs them extracts the bad shards again.", err=True)
    sys.stdout.flush()
    return 1 if num_damaged else 0


@command.command("remove", cls=_options.Command, epilog="Example: fdr cache remove inception- --dry-run")
@_names
@_options.switch("--all", "Remove every entry.", name="everything")
@_options.cache_dir
@_options.dry_run
def remove(names: tuple[str, ...], everything: bool, cache: Path | None, dry_run: bool) -> None:
    """Remove the entries whose names begin with one of NAMES, or --all. Only files that fdr wrote are removed."""
    removal = _store(cache).remove(names, everything=everything, dry_run=dry_run)
    for entry in removal.entries:
        click.echo(f"{'would remove' if dry_run else 'removed'} {entry.name}  {human_bytes(entry.num_bytes)}")
    click.echo(f"{len(removal.entries)} entries, {human_bytes(removal.num_bytes)}")
