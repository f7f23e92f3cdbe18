"""`StatisticsFile`, what every format is read as, and `Entry`, one set of moments or features in it."""

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
"""Moments of the 2015 Inception weights, whatever the resize: each variant may be compared with them on request."""


@dataclass(frozen=True)
class Entry:
    """One set of moments or of features in a statistics file."""

    name: str
    """How `fdr convert --entry` names it; unique in the file."""
    kind: str
    """"moments", or "features" [N, D] from which moments are computed on loading."""
    dim: int
    count: int | None = None
    """Number of images, where the file tells."""
    dtype: str = "float64"
    """Of sigma, or of the features, as stored."""
    output: str | None = None
    """"spatial", "mean", ...; None: the encoder's main output."""
    encoders: tuple[str, ...] = ()
    """The encoders it is of, as patterns ("inception:*"); empty when the file does not tell."""

    def is_of(self, encoder: str) -> bool:
        """True when the file says that it is of `encoder`."""
        return any(fnmatch.fnmatchcase(encoder, pattern) for pattern in self.encoders)

    def __str__(self) -> str:
        parts = [f"{self.dim}-d", *([] if self.output is None else [self.output]), *self.encoders[:1]]
        return f"{self.name} ({', '.join(parts)})"


class StatisticsFile(ABC):
    """An opened statistics file: what it holds is known, no matrix has been read yet where the format allows it."""

    format: str
    """"npz", "adm", "edm2", ...: see docs/references.md."""
    path: Path
    entries: tuple[Entry, ...]
    progress: Progress = SilentProgress()
    """Shows how many rows of features have been read."""

    @abstractmethod
    def _load(self, entry: Entry) -> Moments:
        """The moments of `entry`."""

    def rows(self, entry: Entry) -> Iterator[np.ndarray]:
        """The features of an entry of kind "features", in blocks [n, D]."""
        raise InputError(f"{str(self.path)!r} holds moments under {entry.name!r}, no features.")

    def shown_rows(self, entry: Entry) -> Iterator[np.ndarray]:
        """`rows`, counted by `progress`."""
        with self.progress.task(f"{self.path.name}: {entry.name}", entry.count, "rows") as task:
            for block in self.rows(entry):
                yield block
                task.advance(len(block))

    def load(self, entry: Entry | str) -> Moments:
        """The moments of one entry, computed by blocks where it holds features.

        Raises `InputError` for an unknown entry and for arrays that are no moments.
        """
        return self._load(self.entry(entry) if isinstance(entry, str) else entry)

    def entry(self, name: str) -> Entry:
        """The entry of that name. Raises `InputError` with the names that there are."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise unknown(f"entry of {str(self.path)!r}", name, [entry.name for entry in self.entries])

    def select(self, encoder: str, dim: int | None = None, output: str | None = None) -> Entry:
        """The entry for an encoder: the one that says it is, else the only one of its width that says nothing.

        `output` None is the encoder's main one. Raises `InputError` that lists the entries when none or several fit.
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
    """The output that fdr's own attributes name; None when it is the main one of the encoder, or unknown."""
    output, spec = attributes.get("output"), attributes.get("spec")
    try:
        main = json.loads(spec).get("output") if isinstance(spec, str) else None
    except (ValueError, AttributeError, RecursionError):
        main = None
    return str(output) if isinstance(output, str) and main is not None and output != main else None


def stored_encoders(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """The encoders that fdr's own attributes name, as patterns; a spec hash, where there is one, tells more."""
    encoder = attributes.get("encoder")
    if not isinstance(encoder, str) or "spec_hash" in attributes:
        return ()
    return INCEPTION if encoder.partition(":")[0] == "inception" else (encoder,)
