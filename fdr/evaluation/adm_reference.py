"""A reference in the layout of ADM's evaluator: moments of all images, and some of the images themselves, in one npz.

`mu`, `sigma` (pool) and `mu_s`, `sigma_s` (spatial) are of all images. `arr_0` uint8 [n, H, W, 3] holds a subset of the
images, from which precision and recall are computed, and `arr_1` int64 [n] their labels, if there are any. One more
member, which other programs ignore, says where the file comes from.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from fdr.encoders import AbstractEncoder
from fdr.errors import InputError
from fdr.evaluation.measurement import Measurement, measure, outputs_of
from fdr.evaluation.random_rows import RandomRows
from fdr.evaluation.reference_facts import with_curve
from fdr.evaluation.results import moments_attributes
from fdr.features import Extraction, ExtractionOptions
from fdr.frechet import ATTRIBUTES
from fdr.images import ImageSource, open_images
from fdr.metrics import Need
from fdr.references import check_target
from fdr.runtime import atomic_path, file_digest, propagate_failures

SPATIAL = "spatial"
_COPY_BYTES = 1 << 22


@dataclass(frozen=True)
class StoredImages:
    """The images that went into `arr_0`."""

    shape: tuple[int, int, int, int]
    labels: np.ndarray | None


def check_adm_file(path: Path) -> None:
    """Raise `InputError` when `path` cannot become an ADM reference."""
    if path.suffix.lower() != ".npz":
        raise InputError(f"An ADM reference is one npz file, but the output is {str(path)!r}; name a file *.npz.")
    check_target(path)


def check_adm_encoder(encoder: AbstractEncoder) -> None:
    """Raise `InputError` for an encoder without the spatial output."""
    if SPATIAL not in encoder.outputs:
        raise InputError(
            f"An ADM reference needs the output {SPATIAL!r}, which {encoder.spec.name} does not give; use inception."
        )


def write_adm_reference(
    source: ImageSource,
    subset: ImageSource,
    encoder: AbstractEncoder,
    path: Path,
    *,
    name: str | None = None,
    options: ExtractionOptions | None = None,
) -> dict[str, Any]:
    """Write moments of `source`, and the images of `subset`, to `path`; memory holds a few batches. Returns a summary.

    Raises `InputError` when the images of `subset` differ in size, before anything is extracted.
    """
    check_adm_file(path)
    check_adm_encoder(encoder)
    options = options or ExtractionOptions()
    wanted = [Need(encoder.spec.output), Need(SPATIAL)]
    if not options.moments_only:
        wanted.append(Need(encoder.spec.output, RandomRows))
    needs = {encoder.spec.name: wanted}
    with propagate_failures(options.group):
        if options.group.rank > 0:
            measure(Extraction(source, [encoder], outputs_of(needs), options), needs)
            return options.group.broadcast({})
        with atomic_path(path) as temporary, tempfile.TemporaryFile(dir=path.parent) as pixels:
            stored = _write_pixels(subset, pixels, options)
            extraction = Extraction(source, [encoder], outputs_of(needs), options)
            measured = measure(extraction, needs)
            assert measured is not None
            attributes = moments_attributes(name or path.stem, extraction, encoder, measured)
            members = {**_members(measured, encoder, stored), ATTRIBUTES: np.array(json.dumps(attributes))}
            _write_npz(temporary, pixels, stored, members)
        summary = {
            "file": str(path),
            "sha256": file_digest(path),
            "images": {"source": source.name, "digest": source.digest, "count": measured.count},
            "encoder": encoder.spec.name,
            "spec_hash": encoder.spec.hash,
            "arr_0": list(stored.shape),
            "labels": stored.labels is not None,
            "labels_from": None if stored.labels is None else source.labels_from,
            "skipped": measured.skipped,
        }
        return options.group.broadcast(summary)


def _write_pixels(subset: ImageSource, file: IO[bytes], options: ExtractionOptions) -> StoredImages:
    """Write the bytes of `arr_0` to `file`, image after image; bad images are left out, so the number is not known."""
    rows: list[int] = []
    shape: tuple[int, ...] = ()
    with options.progress.task(f"{subset.name}: arr_0", len(subset)) as task:
        for row, image in _images(subset, options):
            shape = shape or image.shape
            if image.shape != shape:
                raise InputError(
                    f"{subset.name}: {subset.ids[row]} has {image.shape[1]} x {image.shape[0]} pixels and "
                    f"{subset.ids[rows[0]]} has {shape[1]} x {shape[0]}, but arr_0 holds images of one size; give them "
                    "one with --crop adm --size PX, or --size PX."
                )
            file.write(image.tobytes())
            rows.append(row)
            task.advance()
    if not rows:
        raise InputError(f"{subset.name} gave no image for arr_0; every image of the subset is bad.")
    height, width, channels = shape
    labels = None if subset.labels is None else subset.labels[rows]
    return StoredImages((len(rows), height, width, channels), labels)


def _images(subset: ImageSource, options: ExtractionOptions) -> Iterator[tuple[int, np.ndarray]]:
    """(row, uint8 [H, W, 3])"""
    for batch in subset.batches(32, options.num_workers):
        for row, image in zip(batch.rows, batch.images, strict=True):
            yield row, np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _members(measured: Measurement, encoder: AbstractEncoder, stored: StoredImages) -> dict[str, np.ndarray]:
    pool, spatial = (measured.moments[encoder.spec.name, output] for output in (encoder.spec.output, SPATIAL))
    rows = measured.collected.get((encoder.spec.name, Need(encoder.spec.output, RandomRows)))
    curve = None if rows is None else with_curve(pool, rows).curve
    members = {"mu": pool.mu, "sigma": pool.sigma, "mu_s": spatial.mu, "sigma_s": spatial.sigma}
    members |= {"count": np.array(measured.count), **({} if curve is None else {"curve": curve.array})}
    return members if stored.labels is None else {"arr_1": stored.labels, **members}


def _write_npz(path: Path, pixels: IO[bytes], stored: StoredImages, members: Mapping[str, np.ndarray]) -> None:
    """Write what `np.savez` would, but take the bytes of `arr_0` from the file `pixels`."""
    pixels.seek(0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:
            header = {"descr": "|u1", "fortran_order": False, "shape": stored.shape}
            np.lib.format.write_array_header_1_0(member, header)
            shutil.copyfileobj(pixels, member, _COPY_BYTES)
        for key, array in members.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def subset_of(source: ImageSource, images: Any, num_images: int) -> ImageSource:
    """The images for `arr_0`: a seeded subset of `source`, opened from `images`; all of them if there are fewer."""
    if num_images < 1:
        raise InputError(f"The number of images in arr_0 is {num_images}; it must be at least 1.")
    return open_images(images, replace(source.options, count=min(num_images, len(source))))
