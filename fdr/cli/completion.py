"""`fdr completion` prints the script for a shell. The functions complete names in it, and import no torch."""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem, get_completion_class

from fdr.cli._command import Command


@click.command("completion", cls=Command, epilog="Example: fdr completion bash >> ~/.bashrc")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "fdr", "_FDR_COMPLETE").source())


def encoders(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the last encoder of a list: presets, bundles, plug-ins and families of open-ended names."""
    from fdr.encoders import BUNDLES, PREFIXES, ROWS, plugin_encoders

    names = {row.name: row.note for row in ROWS}
    names |= {name: ", ".join(members) for name, members in BUNDLES.items()}
    names |= {name: f"added by {origin}" for name, origin in plugin_encoders().items()}
    names |= {f"{prefix}:": text for prefix, text in PREFIXES.items()}
    return _last_part(incomplete, names.items())


def metrics(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the last metric of a list."""
    from fdr.metrics import METRICS

    return _last_part(incomplete, ((name, "") for name in METRICS))


def references(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a reference."""
    from fdr.references import registry

    return [CompletionItem(name, help=entry.title) for name, entry in registry().items() if name.startswith(incomplete)]


def references_and_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a reference, or a path."""
    return [*references(ctx, param, incomplete), CompletionItem(incomplete, type="file")]


def _last_part(incomplete: str, names: Iterable[tuple[str, str]]) -> list[CompletionItem]:
    before, comma, last = incomplete.rpartition(",")
    given = set(before.split(","))
    return [
        CompletionItem(before + comma + name, help=text)
        for name, text in names
        if name.lower().startswith(last.lower()) and name not in given
    ]
