"""Extraction of features: one pass over the images for all encoders, shard by shard, with the shards kept in a cache.

A run that was killed goes on where it stopped. Nothing is computed before the features are iterated over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from fdr._version import __version__
from fdr.encoders import AbstractEncoder
from fdr.errors import InputError, RunError
from fdr.features.cache import derived
from fdr.features.cache.entry import CacheKey, CacheStore, FeatureCache
from fdr.features.pipeline import ComputedShard, Pipeline
from fdr.features.shard_plan import ShardPlan, ShardTask
from fdr.images import BadImage, ImageSource, Preprocessing
from fdr.runtime import SOLO, Group, Progress, SharedTask, SilentProgress, run_on_rank0

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
    `plan` says which shards this rank computes and reads.
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
        self.options = options or ExtractionOptions()
        self.group = self.options.group
        self.encoders = {encoder.spec.name: encoder for encoder in encoders}
        self.outputs = {name: stored_outputs(self.encoders[name], (outputs or {}).get(name, ())) for name in names}
        self.batch_size = self.options.batch_size_on(encoders[0].device.type)
        self.bad: list[BadImage] = []
        """Images that `on_bad="skip"` left out; filled by a pass."""
        self._records: list[np.ndarray] = []
        self._has_all_records = False
        if self.group.size > 1:
            self._check_same_everywhere()
        shard_size = self.options.shard_size or SHARD_SIZE
        self.entries = {name: self._open_entry(encoder, shard_size) for name, encoder in self.encoders.items()}
        self.plan = ShardPlan(self.num_rows, shard_size, self.entries, self.group)

    def _check_same_everywhere(self) -> None:
        """Raise an error if the ranks cannot share the source, or if they do not see the same images."""
        source = self.source
        if self.num_rows is None or not source.is_repeatable:
            raise InputError(
                f"{source.name} can be read only once, so {self.group.size} ranks cannot divide it; give a path, list, "
                "array or Dataset, or run one process."
            )
        digest = source.find_digest(self.group, self.options.progress)
        seen = self.group.gather((len(source), digest, {n: e.spec.hash for n, e in self.encoders.items()}))
        for rank, other in enumerate(seen):
            if other != seen[0]:
                raise RunError(
                    f"Rank {rank} and rank 0 do not see the same images or encoders ({other[0]} and {seen[0][0]} "
                    f"images in {source.name}); give every rank the same files, options and versions."
                )

    def _open_entry(self, encoder: AbstractEncoder, shard_size: int) -> FeatureCache | None:
        if self.options.cache is None or not encoder.is_cacheable or not self.source.is_repeatable:
            return None  # nothing tells images that can be read only once from other ones
        self.source.find_digest(self.group, self.options.progress)
        return FeatureCache.open(
            self.options.cache,
            cache_key(self.source, encoder, self.outputs[encoder.spec.name]),
            num_rows=len(self.source),
            attributes=_cache_attributes(self.source, encoder),
            shard_size=shard_size,
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
        self.bad, self._records, self._has_all_records = [], [], not self.options.moments_only
        title = f"{self.source.name}: {', '.join(self.encoders)}"
        with self.options.progress.task(title, self.num_rows) as task:
            task.resume(sum(stop - start for start, stop in self.plan.skipped()))
            shared = SharedTask(task, self.group)
            for block in self._blocks(shared):
                yield block
                self.group.check_peers()
                if self.num_rows is not None:  # stop as soon as too many are bad
                    self.source.check_bad(self.bad, self.num_rows, is_all=False)
            self._gather(shared)
        self.source.check_bad(self.bad, shared.done if self.num_rows is None else self.num_rows)
        run_on_rank0(self.group, self._save_images)

    def _blocks(self, task: SharedTask) -> Iterator[FeatureBlock]:
        """All blocks of this rank. Consecutive shards that must be computed share one pass of the decoder."""
        for is_missing, run in self.plan.runs():
            if is_missing:
                yield from self._computed_blocks(run, task)
                continue
            for shard in run:
                yield self._block(shard.start, shard.stop)
                task.resume(shard.stop - shard.start)

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
        for shard in pipeline.shards(run, self.plan.shard_size, self.num_rows is not None, task.advance):
            self._store(shard)
            yield self._block(shard.start, shard.stop, shard)

    def _known_widths(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """Shape of one row by (encoder, output), as far as the encoder or the cache states it."""
        widths = {(name, e.spec.output): e.spec.dim for name, e in self.encoders.items() if e.spec.dim > 0}
        for name, entry in self.entries.items():
            if entry is not None:
                widths |= {(name, output): width for output, width in entry.widths.items()}
        return {key: (width,) for key, width in widths.items()}

    def _store(self, shard: ComputedShard) -> None:
        self.source.check_unchanged(shard.start, shard.stop)
        for name, features in shard.features.items():
            entry = self.entries[name]
            if entry is not None and not self.options.moments_only:
                ids = [self.source.ids[row] for row in shard.rows.tolist()]
                failed = [(image.row, image.id, image.reason) for image in shard.bad]
                entry.write_shard(shard.start, shard.stop, shard.rows, ids, features, failed, shard.records)

    def _block(self, start: int, stop: int, computed: ComputedShard | None = None) -> FeatureBlock:
        """The block of one shard: the features in `computed`, and those of the other encoders from the cache."""
        features: dict[str, Mapping[str, np.ndarray]] = {}
        rows, bad, records = np.empty(0, np.int64), list[BadImage](), None
        if computed is not None:
            features |= computed.features
            rows, bad, records = computed.rows, computed.bad, computed.records
        for name, entry in self.entries.items():
            if name not in features and self.plan.is_wanted(name, (start, stop)):
                assert entry is not None
                shard = entry.read_shard(start, stop)
                features[name], rows, bad = shard.features, shard.rows, [BadImage(*image) for image in shard.bad]
                records = shard.images if records is None else records
        if bad and self.source.options.on_bad == "fail":
            raise InputError(f"{self.source.name}: {bad[0].id}: {bad[0].reason}; use --on-bad skip to leave it out.")
        self.bad += bad
        if records is None:
            self._has_all_records = False
        else:
            self._records.append(records)
        return FeatureBlock(start, stop, rows, features, bad)

    def _gather(self, task: SharedTask) -> None:
        """Give every rank the bad images and the records of all ranks, in row order."""
        own = (self.bad, self._records, self._has_all_records)
        parts = self.group.gather(own, while_waiting=task.advance)
        task.advance()
        self.bad = sorted((image for bad, _, _ in parts for image in bad), key=lambda image: image.row)
        self._records = [records for _, part, _ in parts for records in part]
        self._has_all_records = all(has_all for *_, has_all in parts)

    # The records of the images

    @property
    def images(self) -> np.ndarray | None:
        """One record (`fdr.images.IMAGE_RECORD`) for each image that decoded, in row order.

        The records come from the last pass or from the cache. None if they are missing for some images.
        """
        if self._records and self._has_all_records:
            return self._known_records()
        if not self.is_complete:
            return None
        kept = (derived.load_images(e.folder, e.digest) for e in self.entries.values() if e is not None)
        return next((images for images in kept if images is not None), None)

    def _known_records(self) -> np.ndarray | None:
        """The records of all images that the last pass met, in row order."""
        if not self._records:
            return None
        images = np.concatenate(self._records)
        return images[np.argsort(images["row"], kind="stable")]

    def _save_images(self) -> None:
        images = self.images
        for entry in self.entries.values():
            if images is None or entry is None or entry.missing():
                continue
            if derived.load_images(entry.folder, entry.digest) is None:
                derived.save_images(entry.folder, entry.digest, images)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How the images were read and resized, after a pass or from the cache; None if their sizes are not known."""
        images = self._known_records() if self.images is None else self.images
        return None if images is None else Preprocessing.of(images, self.source.policy["crop"])

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


def stored_outputs(encoder: AbstractEncoder, wanted: Sequence[str]) -> tuple[str, ...]:
    """The outputs that a cache entry holds: those that the encoder always stores, and the wanted ones."""
    return tuple(dict.fromkeys((*encoder.stored_outputs, *wanted)))


def cache_key(source: ImageSource, encoder: AbstractEncoder, outputs: tuple[str, ...]) -> CacheKey:
    """The key of the cache entry: the content of the images, the spec of the encoder and the outputs."""
    assert source.digest is not None
    return CacheKey(source.digest, encoder.spec.hash, outputs, label=encoder.spec.model)


def cached_rows(root: Path, source: ImageSource, encoder: AbstractEncoder, outputs: tuple[str, ...]) -> int:
    """How many rows of these features the cache already holds. Creates no files."""
    if not (encoder.is_cacheable and source.is_repeatable):
        return 0
    name = cache_key(source, encoder, stored_outputs(encoder, outputs)).directory
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
