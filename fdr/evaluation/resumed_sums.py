"""`--moments-only`: saves running sums instead of features, so that a run that was killed can go on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from fdr.features import BadRow, Extraction, FeatureBlock, RunningSums, Span, own_path, resume, sums_files
from fdr.frechet import Sums
from fdr.images import BadImage

SAVE_INTERVAL = 60.0
"""Seconds between two saves. A longer interval writes less and loses more work when the run is killed."""


class ResumableSums:
    """Saves the sums of a pass on every rank, and makes the pass skip the shards that earlier runs have summed.

    `sums` are the sums of the pass by (encoder, output).
    """

    def __init__(self, extraction: Extraction, sums: Mapping[tuple[str, str], Sums]) -> None:
        self._extraction = extraction
        self._group = extraction.group
        entries = {
            name: entry
            for name, entry in extraction.entries.items()
            if entry is not None and any(owner == name for owner, _ in sums)
        }
        self._folders = {name: entry.folder for name, entry in entries.items()}
        self._running = {
            name: RunningSums({output: found for (owner, output), found in sums.items() if owner == name})
            for name in entries
        }
        self._replaced: dict[str, list[Path]] = {}
        self._saved: dict[str, set[Span]] = {}
        """The shards whose sums are on disk for this rank, by encoder; on rank 0 also those of earlier runs."""
        self._next = 0.0
        self.earlier_bad: list[BadImage] = []
        """The bad images in shards that earlier runs have summed."""

    def resume(self) -> None:
        """Add the sums on disk to those of rank 0, and leave their shards out of the pass. Every rank calls it."""
        for name, running in self._running.items():
            if self._group.rank == 0:
                earlier, self._replaced[name] = resume(self._folders[name], running.sums)
                running.absorb(earlier)
            self._saved[name] = set(running.spans)
            spans, bad = self._group.broadcast((running.spans, running.bad))
            self.earlier_bad += [BadImage(*row) for row in bad]
            self._extraction.plan.leave_out(name, spans)
        self._next = time.monotonic() + SAVE_INTERVAL

    def add(self, block: FeatureBlock) -> None:
        """Record that the sums now contain this block; save them if the interval has passed."""
        for name, running in self._running.items():
            if name in block.features:
                running.spans.add((block.start, block.stop))
                running.bad += [BadRow(image.row, image.id, image.reason) for image in block.bad]
        if time.monotonic() >= self._next:
            self.save()

    def save(self) -> None:
        """Write the file of this rank if there are new shards. On rank 0 it replaces the files of earlier runs."""
        for name, running in self._running.items():
            if running.spans != self._saved[name]:
                running.save(own_path(self._folders[name]), self._replaced.pop(name, ()))
                self._saved[name] = set(running.spans)
        self._next = time.monotonic() + SAVE_INTERVAL

    def finish(self) -> None:
        """Replace the files of all ranks by one. Every rank calls it, once rank 0 has the sums of all ranks."""
        for name, running in self._running.items():
            parts = self._group.gather((running.spans, running.bad))
            if self._group.rank == 0:
                running.spans = set().union(*(spans for spans, _ in parts))
                running.bad = sorted({row for _, bad in parts for row in bad})
                files = sums_files(self._folders[name])
                if running.spans != self._saved[name] or len(files) > 1:
                    running.save(own_path(self._folders[name]), files)
