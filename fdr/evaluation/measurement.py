"""Measures a source in one pass: moments, features and stream metrics of every encoder, from the cache if possible."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fdr.errors import InputError
from fdr.evaluation.resumed_sums import ResumableSums
from fdr.features import Extraction, FeatureBlock
from fdr.frechet import Moments, Sums
from fdr.images import BadImage
from fdr.metrics import AbstractStream, AbstractStreamMetric, Score
from fdr.runtime import Combinable, memory_for

Key = tuple[str, str]
"""(encoder, output)"""


@dataclass(frozen=True)
class Requested:
    """What an evaluation needs from one encoder."""

    moments: tuple[str, ...] = ()
    """Outputs whose moments are needed."""
    features: tuple[str, ...] = ()
    """Outputs whose features are needed; all of them are held in memory."""
    streams: tuple[AbstractStreamMetric, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """All outputs that the encoder must compute."""
        return tuple(dict.fromkeys((*self.moments, *self.features, *(metric.output for metric in self.streams))))


@dataclass(frozen=True)
class Measurement:
    """The results of one source."""

    moments: Mapping[Key, Moments]
    scores: Mapping[tuple[str, str], Score]
    """By (metric name, encoder name)."""
    count: int
    """Number of images that were measured; bad ones are not counted."""
    bad: Sequence[BadImage]
    features: Mapping[Key, np.ndarray] = field(default_factory=dict)
    """float32 [count, D]"""


@memory_for(
    "the sums of the features, or for precision and recall the features themselves",
    "measure fewer images (--count) or fewer metrics at once (--metrics)",
)
def measure(extraction: Extraction, requested: Mapping[str, Requested] | None = None) -> Measurement:
    """Measure what `requested` names for each encoder; by default the moments of every main output.

    The extraction must keep all requested outputs. Moments that the cache holds for exactly these features are taken
    from it, and features are then read only where something else needs them. Raises `InputError` below two images.
    """
    if requested is None:
        requested = {name: Requested((encoder.spec.output,)) for name, encoder in extraction.encoders.items()}
    group = extraction.group
    stored = _stored_moments(extraction, requested) if group.rank == 0 else {}
    known = group.broadcast(sorted(stored))
    taken = _Pass(extraction, requested, known)
    if known and taken.is_idle:
        entries = [entry for entry in extraction.entries.values() if entry is not None]
        bad = [BadImage(*image) for image in entries[0].bad]
        extraction.source.check_bad(bad, len(extraction.source))
        return Measurement(stored, {}, entries[0].count, bad)
    for block in extraction:
        taken.add(block)
    bad = taken.all_bad()
    count = taken.count if extraction.num_rows is None else extraction.num_rows - len(bad)
    if count < 2:
        raise InputError(f"{extraction.source.name} gave {count} image(s); a covariance needs at least 2.")
    taken.combine()
    if group.rank > 0:
        return Measurement({}, {}, count, bad)
    computed = {key: Moments.from_sums(sums) for key, sums in taken.sums.items()}
    for (name, output), moments in computed.items():
        entry = extraction.entries[name]
        if entry is not None and not entry.missing():
            entry.save_moments(output, moments)
    scores = {key: stream.score() for key, (_, stream) in taken.streams.items()}
    features = {key: rows.finish() for key, rows in taken.rows.items()}
    return Measurement({**stored, **computed}, scores, count, bad, features)


class _Pass:
    """The sums, features and streams that a pass over the blocks of an extraction fills."""

    def __init__(self, extraction: Extraction, requested: Mapping[str, Requested], stored: Collection[Key]) -> None:
        self._extraction = extraction
        wanted = {(name, output) for name, request in requested.items() for output in request.moments}
        self.sums = {key: Sums(None) for key in sorted(wanted - set(stored))}
        self.rows = {
            (name, output): _Rows(extraction.num_rows)
            for name, request in requested.items()
            for output in request.features
        }
        self.streams = {
            (metric.name, name): (metric.output, _stream(extraction, metric))
            for name, request in requested.items()
            for metric in request.streams
        }
        self.count = 0
        if extraction.options.moments_only and (self.rows or self.streams):
            raise InputError(
                "--moments-only keeps no features, so it gives FD and FDr only; leave out --moments-only or the other "
                "metrics."
            )
        self._resumable = ResumableSums(extraction, self.sums) if extraction.options.moments_only else None

    @property
    def is_idle(self) -> bool:
        """True if the blocks are not needed, because everything requested is stored."""
        return not (self.sums or self.rows or self.streams)

    def add(self, block: FeatureBlock) -> None:
        self.count += len(block.rows)
        for (name, output), sums in self.sums.items():
            if name in block.features:
                sums.add(block.features[name][output])
        for (name, output), rows in self.rows.items():
            rows.add(block.rows, block.features[name][output])
        for (_, name), (output, stream) in self.streams.items():
            stream.update(block.rows, block.features[name][output])
        if self._resumable is not None:
            self._resumable.add(block)

    def all_bad(self) -> list[BadImage]:
        """The bad images of all ranks, including those in shards that an earlier run has summed."""
        earlier = [] if self._resumable is None else self._resumable.earlier_bad
        bad = {image.row: image for image in (*self._extraction.bad, *earlier)}
        if earlier:
            self._extraction.source.check_bad(list(bad.values()), len(self._extraction.source))
        return [bad[row] for row in sorted(bad)]

    def combine(self) -> None:
        """Combine the sums, features and streams of all ranks on rank 0."""
        if (
            self._resumable is not None and self._extraction.group.size > 1
        ):  # so that a rank that fails now loses nothing
            self._resumable.save()
        accumulated: list[Combinable] = [
            *self.sums.values(),
            *self.rows.values(),
            *(stream for _, stream in self.streams.values()),
        ]
        for item in accumulated:
            self._extraction.group.combine(item)
        if self._resumable is not None:
            self._resumable.finish()


class _Rows:
    """Collects features in the order of their images.

    If the number of images is known, they go into one array, which is allocated when the first features arrive.
    """

    def __init__(self, num_rows: int | None) -> None:
        self._num_rows = num_rows
        self._array: np.ndarray | None = None
        self._is_there = np.zeros(num_rows or 0, dtype=bool)
        self._parts: list[np.ndarray] = []

    def add(self, rows: np.ndarray, features: np.ndarray) -> None:
        if self._num_rows is None:
            self._parts.append(features)
            return
        if self._array is None:
            self._array = np.empty((self._num_rows, features.shape[1]), np.float32)
        self._array[rows] = features
        self._is_there[rows] = True

    def state(self) -> list[np.ndarray]:
        """What this rank sends to rank 0, for `absorb`."""
        return [] if self._array is None else [np.flatnonzero(self._is_there), self.finish()]

    def absorb(self, state: list[np.ndarray]) -> None:
        """Add the features of another rank."""
        if state:
            self.add(*state)

    def finish(self) -> np.ndarray:
        """All features, float32 [N, D], without rows for bad images."""
        if self._array is None:
            return np.concatenate(self._parts)
        return self._array if self._is_there.all() else self._array[self._is_there]


def _stored_moments(extraction: Extraction, requested: Mapping[str, Requested]) -> dict[Key, Moments]:
    if not extraction.is_complete:
        return {}
    found = {}
    for name, entry in extraction.entries.items():
        for output in requested[name].moments if entry is not None and name in requested else ():
            moments = entry.load_moments(output) if entry is not None else None
            if moments is not None:
                found[name, output] = moments
    return found


def _stream(extraction: Extraction, metric: AbstractStreamMetric) -> AbstractStream:
    if extraction.num_rows is None:
        raise InputError(
            f"Metric {metric.name!r} needs to know the number of images beforehand; give a list, array, Dataset or "
            f"path instead of {extraction.source.name}."
        )
    return metric.stream(extraction.num_rows)
