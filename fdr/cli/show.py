"""`fdr show`: what is in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fdr.cli import _options
from fdr.cli._outputs import ReportFiles, write_json
from fdr.cli._render import print_reports
from fdr.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from fdr.frechet import Moments


@click.command("show", cls=_options.Command, epilog="Examples:\n\n  fdr show stats.npz\n\n  fdr show report.json")
@click.argument("path", type=click.Path(path_type=Path))
@_options.switch(
    "--spectrum",
    help="Show the largest and smallest eigenvalue of each covariance, and its condition number.",
)
@_options.json_out
def command(path: Path, spectrum: bool, json_path: Path | None) -> None:
    """Show what is in a statistics file of any tool, a reference folder or a report. Only torch files need torch."""
    from fdr.references import INDEX_NAME, indexed_file, read_index, reference_folder
    from fdr.reports import load_reports
    from fdr.runtime import missing_path

    if not path.exists():
        raise InputError(missing_path(path))
    folder = reference_folder(path)
    if folder is None and path.is_file() and path.suffix == ".json":
        reports = load_reports(path)
        ReportFiles(json_path).write(reports, lambda: print_reports(reports))
        return
    if folder is not None:
        index = read_index(folder)
        facts = {row["name"]: _facts(indexed_file(folder, row), spectrum) for row in index["encoders"]}
        data: dict[str, Any] = {"name": index["name"], "images": index["images"], "encoders": facts}
    elif path.is_dir():
        raise InputError(f"Folder {str(path)!r} is no reference: it has no {INDEX_NAME}.")
    else:
        data = _file_facts(path, spectrum)
    if write_json(json_path, data):
        _print(data)


def _file_facts(path: Path, spectrum: bool) -> dict[str, Any]:
    """What a statistics file is and holds; the facts of its moments one by one where it holds several."""
    from fdr.references import known_as, open_statistics
    from fdr.runtime import file_digest

    file, sha256 = open_statistics(path), file_digest(path)
    known, facts = None, {}
    for entry in file.entries:
        moments = file.load(entry)
        known = known or known_as(sha256, moments.mu, moments.sigma)
        where = f"{path}" if len(file.entries) == 1 else f"{path}: {entry.name}"
        of = {"output": entry.output, "encoder": ", ".join(entry.encoders) or None}
        described = _describe(moments, where, spectrum)
        facts[entry.name] = {"kind": entry.kind, **{k: v for k, v in of.items() if v}, **described}
    name = None if known is None else known.name
    head = {"file": str(path), "sha256": sha256, "format": file.format, "reference": name}
    return {**head, **(next(iter(facts.values())) if len(facts) == 1 else {"entries": facts})}


def _warn_about(moments: Moments, where: str) -> None:
    import warnings

    from fdr.errors import FdrWarning
    from fdr.references import check_moments

    for sentence in check_moments(moments, where):
        warnings.warn(sentence, FdrWarning, stacklevel=2)


def _facts(path: Path, spectrum: bool) -> dict[str, Any]:
    from fdr.frechet import Moments

    return _describe(Moments.load(path), str(path), spectrum)


def _describe(moments: Moments, where: str, spectrum: bool) -> dict[str, Any]:
    import numpy as np

    from fdr.references import moments_digest, numerical_rank

    _warn_about(moments, where)
    return {
        "digest": moments_digest(moments),
        "dim": moments.dim,
        "count": moments.count,
        "ddof": moments.ddof,
        "mean norm": float(np.linalg.norm(moments.mu)),
        "mu sum": float(moments.mu.sum()),
        "sigma sum": float(moments.sigma.sum()),
        "trace": float(np.trace(moments.sigma)),
        "rank": numerical_rank(moments, where),
        **(_spectrum(moments.sigma) if spectrum else {}),
        **dict(moments.attributes),
    }


def _spectrum(sigma: np.ndarray) -> dict[str, float | None]:
    import numpy as np

    values = np.linalg.eigvalsh(sigma)
    smallest, largest = float(values[0]), float(values[-1])
    condition = largest / smallest if smallest > 0 else None
    return {"largest eigenvalue": largest, "smallest eigenvalue": smallest, "condition": condition}


def _print(data: dict[str, Any], indent: str = "") -> None:
    width = max(len(key) for key in data)
    for key, value in data.items():
        if isinstance(value, dict):
            click.echo(f"{indent}{key}")
            _print(value, indent + "  ")
        else:
            shown = "unknown" if value is None else f"{value:.10g}" if isinstance(value, float) else value
            click.echo(f"{indent}{key:<{width}}  {shown}")
