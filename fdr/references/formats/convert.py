"""Converts a statistics file to the layout of another tool."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from fdr.encoders import find_row
from fdr.errors import InputError, unknown
from fdr.frechet import Moments
from fdr.references.formats.base import Content, Entry, StatisticsFile, Writer
from fdr.references.formats.checks import check_moments
from fdr.references.formats.recognise import check_target, open_statistics, writers
from fdr.references.index import indexed_file, read_index, reference_folder
from fdr.references.noise_floor import NoiseFloor
from fdr.runtime import Progress


@dataclass(frozen=True)
class ConvertOptions:
    """What to take from the source and how to write it."""

    to: str | None = None
    """The layout, one of `LAYOUTS`; None decides by the suffix of the target."""
    entry: str | None = None
    """The entry to take; None if the source leaves no choice."""
    encoder: str | None = None
    """The encoder of the moments, for sources that do not name it."""
    count: int | None = None
    """The number of images, for sources that do not state it."""
    keep_images: bool = False
    """Copy the images of an ADM file into the ADM file."""


@dataclass(frozen=True)
class Conversion:
    """What was read, and how it is written."""

    source: str
    target: str
    from_format: str
    to_format: str
    entries: tuple[str, ...]
    dim: int
    count: int | None
    encoder: str | None
    doubts: tuple[str, ...]
    """Sentences about problems with the moments, for the user."""
    lost: str | None
    """A sentence about what the source holds beside mu and sigma and the target cannot; None if nothing is lost."""


def convert(
    source: Path,
    target: Path,
    options: ConvertOptions = ConvertOptions(),
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Read `source`, check it, and write it to `target`; `dry_run` does everything but write.

    float64 moments keep every bit. Raises `InputError` for a source that is not statistics, for invalid moments, and
    for a target that cannot hold them.
    """
    to, writer = _layout(target, options.to)
    if source.exists() and target.exists() and source.samefile(target):
        raise InputError(f"{str(source)!r} cannot be converted onto itself; name another file.")
    check_target(target)
    file = open_statistics(_file_in(source, options.encoder))
    file.progress = progress or file.progress
    entry = _main_entry(file, options)
    if writer.needs_rows and entry.kind != "features":
        raise InputError(f"{to} holds features, and {str(file.path)!r} has only moments; they cannot be turned back.")
    if options.keep_images and not writer.keeps_images:
        raise InputError(f"--keep-images goes with --to adm; {to} holds no images.")
    entries = {"main": entry, **_companions(file, entry, writer)}
    content = _content(file, entries, options)
    writer.check(content)
    doubts = dict.fromkeys(text for moments in content.moments.values() for text in check_moments(moments, str(source)))
    if not dry_run:
        writer.write(target, content)
    return Conversion(
        str(source),
        str(target),
        file.format,
        to,
        tuple(entry.name for entry in entries.values()),
        entry.dim,
        content.main.count,
        content.encoder,
        tuple(doubts),
        None if writer.keeps_provenance else _lost(to, content.main),
    )


def _lost(to: str, moments: Moments) -> str | None:
    parts = {
        "leverage curve": moments.curve is not None,
        "debiased validation FD": "val_fd_debiased" in moments.attributes,
        "noise floor": NoiseFloor.of(moments.attributes) is not None,
        "moments of classes": moments.classes is not None,
    }
    held = [name for name, is_there in parts.items() if is_there]
    if not held:
        return None
    listed = ", ".join(held[:-1]) + (" and " if len(held) > 1 else "") + held[-1]
    lost = f"{to} has no place for the {listed} of the source; against this file "
    if moments.classes is None:
        effect = "the debiased FD treats the reference as Gaussian, or as exact where the count is lost too."
    else:
        effect = "there is no conditional FD, and the debiased FD treats the reference as Gaussian or exact."
    return lost + effect


def _layout(target: Path, to: str | None) -> tuple[str, Writer]:
    """The name of the layout to write, and its writer."""
    known = writers()
    fitting = [name for name, writer in known.items() if target.suffix.lower() in writer.suffixes]
    if to is None and not fitting:
        raise InputError(f"Cannot tell the format of {str(target)!r} from its suffix; say --to {', '.join(known)}.")
    to = to or fitting[0]
    if to not in known:
        raise unknown("format", to, known)
    return to, known[to]


def _file_in(source: Path, encoder: str | None) -> Path:
    """The file to convert. In a folder that `fdr stats` wrote it is the file of `encoder`, or the only file."""
    folder = reference_folder(source)
    if folder is None:
        return source
    rows = [row for row in read_index(folder)["encoders"] if encoder in (None, row["name"])]
    if len(rows) == 1:
        return indexed_file(folder, rows[0])
    names = ", ".join(row["name"] for row in read_index(folder)["encoders"])
    raise InputError(f"Reference {str(folder)!r} has moments of {names}; take one with --encoder NAME.")


def _main_entry(file: StatisticsFile, options: ConvertOptions) -> Entry:
    if options.entry is not None:
        return file.entry(options.entry)
    if options.encoder is not None and len(file.entries) > 1:
        row = find_row(options.encoder)
        return file.select(options.encoder, None if row is None else row.width)
    candidates = [entry for entry in file.entries if entry.output is None]
    if len(candidates) == 1:
        return candidates[0]
    listed = ", ".join(map(str, file.entries[:12]))
    raise InputError(f"{str(file.path)!r} holds {len(file.entries)} entries ({listed}); take one with --entry NAME.")


def _companions(file: StatisticsFile, main: Entry, writer: Writer) -> dict[str, Entry]:
    """Entries by role with other outputs of the same images: "mu_s" for "mu", "NAME/avg_mu" for "NAME"."""
    if main.output is not None:
        return {}
    prefix = "" if main.name in ("mu", "ref_mu") else main.name + "/"
    near = [entry for entry in file.entries if entry.name.startswith(prefix)]
    return {role: entry for role in writer.roles[1:] for entry in near if entry.output == role}


def _content(file: StatisticsFile, entries: dict[str, Entry], options: ConvertOptions) -> Content:
    main = entries["main"]
    encoder = _encoder(file, main, options)
    moments = {role: file.load(entry).with_count(options.count) for role, entry in entries.items()}
    known = encoder or moments["main"].attributes.get("encoder")
    content = Content(moments, None if known is None else str(known))
    if options.keep_images:
        if file.images is None:
            raise InputError(f"{str(file.path)!r} holds no images (arr_0) to keep; leave out --keep-images.")
        content = replace(content, images=(file.path, file.images))
    if main.kind == "features":
        content = replace(content, rows=partial(file.rows, main), rows_dtype=np.dtype(main.dtype))
    return content


def _encoder(file: StatisticsFile, entry: Entry, options: ConvertOptions) -> str | None:
    """The encoder that the user or else the file names. Raises `InputError` if its width differs."""
    if options.encoder is None:
        return entry.encoders[0] if entry.encoders else None
    row = find_row(options.encoder)
    if row is not None and row.width != entry.dim and entry.output is None:
        raise InputError(
            f"{str(file.path)!r} holds {entry.dim}-d moments under {entry.name!r}, but {options.encoder} gives "
            f"{row.width}-d features; they are not of it."
        )
    return options.encoder
