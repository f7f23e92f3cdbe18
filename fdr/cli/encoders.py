"""`fdr encoders`: what can be named in --reps."""

from __future__ import annotations

from pathlib import Path

import click

from fdr.cli import _options
from fdr.cli._render import dump, human_bytes, print_table, write_text


@click.command("encoders", cls=_options.Command, epilog="Example: fdr encoders --weights-dir /data/weights")
@_options.weights_dir
@_options.json_out
def command(weights_dir: Path | None, json_path: Path | None) -> None:
    """List encoders with width, input size, whether their weights are here, size and licence.

    Besides them there are open-ended names, listed below the table, and those that installed packages add. Licences are
    those of the weights: MAE and ConvNeXt-V2 are non-commercial.
    """
    from fdr.encoders import weights
    from fdr.encoders.catalogue import BUNDLES
    from fdr.encoders.registry import PREFIXES, list_encoders, plugin_encoders

    plugins = plugin_encoders()
    rows = []
    for row in list_encoders():
        path = None if row.weights is None else weights.find(row.weights, weights_dir)
        state = "none needed" if row.weights is None else "missing" if path is None else "found"
        size = "" if row.weights is None or row.weights.size is None else human_bytes(row.weights.size)
        rows.append(
            {
                "name": row.name,
                "model": row.model,
                "width": row.width,
                "output": row.output,
                "input_size": row.input_size,
                "preprocessing": row.preprocessing,
                "weights": state,
                "path": None if path is None else str(path),
                "size": size,
                "licence": row.licence,
                "note": row.note,
            }
        )
    if json_path is not None:
        bundles = {name: list(names) for name, names in BUNDLES.items()}
        write_text(json_path, dump({"encoders": rows, "bundles": bundles, "families": PREFIXES, "plug_ins": plugins}))
        if str(json_path) == "-":
            return
    columns = ("name", "width", "input_size", "weights", "size", "licence", "note")
    rights = {"width", "input_size", "size"}
    print_table(
        [(key.replace("_size", ""), "right" if key in rights else "left") for key in columns],
        [[str(row[key]) for key in columns] for row in rows],
    )
    for name, names in BUNDLES.items():
        click.echo(f"bundle {name} = {', '.join(names)}")
    for name, origin in plugins.items():
        click.echo(f"{name}: added by {origin}")
    for text in PREFIXES.values():
        click.echo(text)
