"""`fdr demo`: procedural images, degraded in several ways, and their numbers against a reference of such images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fdr.encoders import AbstractEncoder, EncoderOptions, as_encoder
from fdr.evaluation.evaluator import Evaluator
from fdr.evaluation.reference_writer import write_reference
from fdr.features import ExtractionOptions
from fdr.frechet import frechet_distance
from fdr.images import ImageOptions, blurred, draw_set, noisy, open_images, write_grid
from fdr.references import load_reference, registered_reference
from fdr.reports import Report
from fdr.runtime import Progress, SilentProgress, atomic_path

REFERENCE_COUNT = 2048
SAMPLE_COUNT = 1024
REFERENCE_SEED, VALIDATION_SEED, SAMPLE_SEED = 0, 1, 2
SELF_CHECK_TOLERANCE = 1e-6
"""Largest FD between the moments computed here and the shipped ones, as a share of the trace of the covariance."""

SETS = {
    "fresh": "new images of the same kind: the floor",
    "blurred": "fresh, blurred by 1.5 px",
    "noisy": "fresh, plus noise of standard deviation 20",
    "two-modes": "only 2 of the 8 kinds of shape",
    "copies": "reference images themselves: pure memorisation",
}


@dataclass(frozen=True)
class DemoRow:
    """One sample set and its numbers."""

    name: str
    description: str
    report: Report
    copied: float
    """Share of the samples that are equal to a reference image."""


@dataclass(frozen=True)
class Demo:
    """The sample sets, and the FD between the reference and the one that ships with fdr, relative to its trace."""

    rows: tuple[DemoRow, ...]
    self_check: float


def run_demo(folder: Path, encoder: str = "random", progress: Progress | None = None) -> Demo:
    """Draw the sets into `folder`, make a reference of the first, and evaluate the others against it with `encoder`."""
    progress = progress or SilentProgress()
    loaded = as_encoder(encoder, EncoderOptions(progress=progress))
    reference, validation, samples = _draw_all(progress)
    for name, images in {"reference": reference, "validation": validation, **samples}.items():
        save_images(folder / f"{name}.npz", images)
    options = ExtractionOptions(progress=progress)
    stats = folder / "reference"
    make_reference(folder, stats, loaded, options)
    evaluator = Evaluator(
        loaded,
        stats,
        "fd",
        image_options=ImageOptions(),
        encoder_options=EncoderOptions(progress=progress),
        extraction_options=options,
    )
    known = {image.tobytes() for image in reference}
    rows = tuple(
        DemoRow(
            name,
            SETS[name],
            evaluator.evaluate(folder / f"{name}.npz"),
            float(np.mean([image.tobytes() in known for image in images])),
        )
        for name, images in samples.items()
    )
    return Demo(rows, _self_check(stats, loaded))


def make_reference(folder: Path, stats: Path, encoder: AbstractEncoder, options: ExtractionOptions) -> None:
    """Write the moments of `reference.npz` to `stats`, with the FD of `validation.npz`; both files are in `folder`."""
    source, validation = (open_images(folder / f"{name}.npz") for name in ("reference", "validation"))
    write_reference(source, [encoder], stats, name="demo", validation=validation, options=options)


def save_images(path: Path, images: np.ndarray) -> None:
    """Write uint8 images [N, H, W, 3] as `arr_0` of an npz, the layout of ADM."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, arr_0=images)


def _draw_all(progress: Progress) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    with progress.task("Drawing", 4, "sets") as task:
        reference = draw_set(REFERENCE_SEED, REFERENCE_COUNT)
        task.advance()
        validation = draw_set(VALIDATION_SEED, SAMPLE_COUNT)
        task.advance()
        fresh = draw_set(SAMPLE_SEED, SAMPLE_COUNT)
        task.advance()
        two_modes = draw_set(SAMPLE_SEED, SAMPLE_COUNT, modes=2)
        task.advance()
    samples = {
        "fresh": fresh,
        "blurred": blurred(fresh),
        "noisy": noisy(fresh, SAMPLE_SEED),
        "two-modes": two_modes,
        "copies": reference[:SAMPLE_COUNT],
    }
    return reference, validation, samples


def _self_check(stats: Path, encoder: AbstractEncoder) -> float:
    here = load_reference(stats, encoder)
    shipped = registered_reference("demo", encoder.spec.name).moments
    return abs(frechet_distance(here, shipped)) / float(np.trace(shipped.sigma))


def contact_sheet(folder: Path, path: Path, per_row: int = 16) -> None:
    """Write a PNG with the first images of every set, one row for each set."""
    files = (os.fspath(folder / f"{name}.npz") for name in ("reference", *SETS))
    rows = [np.load(file, allow_pickle=False)["arr_0"][:per_row] for file in files]
    write_grid(np.concatenate(rows), path, columns=len(rows[0]), margin=0)
