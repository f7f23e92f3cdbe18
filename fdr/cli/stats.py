"""`fdr stats`: reference moments of a set of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fdr.cli import _options, _ranks
from fdr.cli._render import dump, print_table, progress_for, write_text

if TYPE_CHECKING:
    from fdr.group import Group


@click.command(
    "stats",
    cls=_options.Command,
    epilog="Examples:\n\n  fdr stats imagenet/train --reps inception,dinov2 --size 256 --crop adm -o imagenet256/ "
    "--val imagenet/val\n\n  fdr stats my_images/ --size 256 --crop adm --format adm -o my_reference.npz",
)
@click.argument("images", metavar="IMAGES")
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Folder of the reference; with --format adm, its npz file.",
)
@_options.reps
@click.option(
    "--val", "validation", metavar="IMAGES", help="Validation images: store their FDs, the denominators of FDr."
)
@click.option("--name", metavar="NAME", help="Name of the reference in reports.  [default: the folder's name]")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["h5", "npz", "adm"]),
    default="h5",
    show_default=True,
    help="h5 keeps full provenance; npz has the mu and sigma that other tools read, too; adm is one npz as the "
    "references of guided-diffusion: moments for FID and sFID, and images for precision and recall.",
)
@click.option(
    "--num-images",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    metavar="N",
    help="With --format adm: images in the file, a seeded subset (--seed).",
)
@_options.images
@_options.compute
@_options.storage
@_options.json_out
@_options.dry_run
@_options.quiet
@_ranks.on_ranks
def command(
    images: str,
    out: Path,
    reps: str,
    validation: str | None,
    name: str | None,
    file_format: str,
    num_images: int,
    json_path: Path | None,
    dry_run: bool,
    quiet: bool,
    group: Group,
    **shared: Any,
) -> None:
    """Compute the moments of IMAGES under each encoder; what is written is a reference for fdr eval --ref."""
    from dataclasses import replace

    from fdr.encoders.registry import load_encoders
    from fdr.files import check_writable
    from fdr.images import open_images
    from fdr.reference_writer import check_reference_folder, write_reference

    setup = _options.library_options(progress_for(quiet), group=group, **shared)
    if file_format == "adm":
        _refuse_for_adm(reps, validation)
        _write_adm(images, out, name, num_images, setup, json_path, dry_run)
        return
    check_writable(out / "reference.json")
    source = open_images(images, setup.image_options)
    source.divide_among(group)
    whole = replace(setup.image_options, count=None, seed=0)
    val_source = None if validation is None else open_images(validation, whole)
    check_reference_folder(out, source)
    setup.check_files(reps, None, dry_run)
    encoders = load_encoders(reps, setup.encoder_options, setup.weights)
    if dry_run:
        names = ", ".join(encoder.spec.name for encoder in encoders)
        click.echo(f"would write moments of {len(source)} images of {source.name} under {names} to {out}")
        return
    index = write_reference(
        source,
        encoders,
        out,
        name=name,
        validation=val_source,
        file_format=file_format,
        options=setup.extraction_options,
    )
    if group.rank > 0:
        return
    if json_path is not None:
        write_text(json_path, dump(index))
    if json_path is None or str(json_path) != "-":
        _print_index(index, out)


def _refuse_for_adm(reps: str, validation: str | None) -> None:
    if reps != "inception" and _options.is_typed("reps"):
        raise click.UsageError(f"An ADM reference is of the encoder inception; leave out --reps {reps}.")
    if validation is not None:
        raise click.UsageError("An ADM reference has no place for validation FDs; leave out --val.")


def _write_adm(
    images: str, out: Path, name: str | None, num_images: int, setup: _options.Setup, json_path: Path | None, dry: bool
) -> None:
    from fdr.adm_reference import check_adm_file, subset_of, write_adm_reference
    from fdr.encoders.registry import load_encoders
    from fdr.images import open_images

    check_adm_file(out)
    source = open_images(images, setup.image_options)
    subset = subset_of(source, images, num_images)
    (encoder,) = load_encoders("inception", setup.encoder_options, setup.weights)
    if dry:
        click.echo(f"would write moments of {len(source)} images of {source.name} and {len(subset)} of them to {out}")
        return
    summary = write_adm_reference(source, subset, encoder, out, name=name, options=setup.extraction_options)
    if setup.extraction_options.group.rank > 0:
        return
    if json_path is not None:
        write_text(json_path, dump(summary))
    if json_path is None or str(json_path) != "-":
        count, height, width, _ = summary["arr_0"]
        click.echo(f"{out}: moments of {summary['images']['count']} images of {summary['images']['source']}")
        click.echo(f"arr_0: {count} of them, {width} x {height}; sha256 {summary['sha256'][:8]}")


def _print_index(index: dict[str, Any], out: Path) -> None:
    click.echo(f"{out}: {index['images']['count']} images of {index['images']['source']}")
    rows = [
        (row["name"], row["file"], f"{row['val_fd']:.6g}" if "val_fd" in row else "", row["sha256"][:8])
        for row in index["encoders"]
    ]
    print_table([("encoder", "left"), ("file", "left"), ("validation FD", "right"), ("sha256", "left")], rows)
