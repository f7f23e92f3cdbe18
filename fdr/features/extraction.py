"""Extracts features: reads a source once for all encoders, shard by shard, and keeps the shards in a cache.

A run that was killed goes on where it stopped. Nothing is computed before the features are iterated over.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fdr._version import __version__
from fdr.encoders import AbstractEncoder, EncoderOptions, as_encoder
from fdr.errors import InputError, RunError
from fdr.features.cache import derived as _derived
from fdr.features.cache.entry import CacheKey, CacheStore, FeatureCache
from fdr.features.pipeline import ComputedShard, Pipeline, ShardTask
from fdr.images import BadImage, ImageOptions, ImageSource, Preprocessing, open_images
from fdr.runtime import SOLO, Group, Progress, SharedTask, SilentProgress, as_path, named_arguments, part_of

SHARD_SIZE = 1024
"""Images per shard. A larger shard means fewer files, and more images to compute again after a run is killed."""


@dataclass(frozen=True)
class ExtractionOptions:
    """How features are computed and stored. All defaults are set here and nowhere else."""

    cache: Path | None = None
    """Folder of the feature cache; with None nothing is stored."""
    batch_size: int | None = None
    """Images per forward pass; None means 32 on a CPU and 128 on a GPU. It changes float32 features by about 1e-5."""
    num_workers: int | None = None
    """Threads that decode images; None means one for each processor this process may use."""
    progress: Progress = field(default_factory=SilentProgress)
    moments_only: bool = False
    """Store sums instead of features in `cache`: one file of D x D numbers, whatever the number of images."""
    group: Group = SOLO
    """The ranks that share the images. Every rank must make the same calls."""
    shard_size: int | None = None
    """Images per shard; None means `SHARD_SIZE`. A cache entry keeps the size that it was created with."""

    def batch_size_on(self, device_type: str) -> int:
        """The batch size on a device of this type. Raises `InputError` below 1."""
        if self.batch_size is None:
            return 32 if device_type == "cpu" else 128
        if self.batch_size < 1:
            raise InputError(f"Batch size is {self.batch_size}; it must be at least 1.")
        return self.batch_size


@dataclass(frozen=True)
class FeatureBlock:
    """Features of consecutive images: `features[encoder][output][i]` belongs to row `rows[i]` of the selection."""

    start: int
    stop: int
    rows: np.ndarray
    features: Mapping[str, Mapping[str, np.ndarray]]
    bad: Sequence[BadImage] = ()
    """Images in start..stop that could not be decoded."""


class Extraction:
    """One pass over a source for several encoders. Iterating yields one `FeatureBlock` per shard, in row order.

    `outputs` maps the name of an encoder to the outputs to keep. Shards that are in the cache are read; the others are
    computed and stored. An image is decoded once for all encoders that need it. Which images share a forward batch
    depends only on the shard and the batch size, so a resumed run gives the same bits as an uninterrupted one.
    """

    def __init__(
        self,
        source: ImageSource,
        encoders: Sequence[AbstractEncoder],
        outputs: Mapping[str, tuple[str, ...]] | None = None,
        options: ExtractionOptions | None = None,
    ) -> None:
        names = [encoder.spec.name for encoder in encoders]
        if not names:
            raise InputError("No encoder was given; name at least one.")
        if len(set(names)) != len(names):
            raise InputError(f"Encoders must have different names; got {', '.join(names)}.")
        self.source = source
        self.group = (options or ExtractionOptions()).group
        self.encoders = {encoder.spec.name: encoder for encoder in encoders}
        self.outputs = {name: self._outputs_of(name, (outputs or {}).get(name, ())) for name in names}
        self.options = options or ExtractionOptions()
        self.batch_size = self.options.batch_size_on(encoders[0].device.type)
        self.shard_size = self.options.shard_size or SHARD_SIZE
        self._left_out: dict[str, set[tuple[int, int]]] = {name: set() for name in names}
        self.bad: list[BadImage] = []
        """Images that `on_bad="skip"` left out; filled by a pass."""
        self._image_records: list[np.ndarray | None] = []
        source.progress = self.options.progress
        if self.group.size > 1:
            self._check_same_everywhere()
        self.entries = {name: self._open_entry(name) for name in names}

    def _check_same_everywhere(self) -> None:
        """Raise an error if the source cannot be divided among ranks, or if the ranks do not see the same images."""
        source = self.source
        if self.num_rows is None or not source.is_repeatable:
            raise InputError(
                f"{source.name} can be read only once, so {self.group.size} ranks cannot divide it; give a path, list, "
                "array or Dataset, or run one process."
            )
        source.divide_among(self.group, self.options.progress)
        seen = self.group.gather((len(source), source.digest, {n: e.spec.hash for n, e in self.encoders.items()}))
        for rank, other in enumerate(seen):
            if other != seen[0]:
                raise RunError(
                    f"Rank {rank} and rank 0 do not see the same images or encoders ({other[0]} and {seen[0][0]} "
                    f"images in {source.name}); give every rank the same files, options and versions."
                )

    def _outputs_of(self, name: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.encoders[name].stored_outputs, *wanted)))

    def _open_entry(self, name: str) -> FeatureCache | None:
        encoder = self.encoders[name]
        if self.options.cache is None or not encoder.is_cacheable:
            return None
        if not self.source.is_repeatable:
            raise InputError(
                f"Features of {self.source.name} cannot be cached, because it can be read only once; "
                "give a folder, file, list, array or Dataset, or no cache."
            )
        return FeatureCache.open(
            self.options.cache,
            cache_key(self.source, encoder, self.outputs[name]),
            num_rows=len(self.source),
            attributes=_cache_attributes(self.source, encoder),
            shard_size=self.shard_size,
            dtype=encoder.stored_dtype,
        )

    @property
    def num_rows(self) -> int | None:
        """Number of images in the source, bad ones included; None for a generator of unknown length."""
        try:
            return len(self.source)
        except TypeError:
            return None

    @property
    def is_complete(self) -> bool:
        """True when every feature is in the cache already."""
        return all(entry is not None and entry.is_complete for entry in self.entries.values())

    def __iter__(self) -> Iterator[FeatureBlock]:
        self.bad, self._image_records = [], []
        title = f"{self.source.name}: {', '.join(self.encoders)}"
        with self.options.progress.task(title, self.num_rows) as task:
            task.resume(sum(stop - start for start, stop in self._done()))
            shared = SharedTask(task, self.group)
            for block in self._blocks(shared):
                yield block
                self.group.check_peers()
                if self.num_rows is not None:  # stop as soon as too many are bad
                    self.source.check_bad(self.bad, self.num_rows, is_all=False)
            parts = self.group.gather((self.bad, self._image_records), while_waiting=shared.advance)
            shared.advance()
        self.bad = sorted((image for bad, _ in parts for image in bad), key=lambda image: image.row)
        self._image_records = [records for _, part in parts for records in part]
        self.source.check_bad(self.bad, shared.done if self.num_rows is None else self.num_rows)
        if self.group.rank == 0:
            self._save_images()

    @property
    def images(self) -> np.ndarray | None:
        """One record (`fdr.images.facts.FACTS`) for each image that decoded, in row order.

        The records come from the last pass or from the cache. None if they are missing for some images.
        """
        known = [part for part in self._image_records if part is not None]
        if known and len(known) == len(self._image_records):
            images = np.concatenate(known)
            return images[np.argsort(images["row"], kind="stable")]
        kept = (_derived.load_images(e.folder, e.digest) for e in self.entries.values() if e is not None)
        return next((images for images in kept if images is not None), None) if self.is_complete else None

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How the images were read and resized, after a pass or from the cache; None if their sizes are not known."""
        images = self.source.seen if self.images is None else self.images
        return Preprocessing.of(images, self.source.policy["crop"])

    def provenance(self, encoder: AbstractEncoder) -> dict[str, str | int | float]:
        """The encoder and how its images were read, as attributes for a file of features or moments."""
        sized = self.preprocessing
        return {
            "encoder": encoder.spec.name,
            "spec": json.dumps(asdict(encoder.spec), sort_keys=True),
            "spec_hash": encoder.spec.hash,
            "output": encoder.spec.output,
            "policy": json.dumps(dict(self.source.policy), sort_keys=True),
            **({} if sized is None else sized.attributes()),
        }

    def _save_images(self) -> None:
        images = self.images
        for entry in self.entries.values():
            if images is None or entry is None or entry.missing():
                continue
            if _derived.load_images(entry.folder, entry.digest) is None:
                _derived.save_images(entry.folder, entry.digest, images)

    def _blocks(self, task: SharedTask) -> Iterator[FeatureBlock]:
        """All blocks of this rank. Consecutive shards that must be computed share one pass of the decoder."""
        if self.num_rows is None:  # a generator is not cached, and its length shows only at its end
            endless = ((start, stop, tuple(self.entries)) for start, stop in self._shards())
            yield from self._computed_blocks(endless, task)
            return
        numbered = enumerate((start, stop, self._missing(start, stop)) for start, stop in self._own_shards())
        runs = itertools.groupby(numbered, key=lambda item: (bool(item[1][2]), item[1][0] - item[0] * self.shard_size))
        for (is_missing, _), numbered_run in runs:
            run = (shard for _, shard in numbered_run)
            if is_missing:
                yield from self._computed_blocks(run, task)
            else:
                for start, stop, _ in run:
                    yield self._assemble(start, stop, {})
                    task.resume(stop - start)

    def _shards(self) -> Iterator[tuple[int, int]]:
        total, size = self.num_rows, self.shard_size
        if total is None:
            yield from ((start, start + size) for start in itertools.count(0, size))
        else:
            yield from ((start, min(start + size, total)) for start in range(0, total, size))

    def leave_out(self, name: str, spans: Collection[tuple[int, int]]) -> None:
        """Skip these shards for the encoder `name`: its features are not computed, read, or put into the blocks."""
        self._left_out[name] = set(spans)

    def _done(self) -> set[tuple[int, int]]:
        """Shards that every encoder skips."""
        return set.intersection(*self._left_out.values())

    def _own_shards(self) -> list[tuple[int, int]]:
        """The shards of this rank: a contiguous part of those to compute, and a contiguous part of those to read.

        Rank 0 decides which shards must be computed, because a rank sees the shards of the others with a delay.
        """
        needed = set(self._shards()) - self._done()
        shards = sorted(needed)
        if self.group.size == 1:
            return shards
        absent = {name: shards if entry is None else entry.missing() for name, entry in self.entries.items()}
        wanted = [set(spans) - self._left_out[name] for name, spans in absent.items()]
        missing = self.group.broadcast(sorted(set().union(*wanted) & needed))
        listed = sorted(set(shards) - set(missing))
        return part_of(self.group, missing) + part_of(self.group, listed)

    def _missing(self, start: int, stop: int) -> tuple[str, ...]:
        return tuple(
            name
            for name, entry in self.entries.items()
            if (start, stop) not in self._left_out[name] and (entry is None or not entry.has(start, stop))
        )

    def _computed_blocks(self, run: Iterator[ShardTask], task: SharedTask) -> Iterator[FeatureBlock]:
        pipeline = Pipeline(
            self.source,
            self.encoders,
            self.outputs,
            batch_size=self.batch_size,
            num_workers=self.options.num_workers,
            group=self.group,
            widths=self._known_widths(),
        )
        for shard in pipeline.shards(run, self.shard_size, self.num_rows is not None, task.advance):
            self._store(shard)
            yield self._assemble(shard.start, shard.stop, shard.features, shard.rows, shard.bad)

    def _known_widths(self) -> Mapping[tuple[str, str], tuple[int, ...]]:
        """Shape of one row by (encoder, output), as far as the encoder or the cache states it."""
        known = {(n, e.spec.output): (e.spec.dim,) for n, e in self.encoders.items() if e.spec.dim > 0}
        stored = {
            (n, output): (width,)
            for n, e in self.entries.items()
            if e is not None
            for output, width in e.widths.items()
        }
        return known | stored

    def _store(self, shard: ComputedShard) -> None:
        self.source.check_unchanged(shard.start, shard.stop)
        for name, features in shard.features.items():
            entry = self.entries[name]
            if entry is not None and not self.options.moments_only:
                rows = np.array(shard.rows, dtype=np.int64)
                ids = [self.source.ids[row] for row in shard.rows]
                failed = [(image.row, image.id, image.reason) for image in shard.bad]
                images = self.source.facts(shard.rows)
                entry.write_shard(shard.start, shard.stop, rows, ids, features, failed, images)

    def _assemble(
        self,
        start: int,
        stop: int,
        computed: Mapping[str, Mapping[str, np.ndarray]],
        rows: Sequence[int] = (),
        bad: Sequence[BadImage] = (),
    ) -> FeatureBlock:
        """The block of one shard, from the features in `computed` and, for the other encoders, from the cache."""
        features = dict(computed)
        good = np.array(rows, dtype=np.int64)
        records = self.source.facts(rows) if computed else None
        for name, entry in self.entries.items():
            if name not in computed and (start, stop) not in self._left_out[name]:
                assert entry is not None
                shard = entry.read_shard(start, stop)
                features[name], good, bad = shard.features, shard.rows, [BadImage(*image) for image in shard.bad]
                records = shard.images if records is None else records
        if bad and self.source.options.on_bad == "fail":
            raise InputError(f"{self.source.name}: {bad[0].id}: {bad[0].reason}; use --on-bad skip to leave it out.")
        self.bad += bad
        self._image_records.append(None if self.options.moments_only else records)
        return FeatureBlock(start, stop, good, features, bad)


def cache_key(source: ImageSource, encoder: AbstractEncoder, outputs: tuple[str, ...]) -> CacheKey:
    """The key of the cache entry: the content of the images, the spec of the encoder and the outputs."""
    assert source.digest is not None
    return CacheKey(source.digest, encoder.spec.hash, outputs, label=encoder.spec.model)


def cached_rows(root: Path, source: ImageSource, encoder: AbstractEncoder, outputs: tuple[str, ...]) -> int:
    """How many rows of these features the cache already holds. Creates no files."""
    if not (encoder.is_cacheable and source.is_repeatable):
        return 0
    wanted = tuple(dict.fromkeys((*encoder.stored_outputs, *outputs)))
    name = cache_key(source, encoder, wanted).directory
    return sum(entry.rows_done for entry in CacheStore(root).entries() if entry.name == name)


def _cache_attributes(source: ImageSource, encoder: AbstractEncoder) -> dict[str, str]:
    import torch

    return {
        "source": source.name,
        "encoder": encoder.spec.name,
        "spec": json.dumps(asdict(encoder.spec), sort_keys=True),
        "policy": json.dumps(dict(source.policy), sort_keys=True),
        "device": str(encoder.device),
        "fdr": __version__,
        "torch": str(torch.__version__),
    }


class Features:
    """The result of `fdr.extract`. Features are computed, or read from the cache, each time you iterate over it.

    Iterating yields batches: float32 CPU tensors [n, D] of the encoder's main output or, for a list of encoders, dicts
    from encoder name to such a tensor. `len()` is the number of batches. After a pass `bad` lists the images that were
    left out.
    """

    def __init__(self, extraction: Extraction, is_many: bool) -> None:
        self._extraction = extraction
        self._is_many = is_many

    @property
    def num_images(self) -> int | None:
        """Number of images in the source, bad ones included; None for a generator of unknown length."""
        return self._extraction.num_rows

    @property
    def bad(self) -> list[BadImage]:
        """Images that `on_bad="skip"` left out in the last pass."""
        return self._extraction.bad

    @property
    def provenance(self) -> dict[str, str | int | float]:
        """The encoder and how its images were read; `Moments.from_features` stores it with the moments.

        It is complete after a pass, and empty for a list of encoders.
        """
        encoders = list(self._extraction.encoders.values())
        return {} if self._is_many else self._extraction.provenance(encoders[0])

    def __len__(self) -> int:
        if self.num_images is None:
            raise TypeError(f"{self._extraction.source.name} has no known length")
        size = self._extraction.batch_size
        return sum(-(-(stop - start) // size) for start, stop in self._extraction._shards())

    def __iter__(self) -> Iterator[Any]:
        import torch

        mains = {name: encoder.spec.output for name, encoder in self._extraction.encoders.items()}
        for block in self._extraction:
            for at in range(block.start, block.stop, self._extraction.batch_size):
                low, high = np.searchsorted(block.rows, (at, min(at + self._extraction.batch_size, block.stop)))
                batch = {
                    name: torch.from_numpy(np.ascontiguousarray(block.features[name][main][low:high]))
                    for name, main in mains.items()
                }
                yield batch if self._is_many else next(iter(batch.values()))


@named_arguments
def extract(
    images: Any,
    encoder: str | AbstractEncoder | Any | Sequence[Any],
    *,
    cache: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    image_options: ImageOptions | None = None,
    progress: Progress | None = None,
) -> Features:
    """Extract the features of `images` with one encoder or a list of encoders, and store them in the folder `cache`.

    `images` is anything `fdr.open_images` reads. An encoder is a name, an `AbstractEncoder`, or a callable from
    images [B, 3, H, W] in [0, 1] to features [B, D]. Features are computed when you iterate over the result. Raises
    `InputError` for images that cannot be read, before the pass where possible.
    """
    is_many = isinstance(encoder, list | tuple)
    given = list(encoder) if isinstance(encoder, list | tuple) else [encoder]
    shown = progress or SilentProgress()
    encoders = [as_encoder(item, EncoderOptions(progress=shown)) for item in given]
    options = ExtractionOptions(None if cache is None else as_path(cache, "the cache"), batch_size, num_workers, shown)
    return Features(Extraction(open_images(images, image_options or ImageOptions()), encoders, None, options), is_many)
