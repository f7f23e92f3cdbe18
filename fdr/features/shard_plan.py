"""Which shards of a pass this rank computes and which it reads: the one place where ranks divide the images."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from fdr.features.cache.entry import FeatureCache
from fdr.runtime import Group, part_of

Span = tuple[int, int]


class ShardTask(NamedTuple):
    """One shard, and the encoders whose features of it must be computed."""

    start: int
    stop: int
    names: tuple[str, ...]


class ShardPlan:
    """The shards of a pass over `num_rows` images (None: unknown) for the encoders in `entries`.

    `entries` maps an encoder to its cache entry, or to None if its features are not cached.
    """

    def __init__(
        self, num_rows: int | None, shard_size: int, entries: Mapping[str, FeatureCache | None], group: Group
    ) -> None:
        self.num_rows = num_rows
        self.shard_size = shard_size
        self._entries = entries
        self._group = group
        self._left_out: dict[str, set[Span]] = {name: set() for name in entries}

    def leave_out(self, name: str, spans: Collection[Span]) -> None:
        """Skip these shards for the encoder `name`: its features are neither computed nor read."""
        self._left_out[name] = set(spans)

    def is_wanted(self, name: str, span: Span) -> bool:
        """True unless the encoder `name` skips the shard."""
        return span not in self._left_out[name]

    def skipped(self) -> set[Span]:
        """The shards that every encoder skips."""
        return set.intersection(*self._left_out.values())

    def spans(self) -> Iterator[Span]:
        """(start, stop) of all shards; without end if the number of images is unknown."""
        size = self.shard_size
        if self.num_rows is None:
            yield from ((start, start + size) for start in itertools.count(0, size))
        else:
            yield from ((start, min(start + size, self.num_rows)) for start in range(0, self.num_rows, size))

    def runs(self) -> Iterator[tuple[bool, Iterator[ShardTask]]]:
        """The shards of this rank, in row order, as runs of consecutive shards that are all computed or all read.

        Yields (True, shards to compute) or (False, shards to read).
        """
        if self.num_rows is None:  # images of unknown number are never cached
            yield True, (ShardTask(start, stop, tuple(self._entries)) for start, stop in self.spans())
            return
        numbered = enumerate(ShardTask(*span, self._missing(span)) for span in self._own_spans())
        for (is_missing, _), run in itertools.groupby(numbered, key=self._run_of):
            yield is_missing, (task for _, task in run)

    def _run_of(self, numbered: tuple[int, ShardTask]) -> tuple[bool, int]:
        """The same value for neighbours in one run: along consecutive shards, start - number * size is constant."""
        number, task = numbered
        return bool(task.names), task.start - number * self.shard_size

    def _own_spans(self) -> list[Span]:
        """The shards of this rank: a contiguous part of those to compute, and a contiguous part of those to read.

        Rank 0 decides which shards must be computed, because a rank sees the shards of the others with a delay.
        """
        needed = sorted(set(self.spans()) - self.skipped())
        if self._group.size == 1:
            return needed
        absent = {name: needed if entry is None else entry.missing() for name, entry in self._entries.items()}
        wanted = {span for name, spans in absent.items() for span in spans if self.is_wanted(name, span)}
        to_compute = self._group.broadcast(sorted(wanted.intersection(needed)))
        to_read = sorted(set(needed) - set(to_compute))
        return [*part_of(self._group, to_compute), *part_of(self._group, to_read)]

    def _missing(self, span: Span) -> tuple[str, ...]:
        """The encoders whose features of a shard must be computed."""
        return tuple(
            name
            for name, entry in self._entries.items()
            if self.is_wanted(name, span) and (entry is None or not entry.has(*span))
        )
