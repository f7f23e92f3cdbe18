"""What all formats of statistics share: an open file with its entries, how a format is declared, what is written."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fdr import frechet
from fdr.errors import InputError, unknown
from fdr.frechet import Moments
from fdr.runtime import Progress, SilentProgress

INCEPTION = ("inception", "inception:*")
"""Encoders that may use moments of the 2015 Inception weights: Inception with any resize."""


@dataclass(frozen=True)
class Entry:
    """One set of moments or of features in a statistics file."""

    name: str
    """The name for `fdr convert --entry`; unique in the file."""
    kind: str
    """"moments", or "features" [N, D] from which moments are computed on loading."""
    dim: int
    count: int | None = None
    """Number of images, if the file states it."""
    dtype: str = "float64"
    """The stored type of sigma or of the features."""
    output: str | None = None
    """"spatial", "mean", ...; None means the main output of the encoder."""
    encoders: tuple[str, ...] = ()
    """The encoders that the file names for this entry, as patterns ("inception:*"); empty if it names none."""

    def is_of(self, encoder: str) -> bool:
        """True if the file names `encoder` for this entry."""
        return any(fnmatch.fnmatchcase(encoder, pattern) for pattern in self.encoders)

    def __str__(self) -> str:
        parts = [f"{self.dim}-d", *([] if self.output is None else [self.output]), *self.encoders[:1]]
        return f"{self.name} ({', '.join(parts)})"


@dataclass
class StatisticsFile:
    """An open statistics file: its entries are known, and matrices are read on demand if the format allows it."""

    path: Path
    format: str
    """"npz", "adm", "edm2", ...: see docs/references.md."""
    readers: Mapping[Entry, Callable[[], Any]]
    """How to read each entry: a function that returns `Moments`, or yields features in blocks [n, D]."""
    images: str | None = None
    """The member of the archive that holds the images themselves, if there is one."""
    progress: Progress = field(default_factory=SilentProgress)
    """Reports how many rows of features have been read."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The sets of moments and features in the file, the main one first."""
        return tuple(self.readers)

    def load(self, entry: Entry | str) -> Moments:
        """The moments of one entry, computed by blocks if the entry holds features.

        Raises `InputError` for an unknown entry and for arrays that are not moments.
        """
        entry = self.entry(entry) if isinstance(entry, str) else entry
        if entry.kind == "features":
            return Moments.from_features(self.rows(entry))
        moments: Moments = self.readers[entry]()
        return moments

    def rows(self, entry: Entry) -> Iterator[np.ndarray]:
        """The features of an entry of kind "features", in blocks [n, D]; `progress` shows how far it is."""
        if entry.kind != "features":
            raise InputError(f"{str(self.path)!r} holds moments under {entry.name!r}, no features.")
        with self.progress.task(f"{self.path.name}: {entry.name}", entry.count, "rows") as task:
            for block in self.readers[entry]():
                yield block
                task.advance(len(block))

    def entry(self, name: str) -> Entry:
        """The entry with that name. Raises `InputError` that lists the existing names."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise unknown(f"entry of {str(self.path)!r}", name, [entry.name for entry in self.entries])

    def select(self, encoder: str, dim: int | None = None, output: str | None = None) -> Entry:
        """The entry for an encoder: one that names it, else the only one of the same width that names no encoder.

        `output` None means the main output. Raises `InputError` that lists the entries when none or several fit.
        """
        candidates = [entry for entry in self.entries if entry.output == output]
        fitting = [entry for entry in candidates if entry.is_of(encoder)]
        if not fitting:
            fitting = [entry for entry in candidates if not entry.encoders]
        if len(fitting) > 1 and dim:
            fitting = [entry for entry in fitting if entry.dim == dim]
        if len(fitting) == 1:
            return fitting[0]
        listed = ", ".join(map(str, self.entries[:12]))
        what = encoder if output is None else f"the output {output!r} of {encoder}"
        if fitting:
            raise InputError(
                f"{str(self.path)!r} holds several moments that may be of {what}: {listed}; take one out with "
                "fdr convert --entry."
            )
        raise InputError(f"{str(self.path)!r} has no moments of {what}; it holds {listed}.")


@dataclass(frozen=True)
class Content:
    """What to write: moments by role, with their encoder, features and images."""

    moments: Mapping[str, Moments]
    """Moments by role: "main", "spatial", "mean"."""
    encoder: str | None = None
    """The encoder that made the moments, if known."""
    rows: Callable[[], Iterator[np.ndarray]] | None = None
    """Yields the features of the main moments in blocks, if the source holds features."""
    rows_dtype: np.dtype = field(default_factory=lambda: np.dtype(np.float32))
    images: tuple[Path, str] | None = None
    """(npz file, name of an array of images in it) to copy unchanged."""

    @property
    def main(self) -> Moments:
        """The moments of the encoder's main output."""
        return self.moments["main"]


@dataclass(frozen=True)
class Writer:
    """How `fdr convert` writes one layout."""

    write: Callable[[Path, Content], None]
    """Writes the content to the path in one step, or raises `InputError` if the layout cannot hold it."""
    note: str
    """What is written, for the table in docs/references.md."""
    suffixes: tuple[str, ...] = ()
    """File names that end so get this layout when the user names none."""
    roles: tuple[str, ...] = ("main",)
    """The roles of the moments that the layout can hold."""
    needs_rows: bool = False
    """True if the layout holds features, not moments."""
    keeps_images: bool = False
    keeps_provenance: bool = False
    """True for fdr's own layouts, which hold attributes and the leverage curve as well."""
    check: Callable[[Content], Any] = lambda content: None
    """Raises `InputError` before anything is written if the layout cannot hold the content."""


@dataclass(frozen=True)
class Format:
    """One format: how to recognise a file, how to open it, and which layouts of it can be written."""

    recognises: Callable[[bytes, Sequence[str]], bool]
    """True for files of this format, given their first bytes and, for a zip archive, the names of its members."""
    open: Callable[[Path], StatisticsFile]
    """Opens a recognised file. Raises `InputError` if it is damaged or holds no statistics."""
    is_statistics: Callable[[Path], bool] = lambda path: True
    """True if a recognised file holds statistics, for formats in which images are stored as well."""
    writers: Mapping[str, Writer] = field(default_factory=dict)
    """The layouts that can be written, by the name for `fdr convert --to`."""


def write_own(kind: str) -> Callable[[Path, Content], None]:
    """A function that writes moments with all their provenance, as fdr stores them: "npz" or "h5"."""

    def write(path: Path, content: Content) -> None:
        named = {} if content.encoder is None else {"encoder": content.encoder}
        frechet.save(path, content.main.fields(), {**content.main.attributes, **named}, kind)

    return write


def stored_spec(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The encoder spec among the attributes written by fdr; empty if there is none or it is damaged."""
    try:
        spec = json.loads(str(attributes.get("spec")))
    except (ValueError, RecursionError):
        spec = None
    return spec if isinstance(spec, dict) else {}


def stored_output(attributes: Mapping[str, Any]) -> str | None:
    """The output that the attributes written by fdr name; None if it is the main output or unknown."""
    output, main = attributes.get("output"), stored_spec(attributes).get("output")
    return output if isinstance(output, str) and main is not None and output != main else None


def stored_encoders(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """The encoder that the attributes written by fdr name, as a pattern; none if they have a more exact spec hash."""
    encoder = attributes.get("encoder")
    if not isinstance(encoder, str) or "spec_hash" in attributes:
        return ()
    return INCEPTION if encoder.partition(":")[0] == "inception" else (encoder,)
