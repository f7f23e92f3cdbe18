"""`fdr ifid`: an autoencoder, by what it decodes between an image and its neighbour in latent space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fdr.cli import _options, _ranks
from fdr.cli._generator import RANGES, arguments
from fdr.cli._numbers import Alphas, ByteSize
from fdr.cli._outputs import Output, take_stdout, write_reports
from fdr.cli._render import print_autoencoder_report, progress_for

if TYPE_CHECKING:
    from fdr.encoders import EncoderOptions
    from fdr.ifid import InterpolatedFid, LoadedAutoencoder
    from fdr.runtime import Group


_model = _options.stack(
    click.option(
        "--vae",
        required=True,
        metavar="NAME|PATH|MODULE:FACTORY",
        help="The autoencoder: haar, dct or pixel-unshuffle (they need no weights), a diffusers folder or hub name, a "
        "TorchScript or torch.export file, or a function that returns an object with encode and decode.",
    ),
    click.option(
        "--vae-weights",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Weights to load into the autoencoder of MODULE:FACTORY.",
    ),
    click.option(
        "--vae-args",
        multiple=True,
        metavar="KEY=VALUE",
        help="Arguments for MODULE:FACTORY; values are JSON or text. May be repeated, or several given in quotes.",
    ),
    click.option(
        "--posterior",
        type=click.Choice(["sample", "mean"]),
        help="For an autoencoder that encodes to a distribution: take a sample of it (fixed by the seed and the index "
        "of the image) or its mean.  [default: what the autoencoder declares; sample for a KL autoencoder]",
    ),
    click.option(
        "--value-range",
        type=click.Choice(list(RANGES)),
        help="The values of black and white in the images of the autoencoder.  [default: what it declares, else -1:1]",
    ),
)
_sets = _options.stack(
    click.option(
        "--images", required=True, metavar="IMAGES", help="The images to measure: any sample set that fdr eval takes."
    ),
    click.option(
        "--neighbours",
        metavar="IMAGES",
        help="The images among which to search for neighbours.  [default: those of --images, excluding each image "
        "itself]",
    ),
    click.option(
        "--neighbour-count", type=int, metavar="N", help="Search for neighbours in a random subset of N images."
    ),
    click.option("--count", type=int, metavar="N", help="Measure a random subset of N images instead of all."),
    click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        metavar="N",
        help="Seed for the subsets, the posterior samples and the choice of neighbours.",
    ),
    _options.crop,
    _options.transparency,
    _options.bad_images,
)
_pairing = _options.stack(
    click.option(
        "--mode",
        type=click.Choice(["slerp", "linear", "mask"]),
        default="slerp",
        show_default=True,
        help="How to interpolate between two latents. Neighbours are found by cosine distance, for linear by L2.",
    ),
    _options.listed(
        "--alpha",
        "alphas",
        of=Alphas(),
        default="0.5",
        show_default=True,
        metavar="A,B,...",
        help="How far to go from the image (0) to its neighbour (1). Of several values, such as 0,0.1,...,0.5, iFID is "
        "that of the last.",
    ),
    click.option(
        "--top-k",
        type=int,
        default=10,
        show_default=True,
        metavar="K",
        help="Choose the neighbour at random among the K nearest; closer ones are more likely.",
    ),
    click.option("--same-class", is_flag=True, default=False, help="Take neighbours from the class of the image only."),
)
_decoding = _options.stack(
    click.option("--no-clamp", is_flag=True, default=False, help="Do not clamp decoded values to [0, 1]."),
    click.option(
        "--quantize",
        type=click.Choice(["uint8", "none"]),
        default="uint8",
        show_default=True,
        help="Round decoded images to 8 bits, or measure them as floats (none).",
    ),
    click.option("--lpips", is_flag=True, default=False, help="Compute LPIPS of the reconstructions as well."),
    click.option(
        "--compat",
        type=click.Choice(["reference"]),
        help="Follow the code of the paper, to reproduce its published numbers: --no-clamp --quantize none --reps "
        "inception:pytorch-fid --crop center-bilinear (with --size), and its scaling in PSNR and SSIM.",
    ),
)
_search = _options.stack(
    click.option(
        "--latent-dtype",
        type=click.Choice(["float32", "float16", "bfloat16"]),
        default="float32",
        show_default=True,
        help="Precision in which the latents of the neighbours are stored; 16 bits take half the disk space and "
        "reading time.",
    ),
    click.option(
        "--memory",
        type=ByteSize(),
        default="4GiB",
        show_default=True,
        metavar="SIZE",
        help="Memory that the neighbour search may use; the neighbours do not depend on it.",
    ),
)


@click.command(
    "ifid",
    cls=_options.Command,
    epilog="Examples:\n\n  fdr ifid --vae stabilityai/sd-vae-ft-mse --images imagenet/val --neighbours imagenet/train "
    "--size 256 --crop center\n\n"
    "  fdr ifid --vae my_model:build --vae-weights vae.safetensors --images photos/ --size 256 --reps dinov2\n\n"
    "  fdr ifid --vae haar --images photos/ --size 64 --alpha 0,0.1,...,0.5 --picture ifid.png",
)
@_model
@_sets
@_options.reps
@_pairing
@_decoding
@_search
@_options.device
@_options.gpus
@_options.batches
@_options.precision
@_options.cache_dir
@click.option("--no-cache", is_flag=True, default=False, help="Keep latents only until the run ends.")
@_options.weight_files
@_options.trust
@click.option(
    "--picture",
    type=Output("png"),
    metavar="FILE",
    help="Write a PNG that shows originals, reconstructions, neighbours and interpolations side by side.",
)
@_options.json_out
@click.option(
    "--csv", "csv_path", type=Output("csv"), metavar="FILE", help="Write the result as CSV to FILE (- for stdout)."
)
@_options.dry_run
@_options.quiet
@_ranks.on_ranks
def command(
    images: str,
    neighbours: str | None,
    neighbour_count: int | None,
    picture: Path | None,
    json_path: Path | None,
    csv_path: Path | None,
    dry_run: bool,
    quiet: bool,
    group: Group,
    **options: Any,
) -> None:
    """Measure an autoencoder by interpolated FID: how good are the images that it decodes between an image and its
    neighbour in latent space?

    For each encoder, this gives iFID (iFD), rFID of the reconstructions and FID of the decoded neighbours, all against
    the images; and PSNR, SSIM and MS-SSIM of the reconstructions. Latents, neighbours and features are cached; to
    resume a killed run, repeat the command.
    """
    outputs = {"json": json_path, "csv": csv_path}
    run = _prepared(images, neighbours, neighbour_count, progress_for(quiet), group, dry_run, **options)
    if dry_run:
        for line in run.plan() if group.rank == 0 else ():
            click.echo(line)
        return
    report = run.run(picture)
    if group.rank > 0:
        return
    write_reports(outputs, [report], lambda: print_autoencoder_report(report))
    if picture is not None and not take_stdout(outputs):
        click.echo(f"picture: {picture}")


def _prepared(
    images: str,
    neighbours: str | None,
    neighbour_count: int | None,
    progress: Any,
    group: Group,
    dry_run: bool,
    *,
    reps: str,
    mode: str,
    alphas: tuple[float, ...],
    top_k: int,
    same_class: bool,
    no_clamp: bool,
    quantize: str,
    lpips: bool,
    compat: str | None,
    latent_dtype: str,
    memory: int,
    vae: str,
    vae_weights: Path | None,
    vae_args: tuple[str, ...],
    posterior: str | None,
    value_range: str | None,
    **shared: Any,
) -> InterpolatedFid:
    from fdr.encoders import load_encoders
    from fdr.ifid import REFERENCE_COMPAT, IfidOptions, InterpolatedFid, open_sets
    from fdr.metrics import load_lpips

    if compat == "reference":
        no_clamp, quantize = not REFERENCE_COMPAT["clamp"], REFERENCE_COMPAT["quantize"]
        reps = reps if _options.is_typed("reps") else "inception:pytorch-fid"
        if shared["size"] is not None and not _options.is_typed("crop"):
            shared["crop"] = "center-bilinear"
    options = IfidOptions(
        mode=mode,
        alphas=alphas,
        top_k=top_k,
        seed=shared["seed"],
        same_class=same_class,
        clamp=not no_clamp,
        quantize=quantize,
        latent_dtype=latent_dtype,
        memory=memory,
        lpips=lpips,
        compat=compat,
    )
    setup = _options.library_options(progress, group=group, exact_order=False, moments_only=False, **shared)
    queries, others = open_sets(images, neighbours, setup.image_options, neighbour_count)
    autoencoder = _autoencoder(vae, vae_weights, vae_args, posterior, value_range, options.seed, setup.encoder_options)
    setup.check_files(reps, None, dry_run)
    encoders = load_encoders(reps, setup.encoder_options, setup.weights)
    with_encoders = setup.encoder_options
    distance = load_lpips(with_encoders, device=with_encoders.device, tf32=with_encoders.tf32) if lpips else None
    return InterpolatedFid(autoencoder, queries, others, encoders, options, setup.extraction_options, distance)


def _autoencoder(
    name: str,
    weights: Path | None,
    given: tuple[str, ...],
    posterior: str | None,
    value_range: str | None,
    seed: int,
    options: EncoderOptions,
) -> LoadedAutoencoder:
    from fdr.ifid import load_autoencoder

    return load_autoencoder(
        name,
        device=options.device,
        posterior=posterior,
        seed=seed,
        value_range=None if value_range is None else RANGES[value_range],
        dtype=options.dtype,
        tf32=options.tf32,
        weights=weights,
        arguments=arguments(given, "--vae-args"),
        weights_dir=options.weights_dir,
        offline=options.offline,
        progress=options.progress,
    )
