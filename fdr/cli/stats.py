"""`fdr stats`: reference moments of a set of images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fdr.cli import _options, _ranks
from fdr.cli._outputs import Output
from fdr.cli._render import dump, print_table, progress_for, write_text

if TYPE_CHECKING:
    from fdr.encoders import AbstractEncoder
    from fdr.images import ImageSource
    from fdr.runtime import Group


@click.command(
    "stats",
    cls=_options.Command,
    epilog="Examples:\n\n  fdr stats real_images/ -o stats.npz\n\n"
    "  fdr stats imagenet/train --reps inception,dinov2 --size 256 --crop adm -o imagenet256/ --val imagenet/val\n\n"
    "  fdr stats my_images/ --size 256 --crop adm --format adm -o my_reference.npz",
)
@click.argument("images", metavar="IMAGES")
@click.option(
    "-o",
    "--out",
    required=True,
    type=Output("new", path_type=str),
    metavar="PATH",
    help="Where to write: one file if the name ends in .npz or .h5, else a folder, which can hold several encoders.",
)
@_options.reps
@click.option(
    "--val",
    "validation",
    metavar="IMAGES",
    help="Validation images. Their FD is stored in the reference, as the denominator of FDr.",
)
@click.option(
    "--name", metavar="NAME", help="Name of the reference in reports.  [default: the name of the file or folder]"
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["h5", "npz", "adm"]),
    help="npz holds mu and sigma, which other tools read; h5 is the format of fdr; adm is an npz like the references "
    "of guided-diffusion, with moments for FID and sFID and images for precision and recall.  [default: by the ending "
    "of the name; h5 in a folder]",
)
@click.option(
    "--num-images",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    metavar="N",
    help="Number of images in a file of --format adm, a random subset by --seed.",
)
@_options.images
@_options.compute
@_options.storage
@_options.trust
@_options.json_out
@_options.dry_run
@_options.quiet
@_ranks.on_ranks
def command(
    images: str,
    out: str,
    reps: str,
    validation: str | None,
    name: str | None,
    file_format: str | None,
    num_images: int,
    json_path: Path | None,
    dry_run: bool,
    quiet: bool,
    group: Group,
    **shared: Any,
) -> None:
    """Compute the moments of IMAGES under each encoder, and write them as a reference for fdr eval --ref."""
    from dataclasses import replace

    from fdr.encoders import load_encoders
    from fdr.images import open_images
    from fdr.references import open_samples

    setup = _options.library_options(progress_for(quiet), group=group, **shared)
    if file_format == "adm":
        _refuse_for_adm(reps, validation)
        _write_adm(images, Path(out), name, num_images, setup, json_path, dry_run)
        return
    target = _Target.of(out, file_format, reps)
    source = open_samples(images, setup.image_options)
    source.find_digest(group, setup.extraction_options.progress)
    whole = replace(setup.image_options, count=None, seed=0)
    val_source = None if validation is None else open_images(validation, whole)
    target.check(source)
    setup.check_files(reps, None, dry_run)
    encoders = load_encoders(reps, setup.encoder_options, setup.weights)
    if dry_run:
        names = ", ".join(encoder.spec.name for encoder in encoders)
        click.echo(f"would write moments of {len(source)} images of {source.name} under {names} to {target.path}")
        return
    written = target.write(source, encoders, name=name, validation=val_source, options=setup.extraction_options)
    if group.rank > 0:
        return
    if json_path is not None:
        write_text(json_path, dump(written))
    if json_path is None or str(json_path) != "-":
        _print_written(written, target.path)


OTHER_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".npy", ".json", ".csv", ".zip", ".tar", ".safetensors")
"""Ends of names that mean a file, and none that is written here; a folder of such a name would surprise."""


@dataclass(frozen=True)
class _Target:
    """What -o names: a file of one encoder's moments, or a folder."""

    path: Path
    file_format: str
    is_file: bool

    @classmethod
    def of(cls, out: str, file_format: str | None, reps: str) -> _Target:
        """A file where the name ends so, and is no folder already; checked against --format and --reps."""
        from fdr.encoders import parse_encoders
        from fdr.frechet import SUFFIXES

        path = Path(out)
        suffix = "" if out.endswith(("/", os.sep)) or path.is_dir() else path.suffix.lower()
        if suffix in OTHER_SUFFIXES:
            raise click.UsageError(
                f"A reference is written as *.npz or *.h5, or as a folder; {out!r} is neither. fdr convert turns an "
                "npz into the formats of other tools."
            )
        named = SUFFIXES.get(suffix)
        if named is None:
            return cls(path, file_format or "h5", is_file=False)
        if file_format not in (None, named):
            raise click.UsageError(f"--format {file_format} goes with another name than {out!r}; leave it out.")
        encoders = parse_encoders(reps)
        if len(encoders) > 1:
            raise click.UsageError(
                f"One file holds the moments of one encoder, and --reps names {len(encoders)}; name a folder, such as "
                f"-o {path.with_suffix('')}/."
            )
        return cls(path, named, is_file=True)

    def check(self, source: ImageSource) -> None:
        """Raise what writing would raise later."""
        from fdr.evaluation import check_reference_file, check_reference_folder
        from fdr.runtime import check_writable

        if self.is_file:
            check_reference_file(self.path, source)
            return
        check_writable(self.path / "reference.json")
        check_reference_folder(self.path, source)

    def write(self, source: ImageSource, encoders: list[AbstractEncoder], **options: Any) -> dict[str, Any]:
        """Measure and write; returns what was written, for --json."""
        from fdr.evaluation import write_reference, write_reference_file

        if self.is_file:
            return write_reference_file(source, encoders[0], self.path, **options)
        return write_reference(source, encoders, self.path, file_format=self.file_format, **options)


def _refuse_for_adm(reps: str, validation: str | None) -> None:
    if reps != "inception" and _options.is_typed("reps"):
        raise click.UsageError(f"An ADM reference is of the encoder inception; leave out --reps {reps}.")
    if validation is not None:
        raise click.UsageError("An ADM reference has no place for validation FDs; leave out --val.")


def _write_adm(
    images: str, out: Path, name: str | None, num_images: int, setup: _options.Setup, json_path: Path | None, dry: bool
) -> None:
    from fdr.encoders import load_encoders
    from fdr.evaluation import check_adm_file, subset_of, write_adm_reference
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
        origin = f", labels from {summary['labels_from']}" if summary["labels"] else ""
        click.echo(f"arr_0: {count} of them, {width} x {height}{origin}; sha256 {summary['sha256'][:8]}")


def _print_written(written: dict[str, Any], out: Path) -> None:
    click.echo(f"{out}: {written['images']['count']} images of {written['images']['source']}")
    encoders = written.get("encoders") or [{**written["encoder"], "file": out.name, "sha256": written["sha256"]}]
    rows = [
        (row["name"], row["file"], f"{row['val_fd']:.6g}" if row.get("val_fd") else "", row["sha256"][:8])
        for row in encoders
    ]
    print_table([("encoder", "left"), ("file", "left"), ("validation FD", "right"), ("sha256", "left")], rows)
