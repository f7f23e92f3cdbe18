"""`fdr show`: what is in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fdr.cli import _options
from fdr.cli._outputs import ReportFiles, write_json
from fdr.cli._render import print_reports
from fdr.errors import InputError


@click.command("show", cls=_options.Command, epilog="Examples:\n\n  fdr show stats.npz\n\n  fdr show report.json")
@click.argument("path", type=click.Path(path_type=Path))
@_options.switch("--spectrum", "Show the largest and smallest eigenvalue of each covariance, and its condition number.")
@_options.json_out
def command(path: Path, spectrum: bool, json_path: Path | None) -> None:
    """Show what is in a statistics file of any tool, a reference folder, or a report as JSON or as a page. Only torch
    files need torch."""
    from fdr.references import describe, reference_folder
    from fdr.reports import load_reports
    from fdr.runtime import missing_path

    if not path.exists():
        raise InputError(missing_path(path))
    if path.is_file() and path.suffix in (".json", ".html") and reference_folder(path) is None:
        reports = load_reports(path)
        ReportFiles(json_path).write(reports, lambda: print_reports(reports))
        return
    data = describe(path, spectrum=spectrum)
    if write_json(json_path, data):
        _print(data)


def _print(data: dict[str, Any], indent: str = "") -> None:
    width = max(len(key) for key in data)
    for key, value in data.items():
        if isinstance(value, dict):
            click.echo(f"{indent}{key}")
            _print(value, indent + "  ")
        else:
            shown = "unknown" if value is None else f"{value:.10g}" if isinstance(value, float) else value
            click.echo(f"{indent}{key:<{width}}  {shown}")
