"""The base class of all statistics formats, and `Entry`, one set of moments or features in a file."""

from __future__ import annotations

import fnmatch
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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


class StatisticsFile(ABC):
    """An open statistics file. Its entries are known; matrices are read on demand if the format allows it."""

    format: str
    """"npz", "adm", "edm2", ...: see docs/references.md."""
    path: Path
    entries: tuple[Entry, ...]
    progress: Progress = SilentProgress()
    """Reports how many rows of features have been read."""

    @abstractmethod
    def _load(self, entry: Entry) -> Moments:
        """The moments of `entry`."""

    def rows(self, entry: Entry) -> Iterator[np.ndarray]:
        """The features of an entry of kind "features", in blocks [n, D]."""
        raise InputError(f"{str(self.path)!r} holds moments under {entry.name!r}, no features.")

    def shown_rows(self, entry: Entry) -> Iterator[np.ndarray]:
        """Like `rows`, and reports to `progress`."""
        with self.progress.task(f"{self.path.name}: {entry.name}", entry.count, "rows") as task:
            for block in self.rows(entry):
                yield block
                task.advance(len(block))

    def load(self, entry: Entry | str) -> Moments:
        """The moments of one entry, computed by blocks where it holds features.

        Raises `InputError` for an unknown entry and for arrays that are not moments.
        """
        return self._load(self.entry(entry) if isinstance(entry, str) else entry)

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


def stored_output(attributes: Mapping[str, Any]) -> str | None:
    """The output that the attributes written by fdr name; None if it is the main output or unknown."""
    output, spec = attributes.get("output"), attributes.get("spec")
    try:
        main = json.loads(spec).get("output") if isinstance(spec, str) else None
    except (ValueError, AttributeError, RecursionError):
        main = None
    return str(output) if isinstance(output, str) and main is not None and output != main else None


def stored_encoders(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """The encoder that the attributes written by fdr name, as a pattern; none if they have a more exact spec hash."""
    encoder = attributes.get("encoder")
    if not isinstance(encoder, str) or "spec_hash" in attributes:
        return ()
    return INCEPTION if encoder.partition(":")[0] == "inception" else (encoder,)
