"""Images become forward batches, and these become features, shard by shard.

One thread decodes images, cuts them into forward batches, and prepares each batch for every encoder that needs it. The
caller's thread runs the networks at the same time. On a GPU several batches are queued ahead, so that the GPU computes
while the host stores and sums the features of earlier batches.
"""

from __future__ import annotations

import contextlib
import itertools
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdr.encoders import AbstractEncoder, AbstractRowEncoder
from fdr.errors import FdrError, InputError, RunError
from fdr.features.inputs import StagedBatch, stage
from fdr.features.shard_plan import ShardTask, Span
from fdr.images import IMAGE_RECORD, BadImage, ImageSource
from fdr.runtime import Group, described, is_out_of_memory, memory_for, out_of_memory, read_ahead

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_WINDOWS_AHEAD = 2
"""Forward batches that are prepared ahead; raising it takes memory and helps where the time of decoding varies."""
_BATCHES_IN_FLIGHT = 4
"""Forward batches that a GPU has queued while the host stores and sums the features of earlier ones."""


class EncoderFailure(RunError):
    """An encoder that failed in a pass; the others may do without it."""

    def __init__(self, encoder: str, text: str) -> None:
        super().__init__(text)
        self.encoder = encoder


@dataclass(frozen=True)
class ComputedShard:
    """The features of rows start..stop of the selection."""

    start: int
    stop: int
    rows: np.ndarray
    """int64 [n]: the rows that decoded, ascending."""
    bad: list[BadImage]
    features: Mapping[str, Mapping[str, np.ndarray]]
    """By encoder and output: float32 [n, D]."""
    records: np.ndarray
    """One record of dtype `IMAGE_RECORD` for each row that decoded, [n]."""


class _Decoded(NamedTuple):
    row: int
    image: Tensor
    record: np.void


@dataclass(frozen=True)
class _Window:
    """The images of one forward batch, prepared for every encoder that needs them."""

    names: tuple[str, ...]
    """The encoders that need this shard."""
    rows: list[int]
    """The rows that decoded, ascending."""
    records: np.ndarray
    bad: list[BadImage]
    inputs: dict[str, StagedBatch]
    """By encoder; empty if no image decoded."""
    ends: Span | None
    """The shard that ends with this window; None if more of it follows."""


@dataclass(frozen=True)
class _Flight:
    """The features of one forward batch on their way from the device."""

    name: str
    features: dict[str, Tensor]
    """On the host; complete when `landed` is reached."""
    landed: torch.cuda.Event | None
    rows: list[int]


class _GrowingShard:
    """A shard while its forward batches arrive.

    The features of an output lie in one array, which is allocated with the first batch. Kept by batches, small arrays
    would lie between the large temporaries of later forward passes, and the memory peak would grow with every batch.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._arrays: dict[str, dict[str, np.ndarray]] = {}
        self._records: list[np.ndarray] = []
        self.rows: list[int] = []
        self.bad: list[BadImage] = []

    def add_features(self, name: str, features: Mapping[str, np.ndarray]) -> None:
        """Add the features of a window's images under one encoder, before `add_window`."""
        arrays = self._arrays.setdefault(name, {})
        start = len(self.rows)
        for output, part in features.items():
            if output not in arrays:
                arrays[output] = np.empty((self._size, *part.shape[1:]), part.dtype)
            arrays[output][start : start + len(part)] = part

    def add_window(self, window: _Window) -> None:
        self.rows += window.rows
        self.bad += window.bad
        self._records.append(window.records)

    def finish(self, span: Span, blank: Mapping[str, Mapping[str, np.ndarray]]) -> ComputedShard:
        """The computed shard; `blank` holds the features of no image, for a shard without a good one."""
        count = len(self.rows)
        features = {
            name: {output: array[:count] for output, array in arrays.items()} for name, arrays in self._arrays.items()
        }
        rows, records = np.array(self.rows, np.int64), np.concatenate(self._records)
        return ComputedShard(*span, rows, self.bad, features or blank, records)


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
        """Compute consecutive shards of at most `shard_size` rows; if the source is not sized, until it ends.

        `done` is called after every batch with its number of images.
        """
        shard = _GrowingShard(shard_size)
        for window, flights in self._launched(tasks, is_sized):
            self.group.check_peers()
            for flight in flights:
                shard.add_features(flight.name, self._land(flight))
            shard.add_window(window)
            done(len(window.rows) + len(window.bad))
            if window.ends is not None:
                blank = {} if shard.rows else {name: self._no_rows(name) for name in window.names}
                yield shard.finish(window.ends, blank)
                shard = _GrowingShard(shard_size)

    def _launched(self, tasks: Iterator[ShardTask], is_sized: bool) -> Iterator[tuple[_Window, list[_Flight]]]:
        """Each window with its forward batches, some windows after they were queued on a GPU."""
        ahead = 0 if self._is_on_cpu else _BATCHES_IN_FLIGHT
        queue: deque[tuple[_Window, list[_Flight]]] = deque()
        for window in read_ahead(self._prepared(tasks, is_sized), _WINDOWS_AHEAD):
            flights = [self._launch(name, batch, window.rows) for name, batch in window.inputs.items()]
            queue.append((window, flights))
            while len(queue) > ahead:
                yield queue.popleft()
        yield from queue

    # The thread that prepares forward batches

    def _prepared(self, tasks: Iterator[ShardTask], is_sized: bool) -> Iterator[_Window]:
        with memory_for(f"reading the images of {self.source.name}", "lower --batch-size or --num-workers"):
            yield from self._windows(tasks, is_sized)

    def _windows(self, tasks: Iterator[ShardTask], is_sized: bool) -> Iterator[_Window]:
        """The forward batches of consecutive shards: no batch holds images of two shards."""
        shards = list(tasks) if is_sized else tasks
        last = shards[-1].stop if isinstance(shards, list) else None
        images: Iterator[_Decoded | BadImage] | None = None
        for start, stop, names in shards:
            images = images or self._images(start, last)
            for at in range(start, stop, self.batch_size):
                wanted = min(self.batch_size, stop - at)
                items = list(itertools.islice(images, wanted))
                end, is_over = at + len(items), len(items) < wanted
                if is_over and is_sized:
                    raise RunError(f"{self.source.name} ended after {end} of {len(self.source)} images.")
                if end > start:
                    yield self._window(items, names, (start, end) if is_over or end == stop else None)
                if is_over:
                    return

    def _images(self, start: int, stop: int | None) -> Iterator[_Decoded | BadImage]:
        """The images of rows start..stop, decoded or bad, in row order."""
        for batch in self.source.batches(self.batch_size, self.num_workers, start, stop):
            items: list[_Decoded | BadImage] = [*map(_Decoded, batch.rows, batch.images, batch.records), *batch.bad]
            yield from sorted(items, key=lambda item: item.row)

    def _window(self, items: Sequence[_Decoded | BadImage], names: tuple[str, ...], ends: Span | None) -> _Window:
        good = [item for item in items if isinstance(item, _Decoded)]
        bad = [item for item in items if isinstance(item, BadImage)]
        images = [item.image for item in good]
        inputs = {name: stage(self.encoders[name], images) for name in names} if images else {}
        records = np.array([item.record for item in good], IMAGE_RECORD)
        return _Window(names, [item.row for item in good], records, bad, inputs, ends)

    # The network

    def _launch(self, name: str, batch: StagedBatch, rows: list[int]) -> _Flight:
        """Queue the forward pass and the copy of its features to the host; on a CPU, run them now."""
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
        """Turn any error of an encoder into an `EncoderFailure` that names the encoder and the batch `rows`."""
        try:
            yield
        except RunError as error:
            raise EncoderFailure(name, str(error)) from error
        except (Exception, SystemExit) as error:  # a user's encoder may raise anything
            batch = f"a batch of {len(rows)} images (the first is {self.source.ids[rows[0]]})"
            if is_out_of_memory(error):
                advice = "lower --batch-size, or choose another --device or --dtype"
                raise EncoderFailure(name, str(out_of_memory(error, f"encoder {name!r} on {batch}", advice))) from error
            reason = str(error).rstrip(".") if isinstance(error, FdrError) else described(error)
            text = f"Encoder {name!r} failed on {batch}: {reason}. What was cached stays."
            raise EncoderFailure(name, text) from error

    def _check_shape(self, name: str, output: str, shape: tuple[int, ...], count: int) -> None:
        """Raise `InputError` unless there is one row per image, as wide as in all other batches."""
        wanted = self._widths.setdefault((name, output), shape[1:])
        if shape[:1] != (count,) or shape[1:] != wanted:
            raise InputError(
                f"it made {output!r} of shape {list(shape)} where {[count, *wanted]} is expected, one row of one width "
                "for each image"
            )

    def _land(self, flight: _Flight) -> dict[str, np.ndarray]:
        if flight.landed is not None:
            with self._failures_of(flight.name, flight.rows):  # a GPU reports a failed forward pass only here
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
            raise EncoderFailure(
                name,
                f"{name} gave non-finite {output!r} features for {int((~finite).sum())} of {len(finite)} images of a "
                f"batch (the first is {label}); check the weights, or compute in float32 (--dtype).",
            )

    def _no_rows(self, name: str) -> dict[str, np.ndarray]:
        """Features of a shard whose images were all bad: no rows, as wide as those of a blank image."""
        import torch

        blank = torch.zeros(3, 64, 64, dtype=torch.uint8)
        flight = self._launch(name, stage(self.encoders[name], [blank]), [0])
        return {output: array[:0] for output, array in self._land(flight).items()}
