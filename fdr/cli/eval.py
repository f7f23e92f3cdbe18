"""`fdr eval`: samples against a reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fdr.cli import _generator, _options, _ranks
from fdr.cli._outputs import Output, write_reports
from fdr.cli._render import print_reports, progress_for

if TYPE_CHECKING:
    from fdr.runtime import Group


@click.command(
    "eval",
    cls=_options.Command,
    epilog="Examples:\n\n  fdr eval samples.npz --reps inception,dinov2\n\n"
    "  fdr eval runA.npz runB/ --ref stats.npz --json out.json\n\n"
    "  fdr eval samples/ --ref real_images/ --reps fdr6 --metrics fd,is\n\n"
    "  fdr eval samples.npz --ref VIRTUAL_imagenet256_labeled.npz --protocol adm\n\n"
    "  fdr eval --gen runs/a --reps fdr6",
)
@click.argument("samples", nargs=-1, metavar="SAMPLES...")
@_generator.measured
@_options.measurement
@click.option(
    "--audit", is_flag=True, default=False, help="Compute every FD by a second method as well, and compare the two."
)
@_options.json_out
@click.option(
    "--csv",
    "csv_path",
    type=Output("csv"),
    metavar="FILE",
    help="Write the result as CSV to FILE (- for stdout).",
)
@click.option(
    "--markdown",
    "markdown_path",
    type=Output("markdown"),
    metavar="FILE",
    help="Write the result as a Markdown table to FILE (- for stdout).",
)
@_options.dry_run
@_options.quiet
@_ranks.on_ranks
def command(
    samples: tuple[str, ...],
    drawn: _generator.Drawn | None,
    audit: bool,
    json_path: Path | None,
    csv_path: Path | None,
    markdown_path: Path | None,
    dry_run: bool,
    quiet: bool,
    group: Group,
    **measuring: Any,
) -> None:
    """Measure sample sets, or a generator (--gen), against a reference.

    SAMPLES are folders, quoted patterns ('a/*.png'), files (zip, tar, npz, npy, HDF5, parquet, .pt, .safetensors), or
    hf-dataset:NAME:SPLIT. Features are cached; to resume a killed run, repeat the command.
    """
    outputs = {"json": json_path, "csv": csv_path, "markdown": markdown_path}
    if not samples and drawn is None:
        raise click.UsageError("Name sample sets, or a generator with --gen.")
    evaluator, sources = _generator.prepare_samples(
        samples, drawn, progress_for(quiet), audit=audit, group=group, dry_run=dry_run, **measuring
    )
    if dry_run:
        for line in evaluator.plan(sources) if group.rank == 0 else ():
            click.echo(line)
        return
    reports = [evaluator.evaluate_source(source) for source in sources]
    if group.rank > 0:
        return
    write_reports(outputs, reports, lambda: print_reports(reports))
