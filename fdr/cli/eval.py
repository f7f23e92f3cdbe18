"""`fdr eval`: samples against a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fdr.cli import _options
from fdr.cli._measurement import Measurement, announce_failures, measurement
from fdr.cli._outputs import ReportFiles
from fdr.cli._progress import progress_for
from fdr.cli._render import print_reports

if TYPE_CHECKING:
    from fdr.reports import Report


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
@measurement
@_options.switch("--audit", "Compute every FD by a second method as well, and compare the two.")
@_options.switch(
    "--spectra",
    "Keep eigenvalues of both covariances with every FD, for the chart of fdr report. At 2,048 dimensions they take as "
    "long as FD itself.",
)
@_options.switch(
    "--no-stderr",
    "Leave out the standard errors of FD. Cached features are then not read again for FD alone, which is faster.",
)
@_options.report_files(_options.json_out, _options.csv_out, _options.markdown_out)
@_options.dry_run
@_options.quiet
def command(
    samples: tuple[str, ...],
    measurement: Measurement,
    audit: bool,
    spectra: bool,
    no_stderr: bool,
    files: ReportFiles,
    dry_run: bool,
    quiet: bool,
) -> int:
    """Measure sample sets, or a generator (--gen), against a reference.

    SAMPLES are folders, quoted patterns ('a/*.png'), files (zip, tar, npz, npy, HDF5, parquet, .pt, .safetensors), or
    hf-dataset:NAME:SPLIT. Features are cached; to resume a killed run, repeat the command. If some numbers cannot be
    computed, the others are reported and the exit code is 1.
    """
    if not samples and measurement.drawn is None:
        raise click.UsageError("Name sample sets, or a generator with --gen.")
    with measurement.computing.on_ranks(progress_for(quiet)) as setup:
        evaluator, sources = measurement.prepare(
            samples, setup, dry_run=dry_run, audit=audit, spectra=spectra, stderr=not no_stderr
        )
        if dry_run:
            for line in evaluator.plan(sources) if setup.is_main else ():
                click.echo(line)
            return 0
        reports: list[Report] = []
        try:
            for source in sources:
                reports.append(evaluator.evaluate_source(source))
        finally:  # what was measured before an error is reported as well
            if setup.is_main and reports:
                files.write(reports, lambda: print_reports(reports))
    return announce_failures(reports) if setup.is_main else 0
