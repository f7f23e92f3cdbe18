"""`fdr completion`: the script for a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from fdr.cli import _options


@click.command("completion", cls=_options.Command, epilog="Example: fdr completion bash >> ~/.bashrc")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "fdr", "_FDR_COMPLETE").source())
