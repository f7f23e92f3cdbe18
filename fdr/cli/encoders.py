"""`fdr encoders`: what can be named in --reps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fdr.cli import _options, completion
from fdr.cli._outputs import write_json
from fdr.cli._render import print_table
from fdr.runtime import human_bytes


@click.command(
    "encoders",
    cls=_options.Command,
    epilog="Examples:\n\n  fdr encoders\n\n  fdr encoders dinov2 fdr6\n\n  fdr encoders --weights-dir /data/weights",
)
@click.argument("names", nargs=-1, metavar="[NAMES]...", shell_complete=completion.encoders)
@_options.weights_dir
@_options.json_out
def command(names: tuple[str, ...], weights_dir: Path | None, json_path: Path | None) -> None:
    """List the encoders, and which of their weights are on this machine; with NAMES, describe these in full.

    Further names, such as timm:NAME, and the encoders that installed packages add are listed below the table.
    """
    from fdr.encoders import BUNDLES, PREFIXES, plugin_encoders

    plugins = plugin_encoders()
    rows = _rows(names, weights_dir)
    data = {"encoders": rows, "bundles": BUNDLES, "families": PREFIXES, "plug_ins": plugins}
    if not write_json(json_path, data):
        return
    if names:
        click.echo("\n\n".join(map(_described, rows)))
        return
    headers = ("name", "width", "input", "weights", "licence")
    print_table(headers, [_cells(row) for row in rows], right=("width", "input"))
    click.echo("width: numbers in one feature. input: pixels. (nc): no commercial use.")
    click.echo("Details: fdr encoders NAME. To fetch the weights: fdr weights fetch NAME.")
    click.echo("\nAlso in --reps:")
    lines = {name: " ".join(members) for name, members in BUNDLES.items()}
    lines |= {text.rpartition(": ")[2]: text.rpartition(": ")[0] for text in PREFIXES.values()}
    lines |= {name: f"added by {origin}" for name, origin in plugins.items()}
    for name, text in lines.items():
        click.echo(f"  {name:<20} {text}" if len(name) <= 20 else f"  {name}\n  {'':<20} {text}")


def _rows(names: Sequence[str], weights_dir: Path | None) -> list[dict[str, Any]]:
    """The encoders known by name, or those named, as plain data."""
    from fdr import weights
    from fdr.encoders import list_encoders, parse_encoders
    from fdr.errors import unknown

    known = {row.name: row for row in list_encoders()}
    chosen = parse_encoders(names) if names else list(known)
    for name in chosen:
        if name not in known:
            raise unknown("encoder with a description", name, known, "The others are what their model is.")
    found = []
    for row in map(known.__getitem__, chosen):
        path = None if row.weights is None else weights.find(row.weights, weights_dir)
        size = "" if row.weights is None or row.weights.size is None else human_bytes(row.weights.size)
        found.append(
            {
                "name": row.name,
                "model": row.model,
                "width": row.width,
                "output": row.output,
                "input_size": row.input_size,
                "preprocessing": row.preprocessing,
                "weights": "none needed" if row.weights is None else "missing" if path is None else "found",
                "path": None if path is None else str(path),
                "size": size,
                "licence": row.licence,
                "note": row.note,
            }
        )
    return found


def _cells(row: dict[str, Any]) -> list[str]:
    size = f", {row['size']}" if row["size"] and row["weights"] == "missing" else ""
    licence = row["licence"].replace(" (non-commercial)", " (nc)")
    return [row["name"], str(row["width"]), str(row["input_size"]), row["weights"] + size, licence]


def _described(row: dict[str, Any]) -> str:
    size = f" ({row['size']})" if row["size"] else ""
    missing = f"missing{size}; fdr weights fetch {row['name']}"
    lines = {
        "what": row["note"],
        "model": row["model"],
        "output": f"{row['output']}, {row['width']} values",
        "input": f"{row['input_size']} px: {row['preprocessing']}",
        "weights": row["path"] or (missing if row["weights"] == "missing" else row["weights"]),
        "licence": f"{row['licence']} (weights)",
    }
    return "\n".join((row["name"], *(f"  {key:<9}{text}" for key, text in lines.items())))
