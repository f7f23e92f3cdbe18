"""Images -> forward batches -> features, shard by shard: decoding, uploads and the network at work side by side."""

from __future__ import annotations

import contextlib
import itertools
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fdr.encoders import AbstractEncoder, AbstractRowEncoder
from fdr.errors import FdrError, InputError, RunError
from fdr.features.inputs import StagedBatch, stage
from fdr.images import BadImage, ImageSource
from fdr.runtime import Group, described, is_out_of_memory, memory_for, out_of_memory, read_ahead

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_WINDOWS_AHEAD = 2
_BATCHES_IN_FLIGHT = 4
"""Forward batches that a GPU has queued while the host stores and sums the features of earlier ones."""

ShardTask = tuple[int, int, tuple[str, ...]]
"""(start, stop, names of the encoders that need it)"""


@dataclass(frozen=True)
class ComputedShard:
    """The features of rows start..stop of the selection."""

    start: int
    stop: int
    rows: list[int]
    """Rows that decoded, ascending."""
    bad: list[BadImage]
    features: Mapping[str, Mapping[str, np.ndarray]]
    """By encoder and output: float32 [len(rows), D]."""


@dataclass(frozen=True)
class _Window:
    """One forward batch before the network: what every encoder needs of it, bad images left out."""

    rows: list[int]
    bad: list[BadImage]
    inputs: dict[str, StagedBatch]


@dataclass(frozen=True)
class _ShardEnd:
    start: int
    stop: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Flight:
    """The features of one forward batch on their way from the device."""

    name: str
    features: dict[str, Tensor]
    """On the host; filled when `landed` is reached."""
    landed: torch.cuda.Event | None
    rows: list[int]


@dataclass(frozen=True)
class _Launched:
    """A window or shard end whose forward batches have been queued, in the order of the images."""

    item: _Window | _ShardEnd
    flights: list[_Flight]


class _ShardRows:
    """The features of a shard while it grows: one array per output, made with the first batch.

    Kept by batches, small arrays would lie between the large temporaries of later forward passes, and the memory peak
    would grow with every batch.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._arrays: dict[str, dict[str, np.ndarray]] = {}

    def put(self, name: str, start: int, features: Mapping[str, np.ndarray]) -> None:
        arrays = self._arrays.setdefault(name, {})
        for output, part in features.items():
            if output not in arrays:
                arrays[output] = np.empty((self._size, *part.shape[1:]), part.dtype)
            arrays[output][start : start + len(part)] = part

    def get(self, name: str, count: int) -> dict[str, np.ndarray]:
        return {output: array[:count] for output, array in self._arrays[name].items()}


class Pipeline:
    """Several encoders over one source. An image is decoded once for all encoders that need it.

    Which images share a forward batch depends on the shard and the batch size alone.
    """

    def __init__(
        self,
        source: ImageSource,
        encoders: Mapping[str, AbstractEncoder],
        outputs: Mapping[str, tuple[str, ...]],
        *,
        batch_size: int,
        num_workers: int | None,
        group: Group,
        widths: Mapping[tuple[str, str], tuple[int, ...]] = types.MappingProxyType({}),
    ) -> None:
        """`widths` are the shapes of a row, by encoder and output, that are known already."""
        self.source = source
        self.encoders = encoders
        self.outputs = outputs
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.group = group
        self._widths: dict[tuple[str, str], tuple[int, ...]] = dict(widths)
        self._is_on_cpu = all(encoder.device.type == "cpu" for encoder in encoders.values())

    def shards(
        self, tasks: Iterator[ShardTask], shard_size: int, is_sized: bool, done: Callable[[int], None]
    ) -> Iterator[ComputedShard]:
        """Compute consecutive shards of at most `shard_size` rows; of a source that is not sized, until it ends.

        `done` is called after every batch with its number of images.
        """
        shard = _ShardRows(shard_size)
        rows: list[int] = []
        bad: list[BadImage] = []
        for launched in self._launched(tasks, is_sized):
            self.group.check_peers()
            item = launched.item
            if isinstance(item, _Window):
                for flight in launched.flights:
                    shard.put(flight.name, len(rows), self._land(flight))
                rows += item.rows
                bad += item.bad
                done(len(item.rows) + len(item.bad))
            else:
                computed = {name: shard.get(name, len(rows)) if rows else self._no_rows(name) for name in item.names}
                yield ComputedShard(item.start, item.stop, rows, bad, computed)
                shard, rows, bad = _ShardRows(shard_size), [], []

    def _launched(self, tasks: Iterator[ShardTask], is_sized: bool) -> Iterator[_Launched]:
        """Windows and shard ends, each some batches after it was queued: a GPU works on while the last is stored."""
        ahead = 0 if self._is_on_cpu else _BATCHES_IN_FLIGHT
        queue: deque[_Launched] = deque()
        for item in read_ahead(self._prepared(tasks, is_sized), _WINDOWS_AHEAD):
            inputs = item.inputs if isinstance(item, _Window) else {}
            rows = item.rows if isinstance(item, _Window) else []
            queue.append(_Launched(item, [self._launch(name, batch, rows) for name, batch in inputs.items()]))
            while len(queue) > ahead:
                yield queue.popleft()
        yield from queue

    def _prepared(self, tasks: Iterator[ShardTask], is_sized: bool) -> Iterator[_Window | _ShardEnd]:
        with memory_for(f"reading the images of {self.source.name}", "lower --batch-size or --num-workers"):
            yield from self._windows(tasks, is_sized)

    def _windows(self, tasks: Iterator[ShardTask], is_sized: bool) -> Iterator[_Window | _ShardEnd]:
        """Runs in the prefetch thread: decode, cut into forward batches at shard boundaries, preprocess."""
        shards = list(tasks) if is_sized else tasks
        stream: Iterator[tuple[int, Tensor | BadImage]] | None = None
        for start, stop, names in shards:
            if stream is None:
                last = shards[-1][1] if isinstance(shards, list) else None
                stream = self._stream(start, last)
            seen = 0
            for at in range(start, stop, self.batch_size):
                items = list(itertools.islice(stream, min(self.batch_size, stop - at)))
                seen += len(items)
                if items:
                    yield self._window(items, names)
            if seen:
                yield _ShardEnd(start, start + seen, names)
            if seen < stop - start:
                if is_sized:
                    raise RunError(f"{self.source.name} ended after {start + seen} of {len(self.source)} images.")
                return

    def _stream(self, start: int, stop: int | None) -> Iterator[tuple[int, Tensor | BadImage]]:
        for batch in self.source.batches(self.batch_size, self.num_workers, start, stop):
            merged: list[tuple[int, Any]] = [*zip(batch.rows, batch.images, strict=True)]
            merged += [(image.row, image) for image in batch.bad]
            yield from sorted(merged, key=lambda item: item[0])

    def _window(self, items: Sequence[tuple[int, Tensor | BadImage]], names: tuple[str, ...]) -> _Window:
        bad = [item for _, item in items if isinstance(item, BadImage)]
        good = [(row, item) for row, item in items if not isinstance(item, BadImage)]
        images = [image for _, image in good]
        inputs = {name: stage(self.encoders[name], images) for name in names} if images else {}
        return _Window([row for row, _ in good], bad, inputs)

    def _launch(self, name: str, batch: StagedBatch, rows: list[int]) -> _Flight:
        """Queue the forward pass and the way back of its features; on a CPU, do both."""
        with self._failures_of(name, rows):
            return self._launched_batch(name, batch, rows)

    def _launched_batch(self, name: str, batch: StagedBatch, rows: list[int]) -> _Flight:
        import torch

        encoder = self.encoders[name]
        with torch.inference_mode():
            if isinstance(encoder, AbstractRowEncoder):
                results = encoder.forward_rows(batch.inputs(), self.outputs[name], rows)
            else:
                results = encoder.forward(batch.inputs(), self.outputs[name])
            features = {output: results[output].float() for output in self.outputs[name]}
            for output, x in features.items():
                self._check_shape(name, output, tuple(x.shape), len(rows))
            if encoder.device.type != "cuda":
                return _Flight(name, {output: x.cpu() for output, x in features.items()}, None, rows)
            for output, x in features.items():
                features[output] = torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
            return _Flight(name, features, torch.cuda.current_stream(encoder.device).record_event(), rows)

    @contextlib.contextmanager
    def _failures_of(self, name: str, rows: list[int]) -> Iterator[None]:
        """Whatever an encoder raises on the batch `rows`, as a `RunError` that names both."""
        try:
            yield
        except RunError:
            raise
        except (Exception, SystemExit) as error:  # what a user's encoder raises is anything
            batch = f"a batch of {len(rows)} images (the first is {self.source.ids[rows[0]]})"
            if is_out_of_memory(error):
                advice = "lower --batch-size, or choose another --device or --dtype"
                raise out_of_memory(error, f"encoder {name!r} on {batch}", advice) from error
            reason = str(error).rstrip(".") if isinstance(error, FdrError) else described(error)
            raise RunError(f"Encoder {name!r} failed on {batch}: {reason}. What was cached stays.") from error

    def _check_shape(self, name: str, output: str, shape: tuple[int, ...], count: int) -> None:
        """One row for each image, of the width of all other batches."""
        wanted = self._widths.setdefault((name, output), shape[1:])
        if shape[:1] != (count,) or shape[1:] != wanted:
            raise InputError(
                f"it made {output!r} of shape {list(shape)} where {[count, *wanted]} is expected, one row of one width "
                "for each image"
            )

    def _land(self, flight: _Flight) -> dict[str, np.ndarray]:
        if flight.landed is not None:
            with self._failures_of(flight.name, flight.rows):  # a GPU says here what failed in the forward pass
                flight.landed.synchronize()
        arrays = {output: x.numpy() for output, x in flight.features.items()}
        for output, array in arrays.items():
            self._check_finite(flight.name, output, array, flight.rows)
        return arrays

    def _check_finite(self, name: str, output: str, array: np.ndarray, rows: list[int]) -> None:
        finite = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
        if not finite.all():
            first = rows[int(np.flatnonzero(~finite)[0])]
            label = self.source.ids[first]
            raise RunError(
                f"{name} gave non-finite {output!r} features for {int((~finite).sum())} of {len(finite)} images of a "
                f"batch (the first is {label}); check the weights, and --dtype if it is not float32."
            )

    def _no_rows(self, name: str) -> dict[str, np.ndarray]:
        """Features of a shard whose images were all bad: the widths come from a blank one."""
        import torch

        blank = torch.zeros(3, 64, 64, dtype=torch.uint8)
        flight = self._launch(name, stage(self.encoders[name], [blank]), [0])
        return {output: array[:0] for output, array in self._land(flight).items()}
