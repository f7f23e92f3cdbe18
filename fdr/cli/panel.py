"""`fdr panel`: how much training seeds and sampling seeds move a number, and whether models differ by more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fdr.cli import _options
from fdr.cli._inputs import is_json, measure_comparable, read_reports, reports_of_samples, write_reports
from fdr.cli._measurement import Measurement, announce_failures, measurement_of_files
from fdr.cli._outputs import write_json
from fdr.cli._render import print_panel
from fdr.errors import FdrError

if TYPE_CHECKING:
    from fdr.comparison import PanelFiles
    from fdr.evaluation import Evaluator
    from fdr.images import ImageSource
    from fdr.reports import Report


class _Command(_options.Command):
    def measures(self, ctx: click.Context) -> bool:
        """True when samples are measured; reports are only read."""
        try:
            return not any(is_json(file) for file in _flat(_files(ctx.params["models"], ctx.params["table"])))
        except (FdrError, click.UsageError):
            return False


@click.command(
    "panel",
    cls=_Command,
    epilog="Examples:\n\n  fdr panel --model base='base/seed*/*.json' --model new='new/seed*/*.json'\n\n"
    "  fdr panel --model base='runs/base-{train}-*.json' --model new='runs/new-{train}-*.json' --json -\n\n"
    "  fdr panel panel.csv\n\n"
    "  fdr panel --model a='a/seed*/samples*.npz' --model b='b/seed*/samples*.npz' --ref stats.npz",
)
@click.argument("table", required=False, type=click.Path(path_type=Path), metavar="[TABLE]")
@_options.option(
    "--model NAME=PATTERN",
    "The reports or sample sets of a model, as a quoted pattern. Files that share the text at {train}, or without that "
    "their folder, are of one training seed. May be repeated.",
    name="models",
    multiple=True,
)
@_options.confidence("verdicts: two models differ if the p-value is below 1 - P")
@measurement_of_files
@reports_of_samples
@_options.json_out
@_options.dry_run
@_options.quiet
def command(
    table: Path | None,
    models: tuple[str, ...],
    confidence: float,
    measurement: Measurement,
    report: Path | None,
    json_path: Path | None,
    dry_run: bool,
    quiet: bool,
) -> int:
    """Compare models of which each was trained with several seeds, and sampled with several seeds.

    For each model and number, say how large the standard deviations between training seeds and between sampling seeds
    are (one-way random-effects analysis of variance). For each pair of models, say which one is better, or that the gap
    is below what the panel resolves. The files are reports of fdr eval, or samples, which are measured first.

    TABLE is a CSV or TSV file with the columns model, train and file, in place of --model. A panel of reports needs no
    torch.
    """
    from fdr.comparison import panel_numbers, panel_to_dict

    files = _files(models, table)
    read = read_reports(_flat(files), "put into a panel")
    if read is not None and report is not None:
        raise click.UsageError("--report goes with samples; the files are reports already.")
    if read is None:
        read = _measure(_flat(files), measurement, report, dry_run, quiet)
    if dry_run:
        return 0
    panel = {
        model: {train: [found for file in several for found in read[file]] for train, several in runs.items()}
        for model, runs in files.items()
    }
    numbers = panel_numbers(panel, confidence)
    has_failures = announce_failures([report for found in read.values() for report in found])
    if write_json(json_path, panel_to_dict(numbers, confidence)):
        print_panel(numbers)
    return has_failures


def _files(models: Sequence[str], table: Path | None) -> PanelFiles:
    from fdr.comparison import files_of_models, files_of_table

    if table is None and not models:
        raise click.UsageError("Name models with --model NAME=PATTERN, or a TABLE of their files.")
    if table is not None and models:
        raise click.UsageError("TABLE and --model exclude each other.")
    return files_of_models(models) if table is None else files_of_table(table)


def _flat(files: PanelFiles) -> list[str]:
    from fdr.comparison import flat

    return flat(files)


def _measure(
    files: Sequence[str], measurement: Measurement, report: Path | None, dry_run: bool, quiet: bool
) -> dict[str, list[Report]]:
    """The report of each sample set; a dry run measures nothing."""

    def measure(evaluator: Evaluator, sources: Sequence[ImageSource]) -> list[Report]:
        return [evaluator.evaluate_source(source) for source in sources]

    measured = measure_comparable(files, measurement, measure, dry_run=dry_run, quiet=quiet)
    if measured is None:
        return {}
    write_reports(report, list(measured.values()))
    return {file: [one] for file, one in zip(files, measured.values(), strict=True)}
