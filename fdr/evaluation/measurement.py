"""Measures a source in one pass: what metrics need of every encoder's features, from the cache if possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fdr.errors import InputError, RunError
from fdr.evaluation.labels import good_labels, labelled
from fdr.evaluation.resumed_sums import ResumableSums
from fdr.features import Extraction
from fdr.frechet import Moments
from fdr.images import BadImage, ImageSource
from fdr.metrics import AbstractCollector, CollectedFeatures, CollectedMoments, KeptRows, Need
from fdr.runtime import memory_for

Needs = Mapping[str, Sequence[Need]]
"""What is collected of each encoder, by its name."""
Key = tuple[str, Need]
"""(encoder, need)"""
Features = tuple[str, str]
"""(encoder, output)"""


@dataclass(frozen=True)
class Measurement:
    """The results of one source."""

    collected: Mapping[Key, Any]
    """What was collected for each need: `Moments`, features [count, D], or what the collector of a metric gives."""
    count: int
    """Number of images that were measured; bad ones are not counted."""
    bad: Sequence[BadImage]
    failures: Mapping[Key, InputError | RunError] = field(default_factory=dict)
    """Why something that was needed could not be collected; only with `keeps_going`."""
    labels: np.ndarray | None = None
    """The class of each measured image, int64 [count]; None if the source has no labels."""

    def of(self, encoder: str, need: Need) -> Any:
        """What was collected for a need. Raises the error if that failed."""
        if (encoder, need) in self.failures:
            raise self.failures[encoder, need]
        return self.collected[encoder, need]

    @property
    def moments(self) -> dict[tuple[str, str], Moments]:
        """The collected moments by (encoder, output)."""
        return {(name, need.output): found for (name, need), found in self.collected.items() if need.is_moments}

    @property
    def skipped(self) -> list[dict[str, str]]:
        """The bad images as reports and references list them."""
        return [{"id": image.id, "reason": image.reason} for image in self.bad]


def outputs_of(needs: Needs) -> dict[str, tuple[str, ...]]:
    """The outputs that each encoder must compute."""
    return {name: tuple(dict.fromkeys(need.output for need in wanted)) for name, wanted in needs.items()}


@memory_for(
    "the sums of the features, or for precision and recall the features themselves",
    "measure fewer images (--count) or fewer metrics at once (--metrics)",
)
def measure(extraction: Extraction, needs: Needs | None = None, *, keeps_going: bool = False) -> Measurement | None:
    """Collect what `needs` names, by default the moments of every main output. Returns None on ranks other than 0.

    The extraction must keep all outputs of `needs`. Moments that the cache holds for exactly these features are taken
    from it, and features are then read only where something else needs them. With `keeps_going`, a need that cannot be
    met (too few images for it) goes into `failures`, unless none can be met. Raises `InputError` below two images.
    """
    if needs is None:
        needs = {name: [Need(encoder.spec.output)] for name, encoder in extraction.encoders.items()}
    parts = _parts(needs, extraction.options.moments_only)
    measured = _measure(extraction, parts, _Attempts(keeps_going))
    return None if measured is None else _joined(needs, measured, extraction.source)


def kept_outputs(needs: Needs) -> dict[str, tuple[str, ...]]:
    """The outputs of each encoder whose features must be kept, because their moments are not enough."""
    parts = _parts(needs, moments_only=False)
    kept = {name: [need for need in wanted if not need.is_moments] for name, wanted in parts.items()}
    return outputs_of(kept)


def measurement_of(
    source: ImageSource, needs: Needs, moments: Mapping[Features, Moments], features: Mapping[Features, np.ndarray]
) -> Measurement:
    """The measurement of `source`, as `measure` gives it, from what was collected elsewhere by (encoder, output).

    `features` [N, D] are those of `kept_outputs` at least; `moments` those of the other outputs. Raises `InputError` if
    no need can be met.
    """
    attempts = _Attempts(keeps_going=True)

    def collected(key: Key) -> Any:
        name, need = key
        rows = features.get((name, need.output))
        if rows is None:
            return moments[name, need.output]
        collector = need.collector(len(rows))
        collector.add(np.arange(len(rows)), rows)
        return collector.finish()

    keys = [(name, need) for name, wanted in _parts(needs, moments_only=False).items() for need in wanted]
    found = attempts.of(keys, collected)
    if not found:
        attempts.give_up()
    return _joined(needs, Measurement(found, len(source), [], attempts.failures), source)


def _parts(needs: Needs, moments_only: bool) -> Needs:
    """What is collected for the needs: moments with rows are moments, and features.

    Features that another metric collects anyway are the rows as well, and `moments_only` leaves out rows that are only
    wanted.
    """
    found: dict[str, list[Need]] = {}
    for name, wanted in needs.items():
        parts = dict.fromkeys(need.plain for need in wanted)
        for need in wanted:
            is_kept = need.rows == "needed" or (need.rows == "wanted" and not moments_only)
            if is_kept and Need(need.output, CollectedFeatures) not in parts:
                parts[Need(need.output, KeptRows)] = None
        found[name] = list(parts)
    return found


def _joined(needs: Needs, measured: Measurement, source: ImageSource) -> Measurement:
    """What each need asked for, with rows and labels. All moments of one output are one object."""
    found: dict[Key, Any] = {}
    failures = dict(measured.failures)
    complete: dict[tuple[str, str], Moments] = {}
    for name, need in ((name, need) for name, wanted in needs.items() for need in wanted):
        if (name, need.plain) in failures:
            failures[name, need] = failures[name, need.plain]
            continue
        item = measured.collected[name, need.plain]
        if need.is_moments:
            item = complete.setdefault((name, need.output), _with_rows(item, name, need, measured))
        found[name, need] = labelled(item, source, measured.bad) if need.has_labels else item
    labels = good_labels(source, measured.bad)
    return replace(measured, collected=found, failures=failures, labels=labels)


def _with_rows(moments: Moments, name: str, need: Need, measured: Measurement) -> Moments:
    """The moments with the features that were kept of the same output, if any were."""
    kinds = (Need(need.output, collector) for collector in (CollectedFeatures, KeptRows))
    rows = next((measured.collected[name, kind] for kind in kinds if (name, kind) in measured.collected), None)
    return moments if rows is None else replace(moments, rows=rows)


def _measure(extraction: Extraction, needs: Needs, attempts: _Attempts) -> Measurement | None:
    """`measure` for needs that are collected as they are."""
    group = extraction.group
    stored = _stored_moments(extraction, needs) if group.rank == 0 else {}
    known = set(group.broadcast([(name, need.output) for name, need in stored]))
    wanted = [(name, need) for name, several in needs.items() for need in several]
    missing = [(name, need) for name, need in wanted if not (need.is_moments and (name, need.output) in known)]
    collectors = attempts.of(missing, lambda key: key[1].collector(extraction.num_rows))
    if not collectors and not known:
        attempts.give_up()
    resumable = _resumable_sums(extraction, collectors)
    if known and not collectors:
        return _stored_measurement(extraction, stored, attempts) if group.rank == 0 else None
    count = 0
    for block in extraction:
        count += len(block.rows)
        for (name, need), collector in collectors.items():
            if name in block.features:
                collector.add(block.rows, block.features[name][need.output])
        if resumable is not None:
            resumable.add(block)
    bad = _all_bad(extraction, [] if resumable is None else resumable.earlier_bad)
    count = count if extraction.num_rows is None else extraction.num_rows - len(bad)
    if count < 2:
        raise InputError(f"{extraction.source.name} gave {count} image(s); a covariance needs at least 2.")
    if resumable is not None and group.size > 1:
        resumable.save()  # so that nothing is lost if another rank fails now
    for collector in collectors.values():
        group.combine(collector)
    if resumable is not None:
        resumable.finish()
    if group.rank > 0:
        return None
    collected = attempts.of(list(collectors), lambda key: collectors[key].finish())
    for (name, need), found in collected.items():
        entry = extraction.entries[name]
        if need.is_moments and entry is not None and not entry.missing():
            entry.save_moments(need.output, found)
    return Measurement({**stored, **collected}, count, bad, attempts.failures)


class _Attempts:
    """Does something for each of several keys. With `keeps_going` it notes the failures and does the rest."""

    def __init__(self, keeps_going: bool) -> None:
        self._keeps_going = keeps_going
        self.failures: dict[Key, InputError | RunError] = {}

    def of(self, keys: Sequence[Key], attempt: Callable[[Key], Any]) -> dict[Key, Any]:
        """What `attempt` returns, for each key for which it does not fail."""
        found = {}
        for key in keys:
            try:
                found[key] = attempt(key)
            except (InputError, RunError) as error:
                if not self._keeps_going:
                    raise
                self.failures[key] = error
        return found

    def give_up(self) -> None:
        """Raise the first failure, if there is one."""
        for error in self.failures.values():
            raise error


def _stored_moments(extraction: Extraction, needs: Needs) -> dict[Key, Moments]:
    """The moments that the cache holds, if it holds all features."""
    if not extraction.is_complete:
        return {}
    found = {}
    for name, wanted in needs.items():
        entry = extraction.entries[name]
        for need in wanted:
            moments = entry.load_moments(need.output) if need.is_moments and entry is not None else None
            if moments is not None:
                found[name, need] = moments
    return found


def _stored_measurement(extraction: Extraction, stored: Mapping[Key, Moments], attempts: _Attempts) -> Measurement:
    """The measurement if everything is stored, so that no block is read."""
    entry = next(entry for entry in extraction.entries.values() if entry is not None)
    bad = [BadImage(*image) for image in entry.bad]
    extraction.source.check_bad(bad, len(extraction.source))
    return Measurement(stored, entry.count, bad, attempts.failures)


def _resumable_sums(extraction: Extraction, collectors: Mapping[Key, AbstractCollector]) -> ResumableSums | None:
    """The sums of `--moments-only`, with what earlier runs have summed; None without that option."""
    if not extraction.options.moments_only:
        return None
    sums = {}
    for (name, need), collector in collectors.items():
        if not isinstance(collector, CollectedMoments):
            raise InputError(
                "--moments-only keeps no features, so it gives FD and FDr only; leave out --moments-only or the other "
                "metrics."
            )
        sums[name, need.output] = collector.sums
    resumable = ResumableSums(extraction, sums)
    resumable.resume()
    return resumable


def _all_bad(extraction: Extraction, earlier: Sequence[BadImage]) -> list[BadImage]:
    """The bad images of all ranks, including those in shards that an earlier run has summed."""
    bad = {image.row: image for image in (*extraction.bad, *earlier)}
    if earlier:
        extraction.source.check_bad(list(bad.values()), len(extraction.source))
    return [bad[row] for row in sorted(bad)]
