"""`fdr env`: what a bug report needs."""

from __future__ import annotations

from pathlib import Path

import click

from fdr.cli import _options
from fdr.cli._config import config_of
from fdr.cli._outputs import write_json


@click.command("env", cls=_options.Command, epilog="Example: fdr env")
@_options.json_out
def command(json_path: Path | None) -> None:
    """Print versions, devices, threads, folders and the weights found, as Markdown to paste into a bug report."""
    from fdr import weights
    from fdr.encoders import list_encoders
    from fdr.runtime import describe_machine

    found = [row.name for row in list_encoders() if row.weights is None or weights.find(row.weights) is not None]
    configuration = config_of(click.get_current_context()).name or "none"
    facts = {**describe_machine(), "weights found": ", ".join(found), "configuration": configuration}
    if write_json(json_path, facts):
        for key, value in facts.items():
            click.echo(f"- {key}: {value}")
