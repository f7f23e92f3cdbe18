"""One pass over a source: the moments of every encoder, and the stream metrics, with what the cache has already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fdr._sums import Sums
from fdr.errors import InputError
from fdr.extraction import Extraction
from fdr.images import BadImage
from fdr.metrics.base import AbstractStream, AbstractStreamMetric, Score
from fdr.moments import Moments


@dataclass(frozen=True)
class Measurement:
    """What one source gave."""

    moments: Mapping[str, Moments]
    """By encoder name, of the main output."""
    scores: Mapping[tuple[str, str], Score]
    """By (metric name, encoder name)."""
    count: int
    """Images that entered; bad ones are not counted."""
    bad: Sequence[BadImage]


def measure(extraction: Extraction, streams: Mapping[str, Sequence[AbstractStreamMetric]]) -> Measurement:
    """Moments for every encoder of the extraction, and the scores of `streams[encoder]`.

    Moments that the cache holds for exactly these features are taken from it; features are then read only where a
    stream metric needs them. Raises `InputError` below two images.
    """
    stored = _stored_moments(extraction)
    running = {
        (metric.name, name): (metric.output, _stream(extraction, metric))
        for name, metrics in streams.items()
        for metric in metrics
    }
    if len(stored) == len(extraction.encoders) and not running:
        entries = [entry for entry in extraction.entries.values() if entry is not None]
        bad = [BadImage(*image) for image in entries[0].bad]
        extraction.source.check_bad(bad, len(extraction.source))
        return Measurement(stored, {}, entries[0].count, bad)
    sums = {name: Sums(None) for name in extraction.encoders if name not in stored}
    count = 0
    for block in extraction:
        count += len(block.rows)
        for name, running_sums in sums.items():
            running_sums.add(block.features[name][extraction.encoders[name].spec.output])
        for (_, name), (output, stream) in running.items():
            stream.update(block.rows, block.features[name][output])
    if count < 2:
        raise InputError(f"{extraction.source.name} gave {count} image(s); a covariance needs at least 2.")
    moments = {**stored, **{name: Moments.from_sums(running_sums) for name, running_sums in sums.items()}}
    for name in sums:
        entry = extraction.entries[name]
        if entry is not None:
            entry.save_moments(extraction.encoders[name].spec.output, moments[name])
    return Measurement(moments, {key: stream.score() for key, (_, stream) in running.items()}, count, extraction.bad)


def _stored_moments(extraction: Extraction) -> dict[str, Moments]:
    if not extraction.is_complete:
        return {}
    found = {}
    for name, entry in extraction.entries.items():
        moments = entry.load_moments(extraction.encoders[name].spec.output) if entry is not None else None
        if moments is not None:
            found[name] = moments
    return found


def _stream(extraction: Extraction, metric: AbstractStreamMetric) -> AbstractStream:
    if extraction.num_rows is None:
        raise InputError(
            f"Metric {metric.name!r} needs to know the number of images beforehand; give a list, array, Dataset or "
            f"path instead of {extraction.source.name}."
        )
    return metric.stream(extraction.num_rows)
