"""`fdr convert`: statistics from one tool's layout into another's."""

from __future__ import annotations

import warnings
from pathlib import Path

import click

from fdr.cli import _options
from fdr.cli._outputs import Output, write_json
from fdr.cli._progress import progress_for
from fdr.errors import FdrWarning
from fdr.references import LAYOUTS


@click.command(
    "convert",
    cls=_options.Command,
    epilog="Examples:\n\n  fdr convert img512.pkl inception512.npz --entry fid\n\n"
    "  fdr convert VIRTUAL_imagenet256_labeled.npz small.npz --to adm\n\n"
    "  fdr convert stats.npz stats.pt --count 50000",
)
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=Output("new"))
@_options.option(
    "--to FORMAT",
    f"Layout to write: {', '.join(LAYOUTS)}.  [default: by the suffix of OUT]",
    type=click.Choice(LAYOUTS),
)
@_options.option("--entry NAME", "Which moments to take from a file that holds several, such as fid or mu_s.")
@_options.option("--encoder NAME", "The encoder of the moments, if the file does not say it.")
@_options.option("--count N", "The number of images, if the file does not say it.", type=int)
@_options.switch("--keep-images", "Copy the images (arr_0) of an ADM file as well.")
@_options.json_out
@_options.dry_run
@_options.quiet
def command(
    source: Path,
    target: Path,
    to: str | None,
    entry: str | None,
    encoder: str | None,
    count: int | None,
    keep_images: bool,
    json_path: Path | None,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Convert a statistics file (moments or features) into the layout of another tool.

    IN is recognised by its content: npz of pytorch-fid, TTUR, EDM, clean-fid, ADM, FD-loss, fd_evaluator or dgm-eval,
    EDM2 and FD-loss pickles, files of torch-fidelity, npy features, and those of fdr. No code in it is ever run, its
    numbers are checked, and float64 values are copied exactly.
    """
    from dataclasses import asdict

    from fdr.references import ConvertOptions, convert

    progress = progress_for(quiet)
    options = ConvertOptions(to, entry, encoder, count, keep_images)
    done = convert(source, target, options, dry_run=dry_run, progress=progress)
    for doubt in done.doubts:
        warnings.warn(doubt, FdrWarning, stacklevel=1)
    if not write_json(json_path, asdict(done)):
        return
    images = "an unknown number of images" if done.count is None else f"{done.count} images"
    verb = "would write" if dry_run else "wrote"
    entries = ", ".join(done.entries)
    click.echo(f"{verb} {done.target} ({done.to_format}): {entries} of {done.from_format}, {done.dim}-d, {images}")
    if done.lost is not None:
        click.echo(done.lost)
