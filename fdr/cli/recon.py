"""`fdr recon`: reconstructions beside their originals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fdr.cli import _autoencoder, _computing, _options
from fdr.cli._outputs import Output, ReportFiles
from fdr.cli._progress import progress_for
from fdr.cli._render import print_reconstruction_report

if TYPE_CHECKING:
    from fdr.ifid import ReconProtocol
    from fdr.images import ImageOptions


@click.command(
    "recon",
    cls=_options.Command,
    epilog="Examples:\n\n  fdr recon originals/ reconstructions/ --reps inception,dinov2 --size 256 --crop center\n\n"
    "  fdr recon --vae stabilityai/sd-vae-ft-mse --images imagenet/val --protocol imagenet-val-256\n\n"
    "  fdr recon originals.npz reconstructions.npz --reps random --per-image scores.csv --picture worst.png",
)
@click.argument("originals", required=False)
@click.argument("reconstructions", required=False)
@_autoencoder.autoencoder(required=False)
@_options.option("--images IMAGES", "The originals, for --vae: any sample set that fdr eval takes.", name="measured")
@_options.option(
    "--protocol NAME",
    "Which originals, which crop and size: imagenet-val-256, imagenet-val-256-adm or coco-val2017-256 "
    "(docs/reconstructions.md). It sets --size and --crop, and warns if the number of images is another.",
)
@_options.images_of("the subset and the posterior samples")
@_options.reps
@_options.switch("--lpips", "Compute LPIPS as well.")
@_options.option(
    "--per-image FILE",
    "Write the scores of every image as CSV to FILE (- for stdout, in place of the tables).",
    type=Output("csv"),
    name="per_image",
)
@_options.option(
    "--picture FILE",
    "Write a PNG of the worst reconstructions beside their originals.",
    type=Output("png"),
)
@_options.option("--worst N", "Images in the picture.", type=click.IntRange(1, 64), default=8)
@_computing.computing(_computing.encoding, _options.switch("--no-cache", "Keep nothing when the run ends."))
@_options.trust
@_options.report_files(_options.json_out, _options.csv_out)
@_options.dry_run
@_options.quiet
def command(
    originals: str | None,
    reconstructions: str | None,
    autoencoder: _autoencoder.Autoencoder,
    measured: str | None,
    protocol: str | None,
    images: _options.Images,
    reps: str,
    lpips: bool,
    per_image: Path | None,
    picture: Path | None,
    worst: int,
    computing: _computing.Computing,
    files: ReportFiles,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Measure reconstructions against their originals: rFID (rFD) under any encoders, PSNR, SSIM, MS-SSIM and LPIPS.

    Give two folders, archives or arrays, whose images are matched by name (rows of arrays by position), or an
    autoencoder with --vae and --images. Both sides are cropped and resized alike. A killed run resumes when the command
    is repeated.
    """
    from fdr.encoders import load_encoders
    from fdr.ifid import Reconstruction
    from fdr.images import open_images

    first, second = _sides(originals, reconstructions, autoencoder.vae, measured)
    options, chosen = _with_protocol(images.options(), protocol)
    with computing.on_ranks(progress_for(quiet)) as setup:
        source = open_images(first, options)
        if chosen is not None and protocol is not None:
            _warn(chosen.warning(protocol, len(source)))
        made = autoencoder.load(setup, images.seed) if second is None else open_images(second, options)
        setup.check_files(reps, None, dry_run=dry_run)
        encoders = load_encoders(reps, setup.encoder_options, setup.weights)
        scorer = _autoencoder.lpips_of(setup) if lpips else None
        run = Reconstruction(source, made, encoders, setup.extraction_options, scorer)
        if dry_run:
            for line in run.plan() if setup.is_main else ():
                click.echo(line)
            return
        found = run.run(picture, worst)
        if found is None:
            return
        if per_image is not None and str(per_image) == "-":
            files.write([found.report], lambda: click.echo(found.to_csv(), nl=False))
            return
        if per_image is not None:
            found.to_csv(per_image)
        files.write([found.report], lambda: print_reconstruction_report(found.report))
        for label, path in (("per image", per_image), ("picture", picture)):
            if path is not None and files.spares_stdout:
                click.echo(f"{label}: {path}")


def _sides(
    originals: str | None, reconstructions: str | None, vae: str | None, images: str | None
) -> tuple[str, str | None]:
    """The originals, and the reconstructions or None for those of the autoencoder."""
    if vae is None:
        if originals is None or reconstructions is None or images is not None:
            raise click.UsageError("Give ORIGINALS and RECONSTRUCTIONS, two sets of images, or --vae with --images.")
        return originals, reconstructions
    if reconstructions is not None or (originals is None) == (images is None):
        raise click.UsageError("With --vae, give the originals alone, with --images.")
    return images or originals or "", None


def _with_protocol(options: ImageOptions, name: str | None) -> tuple[ImageOptions, ReconProtocol | None]:
    """The options of the images with the crop and size of a protocol."""
    from fdr.ifid import find_recon_protocol

    if name is None:
        return options, None
    for flag in ("size", "crop"):
        if _options.is_typed(flag):
            raise click.UsageError(f"--protocol sets --{flag}; leave one of them out.")
    protocol = find_recon_protocol(name)
    return protocol.options(options), protocol


def _warn(sentence: str | None) -> None:
    from fdr.errors import warn

    if sentence is not None:
        warn(sentence)
