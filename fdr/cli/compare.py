"""`fdr compare`: are two numbers comparable?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fdr.cli import _options
from fdr.cli._outputs import write_json
from fdr.cli._render import print_comparison

if TYPE_CHECKING:
    from fdr.comparison import Comparison

_path = click.Path(path_type=Path)


@click.command(
    "compare",
    cls=_options.Command,
    epilog="Examples:\n\n  fdr compare before.json after.json\n\n  fdr compare ours.json theirs.json --json -",
)
@click.argument("first", type=_path, metavar="A.json")
@click.argument("others", nargs=-1, required=True, type=_path, metavar="B.json...")
@_options.json_out
def command(first: Path, others: tuple[Path, ...], json_path: Path | None) -> int:
    """Say whether the numbers of two reports are comparable. If not, say which field of the signature differs and how
    much that usually changes FD. Several B are each compared with A. This needs no torch.

    The exit code is 0 when every pair of numbers is comparable, 1 when one is not, and 2 for wrong use.
    """
    from fdr.comparison import load_effects

    effects = load_effects()
    comparisons = [item for other in others for item in _compare(first, other)]
    rows = [{"a": a, "b": b, **comparison.to_dict(effects)} for a, b, comparison in comparisons]
    if write_json(json_path, {"schema": "fdr-compare/1", "comparisons": rows}):
        for index, (a, b, comparison) in enumerate(comparisons):
            if index:
                click.echo()
            print_comparison(a, b, comparison, effects)
    return 0 if all(comparison.is_comparable for _, _, comparison in comparisons) else 1


def _compare(first: Path, other: Path) -> Iterator[tuple[str, str, Comparison]]:
    """Compare every sample set of `first` with the one of that name in `other`, or with its only one."""
    from fdr.comparison import compare_reports, match_sets
    from fdr.reports import load_reports, sets_by_name

    ours, theirs = sets_by_name(load_reports(first)), sets_by_name(load_reports(other))
    for mine, yours in match_sets(ours, theirs, str(other)).items():
        yield f"{mine} ({first})", f"{yours} ({other})", compare_reports(ours[mine], theirs[yours])
