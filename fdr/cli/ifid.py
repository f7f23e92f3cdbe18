"""`fdr ifid`: an autoencoder, by what it decodes between an image and its neighbour in latent space."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fdr.cli import _autoencoder, _computing, _options
from fdr.cli._outputs import Output, ReportFiles
from fdr.cli._progress import progress_for
from fdr.cli._render import print_autoencoder_report

if TYPE_CHECKING:
    from fdr.ifid import IfidOptions


def _alphas(text: str) -> tuple[float, ...]:
    """Read numbers from "0.5", "0,0.25,0.5" or "0,0.1,...,0.5"."""
    parts = [part.strip() for part in text.split(",")]
    try:
        if "..." not in parts:
            return tuple(map(float, parts))
        first, second, dots, last = parts
        if dots == "...":
            return _progression(float(first), float(second), float(last))
    except ValueError:
        pass
    raise click.BadParameter(f"{text!r} is no alpha; expected numbers such as 0.5, 0,0.25,0.5 or 0,0.1,...,0.5.")


def _progression(first: float, second: float, last: float) -> tuple[float, ...]:
    """All numbers from first to last in equal steps. Raises `ValueError` if the steps do not end at last."""
    steps = (last - first) / (second - first) if second != first else 0.0
    if steps < 1 or abs(steps - round(steps)) > 1e-6:
        raise ValueError("no progression")
    return tuple(round(first + number * (second - first), 10) for number in range(round(steps) + 1))


_sets = _options.stack(
    _options.option(
        "--images IMAGES", "The images to measure: any sample set that fdr eval takes.", name="measured", required=True
    ),
    _options.option(
        "--neighbours IMAGES",
        "The images among which to search for neighbours.  [default: those of --images, excluding each image itself]",
    ),
    _options.option("--neighbour-count N", "Search for neighbours in a random subset of N images.", type=int),
)


def _ifid_options(no_clamp: bool, compat: str | None, **others: Any) -> IfidOptions:
    """The options for the library, after the changes that --compat makes."""
    from fdr.ifid import REFERENCE_COMPAT, IfidOptions

    changed = REFERENCE_COMPAT if compat == "reference" else {}
    return IfidOptions(**{**others, "clamp": not no_clamp, **changed})


_interpolation = _options.theme(
    "options",
    _ifid_options,
    _options.option(
        "--mode",
        "How to interpolate between two latents. Neighbours are nearest by cosine distance, or by L2 with linear.",
        type=click.Choice(["slerp", "linear", "mask"]),
        default="slerp",
    ),
    _options.listed(
        "--alpha A,B,...",
        "How far to go from the image (0) to its neighbour (1). With several values, such as 0,0.1,...,0.5, the number "
        "called iFID is measured at the last.",
        name="alphas",
        of=_alphas,
        default="0.5",
    ),
    _options.option(
        "--top-k K",
        "Choose the neighbour at random among the K nearest; closer ones are more likely.",
        type=int,
        default=10,
    ),
    _options.switch("--same-class", "Take neighbours from the class of the image only."),
    _options.switch("--no-clamp", "Do not clamp decoded values to [0, 1]."),
    _options.option(
        "--quantize",
        "Round decoded images to 8 bits, or measure them as floats (none).",
        type=click.Choice(["uint8", "none"]),
        default="uint8",
    ),
    _options.switch("--lpips", "Compute LPIPS of the reconstructions as well."),
    _options.option(
        "--compat",
        "Follow the code of the paper, to reproduce its published numbers: --no-clamp --quantize none --reps "
        "inception:pytorch-fid --crop center-bilinear (with --size), and its scaling in PSNR and SSIM.",
        type=click.Choice(["reference"]),
    ),
    _options.option(
        "--latent-dtype",
        "Precision in which the latents of the neighbours are stored; 16 bits take half the disk space and "
        "reading time.",
        type=click.Choice(["float32", "float16", "bfloat16"]),
        default="float32",
    ),
    _options.memory("the neighbour search"),
)


@click.command(
    "ifid",
    cls=_options.Command,
    epilog="Examples:\n\n  fdr ifid --vae stabilityai/sd-vae-ft-mse --images imagenet/val --neighbours imagenet/train "
    "--size 256 --crop center\n\n"
    "  fdr ifid --vae my_model:build --vae-weights vae.safetensors --images photos/ --size 256 --reps dinov2\n\n"
    "  fdr ifid --vae haar --images photos/ --size 64 --alpha 0,0.1,...,0.5 --picture ifid.png",
)
@_autoencoder.autoencoder(required=True)
@_sets
@_options.images_of("the subsets, the posterior samples and the choice of neighbours")
@_options.reps
@_interpolation
@_computing.computing(_computing.encoding, _options.switch("--no-cache", "Keep latents only until the run ends."))
@_options.trust
@_options.option(
    "--picture FILE",
    "Write a PNG that shows originals, reconstructions, neighbours and interpolations side by side.",
    type=Output("png"),
)
@_options.report_files(_options.json_out, _options.csv_out)
@_options.dry_run
@_options.quiet
def command(
    autoencoder: _autoencoder.Autoencoder,
    measured: str,
    neighbours: str | None,
    neighbour_count: int | None,
    images: _options.Images,
    reps: str,
    options: IfidOptions,
    computing: _computing.Computing,
    picture: Path | None,
    files: ReportFiles,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Measure an autoencoder by interpolated FID: how good are the images that it decodes between an image and its
    neighbour in latent space?

    For each encoder, this gives iFID (iFD), rFID of the reconstructions and FID of the decoded neighbours, all against
    the images; and PSNR, SSIM and MS-SSIM of the reconstructions. Latents, neighbours and features are cached; to
    resume a killed run, repeat the command.
    """
    from fdr.encoders import load_encoders
    from fdr.ifid import InterpolatedFid, open_sets

    if options.compat == "reference":
        reps, images = _as_the_paper(reps, images)
    with computing.on_ranks(progress_for(quiet)) as setup:
        options = replace(options, seed=images.seed)
        queries, others = open_sets(measured, neighbours, images.options(), neighbour_count)
        model = autoencoder.load(setup, images.seed)
        setup.check_files(reps, None, dry_run=dry_run)
        encoders = load_encoders(reps, setup.encoder_options, setup.weights)
        lpips = _autoencoder.lpips_of(setup) if options.lpips else None
        run = InterpolatedFid(model, queries, others, encoders, options, setup.extraction_options, lpips)
        if dry_run:
            for line in run.plan() if setup.is_main else ():
                click.echo(line)
            return
        report = run.run(picture)
        if setup.is_main:
            files.write([report], lambda: print_autoencoder_report(report))
            if picture is not None and files.spares_stdout:
                click.echo(f"picture: {picture}")


def _as_the_paper(reps: str, images: _options.Images) -> tuple[str, _options.Images]:
    """The encoder and the crop of `--compat reference`, unless others are on the command line."""
    if not _options.is_typed("reps"):
        reps = "inception:pytorch-fid"
    if images.size is not None and not _options.is_typed("crop"):
        images = replace(images, crop="center-bilinear")
    return reps, images
