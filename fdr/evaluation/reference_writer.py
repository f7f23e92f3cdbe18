"""`fdr stats`: writes the moments of a set of images as one file, or as a folder with a file for each encoder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from fdr.encoders import AbstractEncoder
from fdr.errors import InputError
from fdr.evaluation.labels import CollectedClasses, check_has_classes
from fdr.evaluation.measurement import Measurement, Needs, measure
from fdr.evaluation.random_rows import RandomRows
from fdr.evaluation.reference_facts import density, noise_floor, validation_fds, with_curve
from fdr.evaluation.results import moments_attributes
from fdr.features import Extraction, ExtractionOptions
from fdr.frechet import SUFFIXES, Moments, read_attributes
from fdr.images import ImageSource
from fdr.metrics import AbstractCollector, CollectedMoments, Need
from fdr.references import INDEX_NAME, INDEX_SCHEMA, NoiseFloor, check_target, moments_digest, read_index
from fdr.runtime import file_digest, propagate_failures, run_on_rank0, write_atomically

MAX_STEM = 200
"""Longest file name without suffix, in bytes. File systems allow 255, and temporary names need some more."""


@dataclass(frozen=True)
class _Measured:
    """What all encoders gave for the images."""

    moments: Mapping[str, tuple[Moments, dict[str, Any]]]
    """Moments and the attributes of their file, by encoder."""
    images: dict[str, Any]
    skipped: list[dict[str, str]]


def write_reference(
    source: ImageSource,
    encoders: Sequence[AbstractEncoder],
    folder: Path,
    *,
    name: str | None = None,
    validation: ImageSource | None = None,
    noise_floor: bool = False,
    labels: bool = False,
    file_format: str = "h5",
    options: ExtractionOptions | None = None,
) -> dict[str, Any]:
    """Compute and write moments, one file per encoder, and the index that makes the folder a reference.

    With `validation` images, their FD against the moments is stored as the exact denominator of FDr, and with
    `noise_floor` the FD between random halves of the images. With `labels` the count, mean and spread of each class are
    stored as well, which a conditional FD needs. A folder that is a reference already gains or replaces
    encoders, provided it was made from the same images. Returns the index.
    """
    name = name or folder.name

    def write(measured: _Measured) -> dict[str, Any]:
        names = {encoder.spec.name for encoder in encoders}
        kept = read_index(folder)["encoders"] if (folder / INDEX_NAME).is_file() else []
        rows = [row for row in kept if row["name"] not in names]
        for encoder in encoders:
            moments, attributes = measured.moments[encoder.spec.name]
            path = folder / _file_name(encoder, file_format, {row["file"] for row in rows})
            moments.save(path, attributes)
            rows.append({**_row(encoder, attributes), "file": path.name, "sha256": file_digest(path)})
        about = {"schema": INDEX_SCHEMA, "name": name, "images": measured.images, "skipped": measured.skipped}
        index = {**about, "encoders": rows}
        write_atomically(folder / INDEX_NAME, (json.dumps(index, indent=2) + "\n").encode())
        return index

    def check() -> None:
        check_reference_folder(folder, source)

    return _measure_and_write(_Task(source, encoders, name, validation, noise_floor, labels), options, check, write)


def write_reference_file(
    source: ImageSource,
    encoder: AbstractEncoder,
    path: Path,
    *,
    name: str | None = None,
    validation: ImageSource | None = None,
    noise_floor: bool = False,
    labels: bool = False,
    options: ExtractionOptions | None = None,
) -> dict[str, Any]:
    """Compute the moments of one encoder and write them to one .npz or .h5; returns what was written."""

    def write(measured: _Measured) -> dict[str, Any]:
        moments, attributes = measured.moments[encoder.spec.name]
        moments.save(path, attributes)
        return {
            **{"file": str(path), "sha256": file_digest(path), "digest": moments_digest(moments)},
            **{"images": measured.images, "skipped": measured.skipped, "encoder": _row(encoder, attributes)},
        }

    def check() -> None:
        check_reference_file(path, source)

    task = _Task(source, [encoder], name or path.stem, validation, noise_floor, labels)
    return _measure_and_write(task, options, check, write)


def check_reference_folder(folder: Path, source: ImageSource) -> None:
    """Raise `InputError` if `folder` is a file, holds something else, or is the reference of other images."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"Output {str(folder)!r} is a file; name a folder, or a file *.npz or *.h5.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / INDEX_NAME).is_file():
        raise InputError(f"Output folder {str(folder)!r} is not empty and holds no reference; name another folder.")
    if read_index(folder)["images"].get("digest") != source.digest:
        raise _other_images(f"Output folder {str(folder)!r}", "folder")


def check_reference_file(path: Path, source: ImageSource) -> None:
    """Raise `InputError` if `path` cannot be written, or holds something else or moments of other images."""
    check_target(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{str(path)!r} cannot become a file of moments; name it *.npz or *.h5, or name a folder.")
    if not path.exists() or path.stat().st_size == 0:
        return
    try:
        made_of = read_attributes(path).get("images_digest")
    except InputError:  # statistics of another tool
        made_of = None
    if made_of is None:
        raise InputError(f"Output {str(path)!r} is there and was not written by fdr stats; name another file.")
    if made_of != source.digest:
        raise _other_images(f"Output {str(path)!r}", "file")


def _other_images(what: str, kind: str) -> InputError:
    return InputError(
        f"{what} is the reference of other images, or of these with another crop, size or subset; name another {kind}."
    )


@dataclass(frozen=True)
class _Task:
    """What is measured, and what is computed from it."""

    source: ImageSource
    encoders: Sequence[AbstractEncoder]
    name: str
    validation: ImageSource | None
    noise_floor: bool
    has_labels: bool

    @cached_property
    def class_collector(self) -> Callable[[int | None], AbstractCollector]:
        """Collects the moments of the classes of `source`."""
        return partial(CollectedClasses, source=self.source)

    def needs(self, options: ExtractionOptions) -> Needs:
        """Of each encoder the moments, those of classes if asked for, and the features of a random part of the images
        where features are kept.
        """
        kinds: list[Callable[[int | None], AbstractCollector]] = [CollectedMoments]
        if not options.moments_only:
            kinds.append(RandomRows)
        if self.has_labels:
            kinds.append(self.class_collector)
        return {encoder.spec.name: [Need(encoder.spec.output, kind) for kind in kinds] for encoder in self.encoders}

    def validation_needs(self) -> Needs:
        """Of each encoder the moments, with their features where these are kept."""
        return {encoder.spec.name: [Need(encoder.spec.output, rows="wanted")] for encoder in self.encoders}


def _measure_and_write(
    task: _Task,
    options: ExtractionOptions | None,
    check: Callable[[], None],
    write: Callable[[_Measured], dict[str, Any]],
) -> dict[str, Any]:
    """Check the target, measure the images, and write on rank 0. Returns what `write` returns, on every rank."""
    options = options or ExtractionOptions()
    if task.noise_floor and options.moments_only:
        raise InputError("--moments-only keeps no features, which --noise-floor needs; leave out one of the two.")
    if task.has_labels and options.moments_only:
        raise InputError("--moments-only sums all features alone, so it has no --labels; leave out one of the two.")
    if task.has_labels:
        check_has_classes(task.source)
    sources = [task.source] if task.validation is None else [task.source, task.validation]
    with propagate_failures(options.group):
        for images in sources:
            images.find_digest(options.group, options.progress)
        check()
        passes = [Extraction(images, task.encoders, None, options) for images in sources]
        needs = [task.needs(options), task.validation_needs()]
        measured = [measure(one, wanted) for one, wanted in zip(passes, needs, strict=False)]
        return run_on_rank0(options.group, lambda: write(_summary(task, passes[0], *measured)))


def _summary(
    task: _Task, extraction: Extraction, measured: Measurement | None, validation: Measurement | None = None
) -> _Measured:
    """The moments of the images with their attributes, on rank 0."""
    assert measured is not None
    found = {}
    for encoder in extraction.encoders.values():
        key = encoder.spec.name, encoder.spec.output
        attributes: dict[str, Any] = moments_attributes(task.name, extraction, encoder, measured)
        attributes["created"] = datetime.now(UTC).isoformat(timespec="seconds")
        rows = measured.collected.get((encoder.spec.name, Need(encoder.spec.output, RandomRows)))
        moments = measured.moments[key]
        if rows is not None:
            moments = with_curve(moments, rows)
            attributes |= density(rows)
        if task.has_labels:
            classes = measured.collected[encoder.spec.name, Need(encoder.spec.output, task.class_collector)]
            moments = replace(moments, classes=classes)
            attributes["labels_from"] = extraction.source.labels_from or ""
        if task.noise_floor:
            assert rows is not None
            seed, progress = extraction.source.options.seed, extraction.options.progress
            attributes |= noise_floor(rows, seed, progress, encoder.spec.name).attributes
        if validation is not None:
            attributes |= validation_fds(validation.moments[key], moments)
        found[encoder.spec.name] = moments, attributes
    source, sized = extraction.source, extraction.preprocessing
    images = {
        "source": source.name,
        "digest": source.digest,
        "count": measured.count,
        "policy": dict(source.policy),
        **({"left_out": source.left_out} if source.left_out else {}),
        **({} if sized is None else sized.attributes()),
        **(_classes_of(found) if task.has_labels else {}),
    }
    return _Measured(found, images, measured.skipped)


def _classes_of(found: Mapping[str, tuple[Moments, dict[str, Any]]]) -> dict[str, Any]:
    """The number of classes and where they come from, which are those of every encoder."""
    moments, attributes = next(iter(found.values()))
    assert moments.classes is not None
    return {"classes": len(moments.classes.names), "labels_from": attributes["labels_from"]}


def _file_name(encoder: AbstractEncoder, file_format: str, taken: Collection[str]) -> str:
    """A file name made of the name of the encoder; it gets the spec hash if it is long or taken."""
    stem = re.sub(r"[/\\:\0]", "-", encoder.spec.name)
    if len(stem.encode(errors="replace")) > MAX_STEM or f"{stem}.{file_format}" in taken:
        stem = f"{stem[: MAX_STEM // 4]}-{encoder.spec.hash}"
    return f"{stem}.{file_format}"


def _row(encoder: AbstractEncoder, attributes: Mapping[str, Any]) -> dict[str, Any]:
    validated = {key: value for key, value in attributes.items() if key.startswith("val_")}
    floor = NoiseFloor.of(attributes)
    more = {} if floor is None else {"noise_floor": asdict(floor)}
    return {"name": encoder.spec.name, "spec_hash": encoder.spec.hash, **validated, **more}
