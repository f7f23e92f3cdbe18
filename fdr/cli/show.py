"""`fdr show`: what is in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fdr.cli import _options
from fdr.cli._render import dump, print_reports, write_text
from fdr.errors import InputError

if TYPE_CHECKING:
    from fdr.moments import Moments


@click.command("show", cls=_options.Command, epilog="Examples:\n\n  fdr show stats.npz\n\n  fdr show report.json")
@click.argument("path", type=click.Path(path_type=Path))
@_options.json_out
def command(path: Path, json_path: Path | None) -> None:
    """Show a statistics file (npz, HDF5), a reference folder or a report. Needs no torch."""
    from fdr.reference import INDEX_NAME, file_digest, is_statistics, read_index
    from fdr.report import load_reports, reports_to_json

    if not path.exists():
        raise InputError(f"{str(path)!r} does not exist; expected a statistics file, a reference folder or a report.")
    if path.is_file() and path.suffix == ".json" and path.name != INDEX_NAME:
        reports = load_reports(path)
        if json_path is not None:
            write_text(json_path, reports_to_json(reports))
        else:
            print_reports(reports)
        return
    if path.is_dir():
        if not is_statistics(path):
            raise InputError(f"Folder {str(path)!r} is no reference: it has no {INDEX_NAME}.")
        index = read_index(path)
        facts = {row["name"]: _facts(path / row["file"]) for row in index["encoders"]}
        data: dict[str, Any] = {"name": index["name"], "images": index["images"], "encoders": facts}
    else:
        data = {"file": str(path), "sha256": file_digest(path), **_facts(path)}
    if json_path is not None:
        write_text(json_path, dump(data))
    else:
        _print(data)


def _facts(path: Path) -> dict[str, Any]:
    from fdr.moments import Moments

    return _describe(Moments.load(path).check())


def _describe(moments: Moments) -> dict[str, Any]:
    import numpy as np

    spectrum = np.linalg.eigvalsh(moments.sigma)
    return {
        "dim": moments.dim,
        "count": moments.count,
        "ddof": moments.ddof,
        "mean norm": float(np.linalg.norm(moments.mu)),
        "mu sum": float(moments.mu.sum()),
        "sigma sum": float(moments.sigma.sum()),
        "trace": float(np.trace(moments.sigma)),
        "rank": int((spectrum > moments.dim * np.finfo(float).eps * spectrum[-1]).sum()),
        "condition": float(spectrum[-1] / spectrum[0]) if spectrum[0] > 0 else None,
        **dict(moments.attributes),
    }


def _print(data: dict[str, Any], indent: str = "") -> None:
    width = max(len(key) for key in data)
    for key, value in data.items():
        if isinstance(value, dict):
            click.echo(f"{indent}{key}")
            _print(value, indent + "  ")
        else:
            shown = "unknown" if value is None else f"{value:.10g}" if isinstance(value, float) else value
            click.echo(f"{indent}{key:<{width}}  {shown}")
