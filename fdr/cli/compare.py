"""`fdr compare`: are numbers comparable, and is their difference more than noise?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fdr.cli import _options
from fdr.cli._inputs import InputCommand, measure_comparable, read_reports, reports_of_samples, write_reports
from fdr.cli._measurement import Measurement, announce_failures, measurement
from fdr.cli._outputs import write_json
from fdr.cli._render import print_comparison, print_notes, print_rankings

if TYPE_CHECKING:
    from fdr.comparison import Comparison, PairedErrors, Ranking
    from fdr.reports import Report

Group = Mapping[str, "Report"]
"""Reports of which each is compared with the first, by the name that is shown."""


@click.command(
    "compare",
    cls=InputCommand,
    epilog="Examples:\n\n  fdr compare before.json after.json\n\n  fdr compare ours.json theirs.json --json -\n\n"
    "  fdr compare a.npz b.npz c/ --ref stats.npz --reps inception\n\n"
    "  fdr compare small.npz large.npz --ref real/ --metrics fd_debiased",
)
@click.argument("inputs", nargs=-1, metavar="SAMPLES|REPORT...")
@_options.confidence("verdicts: a difference is significant if its p-value is below 1 - P")
@measurement
@reports_of_samples
@_options.json_out
@_options.dry_run
@_options.quiet
def command(
    inputs: tuple[str, ...],
    confidence: float,
    measurement: Measurement,
    report: Path | None,
    json_path: Path | None,
    dry_run: bool,
    quiet: bool,
) -> int:
    """Compare numbers of two or more sample sets: say whether they are comparable, and whether they differ by more than
    noise. Give reports of fdr eval, or samples, which are measured first against one reference.

    Each set is compared with the first. If two numbers are not comparable, say which field of the signature differs and
    how much that usually changes FD. If they are, give the difference, its standard error and its p-value; for several
    sets also a ranking with its ties. For samples, noise that the shared reference causes is cancelled. Comparing
    reports needs no torch.

    The exit code is 0 when every pair of numbers is comparable, 1 when one is not or could not be computed, and 2 for
    wrong use.
    """
    if not inputs and measurement.drawn is None:
        raise click.UsageError("Name two or more reports or sample sets.")
    read = read_reports(inputs, "compared")
    if read is None:
        compared = _measure(inputs, measurement, confidence, report, dry_run, quiet)
    elif report is not None:
        raise click.UsageError("--report goes with samples; the inputs are reports already.")
    else:
        compared = [_compared(group, confidence) for group in _groups(read)]
    return 0 if dry_run else _show(compared, confidence, json_path)


@dataclass(frozen=True)
class _Compared:
    """The sets of one group, each compared with the first, and ranked."""

    reports: tuple[Report, ...]
    comparisons: tuple[tuple[str, str, Comparison], ...]
    rankings: tuple[Ranking, ...]

    @property
    def is_comparable(self) -> bool:
        return all(comparison.is_comparable for _, _, comparison in self.comparisons)


def _groups(read: Mapping[str, Sequence[Report]]) -> list[Group]:
    """The reports to compare. One file has several sets; sets of several files are matched by name with the first's."""
    from fdr.comparison import match_sets
    from fdr.reports import sets_by_name

    files = {path: sets_by_name(reports) for path, reports in read.items()}
    first, *others = files
    if not others:
        if len(files[first]) < 2:
            raise click.UsageError(f"{first!r} has one sample set, and a comparison needs two; name another report.")
        return [{f"{name} ({first})": report for name, report in files[first].items()}]
    matches = {other: match_sets(files[first], files[other], other) for other in others}
    return [
        {f"{name} ({first})": report, **{f"{m[name]} ({other})": files[other][m[name]] for other, m in matches.items()}}
        for name, report in files[first].items()
    ]


def _compared(group: Group, confidence: float, paired: PairedErrors | None = None) -> _Compared:
    from fdr.comparison import compare_reports, rank_reports

    (first, base), *others = group.items()
    comparisons = tuple((first, name, compare_reports(base, report)) for name, report in others)
    return _Compared(tuple(group.values()), comparisons, rank_reports(group, confidence, paired))


def _measure(
    samples: Sequence[str], measurement: Measurement, confidence: float, report: Path | None, dry_run: bool, quiet: bool
) -> list[_Compared]:
    """Measure sample sets and compare them; a dry run compares nothing."""
    from fdr.comparison import paired_errors
    from fdr.evaluation import measure_sets

    measured = measure_comparable(samples, measurement, measure_sets, least=2, dry_run=dry_run, quiet=quiet)
    if measured is None:
        return []
    group = {name: one.report for name, one in measured.items()}
    write_reports(report, list(group.values()))
    influences = {name: one.influences for name, one in measured.items()}
    paired = paired_errors(group, influences, {name: one.scores for name, one in measured.items()})
    return [_compared(group, confidence, paired)]


def _show(compared: Sequence[_Compared], confidence: float, json_path: Path | None) -> int:
    from fdr.comparison import load_effects

    effects = load_effects()
    comparisons = [found for one in compared for found in one.comparisons]
    data: dict[str, Any] = {
        "schema": "fdr-compare/1",
        "confidence": confidence,
        "comparisons": [{"a": a, "b": b, **comparison.to_dict(effects)} for a, b, comparison in comparisons],
        "rankings": [ranking.to_dict() for one in compared for ranking in one.rankings],
    }
    if write_json(json_path, data):
        for index, one in enumerate(compared):
            for place, (a, b, comparison) in enumerate(one.comparisons):
                if index or place:
                    click.echo()
                print_comparison(a, b, comparison, effects)
            print_rankings(one.rankings)
            print_notes(one.reports)
    has_failures = announce_failures([report for one in compared for report in one.reports])
    return 0 if all(one.is_comparable for one in compared) and not has_failures else 1
