"""`fdr stats`: reference moments of a set of images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fdr.cli import _computing, _options
from fdr.cli._outputs import Output, write_json
from fdr.cli._progress import progress_for
from fdr.cli._render import print_table

if TYPE_CHECKING:
    from fdr.encoders import AbstractEncoder
    from fdr.features import ExtractionOptions
    from fdr.images import ImageSource


@click.command(
    "stats",
    cls=_options.Command,
    epilog="Examples:\n\n  fdr stats real_images/ -o stats.npz\n\n"
    "  fdr stats imagenet/train --reps inception,dinov2 --size 256 --crop adm -o imagenet256/ --val imagenet/val\n\n"
    "  fdr stats my_images/ --size 256 --crop adm --format adm -o my_reference.npz",
)
@click.argument("source", metavar="IMAGES")
@_options.option(
    "-o, --out PATH",
    "Where to write: one file if the name ends in .npz or .h5, else a folder, which can hold several encoders.",
    required=True,
    type=Output("new", path_type=str),
)
@_options.reps
@_options.option(
    "--val IMAGES",
    "Validation images. Their FD is stored in the reference, as the denominator of FDr.",
    name="validation",
)
@_options.switch(
    "--noise-floor",
    "Store FD between random halves of the images, raw and debiased: what FD is where the true FD is 0. At 2,048 "
    "dimensions it takes some minutes.",
)
@_options.switch(
    "--labels",
    "Store the count, mean and spread of each class, which fd_conditional and fd_joint need. The classes are the "
    "folders of the images, or the labels in their dataset.json or arr_1.",
)
@_options.option("--name NAME", "Name of the reference in reports.  [default: the name of the file or folder]")
@_options.option(
    "--format",
    "npz holds mu and sigma, which other tools read; h5 is the format of fdr; adm is an npz like the references "
    "of guided-diffusion, with moments for FID and sFID and images for precision and recall.  [default: by the ending "
    "of the name; h5 in a folder]",
    name="file_format",
    type=click.Choice(["h5", "npz", "adm"]),
)
@_options.option(
    "--num-images N",
    "Number of images in a file of --format adm, a random subset by --seed.",
    type=click.IntRange(min=1),
    default=10_000,
)
@_options.images_of("the random subset, and for the halves of --noise-floor")
@_computing.computing(_computing.encoding, _computing.exact_order, _computing.no_cache, _computing.moments_only)
@_options.trust
@_options.json_out
@_options.dry_run
@_options.quiet
def command(
    source: str,
    out: str,
    reps: str,
    validation: str | None,
    noise_floor: bool,
    labels: bool,
    name: str | None,
    file_format: str | None,
    num_images: int,
    images: _options.Images,
    computing: _computing.Computing,
    json_path: Path | None,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Compute the moments of IMAGES under each encoder, and write them as a reference for fdr eval --ref."""
    from fdr.encoders import load_encoders
    from fdr.evaluation import subset_of
    from fdr.images import open_images
    from fdr.references import open_samples

    target = _Target.of(out, file_format, reps, validation, noise_floor, labels)
    if noise_floor and computing.moments_only:
        raise click.UsageError("--moments-only keeps no features, which --noise-floor needs; leave out one of the two.")
    if labels and computing.moments_only:
        raise click.UsageError(
            "--moments-only sums all features alone, so it has no --labels; leave out one of the two."
        )
    with computing.on_ranks(progress_for(quiet)) as setup:
        options = images.options()
        measured = open_samples(source, options)
        measured.find_digest(setup.group, setup.extraction_options.progress)
        whole = replace(options, count=None, seed=0)
        others = None if validation is None else open_images(validation, whole)
        subset = subset_of(measured, source, num_images) if target.is_adm else None
        target.check(measured)
        setup.check_files(target.reps, None, dry_run=dry_run)
        encoders = load_encoders(target.reps, setup.encoder_options, setup.weights)
        if dry_run:
            names = ", ".join(encoder.spec.name for encoder in encoders)
            more = "" if subset is None else f", and {len(subset)} of them,"
            click.echo(
                f"would write moments of {len(measured)} images of {measured.name} under {names}{more} to {target.path}"
            )
            return
        written = target.write(measured, encoders, name, setup.extraction_options, validation=others, subset=subset)
        if setup.is_main and write_json(json_path, written):
            (_print_adm if target.is_adm else _print_written)(written, target.path)
            if computing.moments_only:
                click.echo(WITHOUT_FEATURES)


WITHOUT_FEATURES = (
    "no leverage curve, density or debiased validation FD: --moments-only keeps no features to compute them from, so "
    "the debiased FD treats this reference as Gaussian"
)
OTHER_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".npy", ".json", ".csv", ".zip", ".tar", ".safetensors")
"""Suffixes of files that `fdr stats` does not write. No folder gets such a name."""


@dataclass(frozen=True)
class _Target:
    """The output that -o names: a file with one encoder's moments, a folder, or a file like those of ADM."""

    path: Path
    file_format: str
    reps: str
    is_file: bool = True
    noise_floor: bool = False
    labels: bool = False

    @classmethod
    def of(
        cls, out: str, file_format: str | None, reps: str, validation: str | None, noise_floor: bool, labels: bool
    ) -> _Target:
        """Read -o and check it against --format and --reps. A name without a suffix, or of a folder, is a folder."""
        from fdr.encoders import parse_encoders
        from fdr.frechet import SUFFIXES

        path = Path(out)
        if file_format == "adm":
            _refuse_for_adm(reps, validation, noise_floor, labels)
            return cls(path, file_format, "inception")
        suffix = "" if out.endswith(("/", os.sep)) or path.is_dir() else path.suffix.lower()
        if suffix in OTHER_SUFFIXES:
            raise click.UsageError(
                f"A reference is written as *.npz or *.h5, or as a folder; {out!r} is neither. fdr convert turns an "
                "npz into the formats of other tools."
            )
        named = SUFFIXES.get(suffix)
        if named is None:
            return cls(path, file_format or "h5", reps, False, noise_floor, labels)
        if file_format not in (None, named):
            raise click.UsageError(f"--format {file_format} goes with another name than {out!r}; leave it out.")
        encoders = parse_encoders(reps)
        if len(encoders) > 1:
            raise click.UsageError(
                f"One file holds the moments of one encoder, and --reps names {len(encoders)}; name a folder, such as "
                f"-o {path.with_suffix('')}/."
            )
        return cls(path, named, reps, True, noise_floor, labels)

    @property
    def is_adm(self) -> bool:
        """True for a file like those of ADM."""
        return self.file_format == "adm"

    def check(self, source: ImageSource) -> None:
        """Raise the errors now that writing would raise later."""
        from fdr.evaluation import check_adm_file, check_has_classes, check_reference_file, check_reference_folder
        from fdr.runtime import check_writable

        if self.labels:
            check_has_classes(source)
        if self.is_adm:
            check_adm_file(self.path)
        elif self.is_file:
            check_reference_file(self.path, source)
        else:
            check_writable(self.path / "reference.json")
            check_reference_folder(self.path, source)

    def write(
        self,
        source: ImageSource,
        encoders: Sequence[AbstractEncoder],
        name: str | None,
        options: ExtractionOptions,
        *,
        validation: ImageSource | None,
        subset: ImageSource | None,
    ) -> dict[str, Any]:
        """Measure and write; returns what was written, for --json."""
        from fdr.evaluation import write_adm_reference, write_reference, write_reference_file

        if subset is not None:
            return write_adm_reference(source, subset, encoders[0], self.path, name=name, options=options)
        if self.is_file:
            return write_reference_file(
                source,
                encoders[0],
                self.path,
                name=name,
                validation=validation,
                noise_floor=self.noise_floor,
                labels=self.labels,
                options=options,
            )
        return write_reference(
            source,
            encoders,
            self.path,
            name=name,
            validation=validation,
            noise_floor=self.noise_floor,
            labels=self.labels,
            file_format=self.file_format,
            options=options,
        )


def _refuse_for_adm(reps: str, validation: str | None, noise_floor: bool, labels: bool) -> None:
    if reps != "inception" and _options.is_typed("reps"):
        raise click.UsageError(f"An ADM reference is of the encoder inception; leave out --reps {reps}.")
    if validation is not None:
        raise click.UsageError("An ADM reference has no place for validation FDs; leave out --val.")
    if noise_floor:
        raise click.UsageError("An ADM reference has no place for a noise floor; leave out --noise-floor.")
    if labels:
        raise click.UsageError("An ADM reference holds labels as arr_1 and no moments of classes; leave out --labels.")


def _print_adm(written: dict[str, Any], out: Path) -> None:
    count, height, width, _ = written["arr_0"]
    click.echo(f"{out}: moments of {written['images']['count']} images of {written['images']['source']}")
    origin = f", labels from {written['labels_from']}" if written["labels"] else ""
    click.echo(f"arr_0: {count} of them, {width} x {height}{origin}; sha256 {written['sha256'][:8]}")


def _print_written(written: dict[str, Any], out: Path) -> None:
    from fdr.references import NoiseFloor

    click.echo(f"{out}: {written['images']['count']} images of {written['images']['source']}")
    encoders = written.get("encoders") or [{**written["encoder"], "file": out.name, "sha256": written["sha256"]}]
    rows = [
        (row["name"], row["file"], _with_error(row, "val_fd"), _with_error(row, "val_fd_debiased"), row["sha256"][:8])
        for row in encoders
    ]
    headers = ("encoder", "file", "validation FD", "debiased", "sha256")
    has_debiased = any(row[3] for row in rows)
    shown = [index for index in range(len(headers)) if has_debiased or index != 3]
    print_table([headers[i] for i in shown], [[row[i] for i in shown] for row in rows], right=headers[2:4])
    if "classes" in written["images"]:
        click.echo(f"classes: {written['images']['classes']}, from {written['images']['labels_from']}")
    for row in encoders:
        if "noise_floor" in row:
            click.echo(f"noise floor of {row['name']}: {NoiseFloor(**row['noise_floor'])}")


def _with_error(row: dict[str, Any], name: str) -> str:
    """A number with its standard error if it has one; empty if there is no number."""
    value, stderr = row.get(name), row.get(f"{name}_stderr")
    return "" if value is None else f"{value:.6g}" + ("" if stderr is None else f" ± {stderr:.2g}")
