"""`fdr stats`: the moments of a set of images under several encoders, as a folder that is a reference."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fdr._results import moments_facts
from fdr.encoders.base import AbstractEncoder
from fdr.errors import InputError
from fdr.extraction import Extraction, ExtractionOptions
from fdr.files import write_atomically
from fdr.frechet import frechet_distance
from fdr.group import failures_told, on_main
from fdr.images import ImageSource
from fdr.measurement import Measurement, measure
from fdr.moments import Moments
from fdr.reference import INDEX_NAME, INDEX_SCHEMA, file_digest, read_index
from fdr.sanity import image_set, jpeg_share

FORMATS = ("h5", "npz")


def write_reference(
    source: ImageSource,
    encoders: Sequence[AbstractEncoder],
    folder: Path,
    *,
    name: str | None = None,
    validation: ImageSource | None = None,
    file_format: str = "h5",
    options: ExtractionOptions | None = None,
) -> dict[str, Any]:
    """Compute and write moments, one file per encoder, and the index that makes the folder a reference.

    With `validation` images, their FD against the moments is stored as the exact denominator of FDr. A folder that is
    a reference already gains or replaces encoders, provided it was made from the same images. Returns the index.
    """
    options = options or ExtractionOptions()
    sources = [source] if validation is None else [source, validation]
    with failures_told(options.group):
        for images in sources:
            images.divide_among(options.group)
        check_reference_folder(folder, source)
        passes = [Extraction(images, encoders, None, options) for images in sources]
        measured = [measure(extraction) for extraction in passes]
        noted = image_set(passes[0])

        def write() -> dict[str, Any]:
            rows = []
            for encoder in encoders:
                attributes = _attributes(name or folder.name, source, encoder, measured[0])
                if noted is not None:
                    attributes["jpeg_share"] = jpeg_share(noted)
                moments, *validated = (found.moments[encoder.spec.name, encoder.spec.output] for found in measured)
                if validated:
                    attributes["val_fd"] = frechet_distance(validated[0], moments)
                    attributes["val_count"] = measured[1].count
                rows.append(_write_moments(folder, encoder, moments, attributes, file_format))
            return _write_index(folder, name or folder.name, source, measured[0], rows)

        return on_main(options.group, write)


def check_reference_folder(folder: Path, source: ImageSource) -> None:
    """Raise when `folder` is a file, holds something else, or is the reference of other images."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"Output {str(folder)!r} is a file; name a folder.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / INDEX_NAME).is_file():
        raise InputError(f"Output folder {str(folder)!r} is not empty and holds no reference; name another folder.")
    made_of = read_index(folder)["images"]["digest"]
    if made_of != source.digest:
        raise InputError(
            f"Output folder {str(folder)!r} is the reference of other images, or of these with another crop, size or "
            "subset; name another folder."
        )


def _attributes(
    name: str, source: ImageSource, encoder: AbstractEncoder, measured: Measurement
) -> dict[str, str | int | float]:
    return {
        **moments_facts(name, source, encoder, measured),
        "output": encoder.spec.output,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _write_moments(
    folder: Path, encoder: AbstractEncoder, moments: Moments, attributes: Mapping[str, Any], file_format: str
) -> dict[str, Any]:
    path = folder / f"{encoder.spec.name.replace(':', '-').replace('/', '-')}.{file_format}"
    moments.save(path, attributes)
    row = {"name": encoder.spec.name, "spec_hash": encoder.spec.hash, "file": path.name, "sha256": file_digest(path)}
    return row | {key: attributes[key] for key in ("val_fd", "val_count") if key in attributes}


def _write_index(
    folder: Path, name: str, source: ImageSource, measured: Measurement, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    path = folder / INDEX_NAME
    kept = read_index(folder)["encoders"] if path.is_file() else []
    replaced = {row["name"] for row in rows}
    images: dict[str, Any] = {
        "source": source.name,
        "digest": source.digest,
        "count": measured.count,
        "policy": dict(source.policy),
    }
    if source.left_out:
        images["left_out"] = source.left_out
    index = {
        "schema": INDEX_SCHEMA,
        "name": name,
        "images": images,
        "skipped": [{"id": image.id, "reason": image.reason} for image in measured.bad],
        "encoders": [*(row for row in kept if row["name"] not in replaced), *rows],
    }
    write_atomically(path, (json.dumps(index, indent=2) + "\n").encode())
    return index
