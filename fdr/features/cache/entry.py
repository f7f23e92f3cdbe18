"""One entry of the feature cache: a folder with the features of one encoder on one set of images, in shards.

A killed process cannot damage an entry: a shard is written to a temporary file, fsynced and renamed to a name that
contains its digest; then the manifest is replaced in the same way. Every shard is checked against its sha256 before it
is used. docs/cache-format.md describes the format.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fdr import runtime
from fdr.errors import FdrWarning, RunError
from fdr.features.cache import derived as _derived
from fdr.features.cache.manifest import (
    DamagedManifestError,
    Manifest,
    absent_shards,
    load_manifest,
    manifest_stamp,
    recover_shards,
)
from fdr.features.cache.shards import (
    BadRow,
    CacheKey,
    DamagedShardError,
    EntryHeader,
    Shard,
    ShardRecord,
    decode_shard,
    decode_tensor,
    encode_shard,
    remove_superseded,
)
from fdr.features.cache.store import CacheEntry, CacheStore, Removal, Verification
from fdr.runtime import as_path, sweep_temporaries

if TYPE_CHECKING:
    from torch import Tensor

    from fdr.frechet import Moments

__all__ = ["BadRow", "CacheEntry", "CacheKey", "CacheStore", "FeatureCache", "Removal", "Shard", "Verification"]


class FeatureCache:
    """The cached features of one encoder on one set of images; row i is image i of the selection.

    Create it with `open`. One object may be used by one thread; several objects and processes may use one entry at the
    same time, and `missing` and `has` take the shards of the others into account.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self._manifest = manifest
        self._damaged: set[str] = set()  # shard files that this process found damaged and never uses again
        self._held: tuple[str, bytes] | None = None  # name and bytes of the shard that `has` checked last
        self._seen: tuple[int, ...] | None = None  # stamp of the manifest that was read last

    @classmethod
    def open(
        cls,
        root: str | os.PathLike[str],
        key: CacheKey,
        *,
        num_rows: int,
        widths: Mapping[str, int] | None = None,
        attributes: Mapping[str, str] | None = None,
        shard_size: int = 1024,
        dtype: str = "float32",
    ) -> FeatureCache:
        """Open the entry for `key` in the folder `root`, or create it.

        `widths` is D per output; without it the first shard sets the widths. `attributes` describe the entry to people:
        encoder, source, spec, versions. `dtype` is the type that features are stored in and must follow from the spec.
        An existing entry keeps its `shard_size`, and a complete one may be read-only. Shard files that are absent or
        truncated cause a warning and count as `missing`; altered content is noticed when the shard is read.

        Raises `RunError` if rows are missing and the folder cannot be written, or if it holds another entry.
        """
        header = EntryHeader(key, num_rows, shard_size, dict(widths or {}), dict(attributes or {}), dtype)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        cache = cls(as_path(root, "the cache").expanduser() / key.directory, Manifest(header, now))
        was_good = cache._load()
        if not cache.is_complete or not was_good:
            try:
                cache._prepare()
            except RunError:
                if not cache.is_complete:
                    raise
        return cache

    @property
    def num_rows(self) -> int:
        """Number of images in the selection, bad ones included."""
        return self._manifest.header.num_rows

    @property
    def shard_size(self) -> int:
        """Rows per shard; the last shard may be shorter."""
        return self._manifest.header.shard_size

    @property
    def outputs(self) -> tuple[str, ...]:
        """The encoder outputs that are stored."""
        return self._manifest.header.key.outputs

    @property
    def widths(self) -> Mapping[str, int]:
        """D per output; empty until `open` or the first shard sets it."""
        return self._manifest.header.widths

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """(start, stop) of all shards, published or not."""
        return self._manifest.header.ranges()

    def missing(self) -> list[tuple[int, int]]:
        """(start, stop) of the shards that nobody, in this or another process, has published yet."""
        self._refresh()
        return self._missing()

    def _missing(self) -> list[tuple[int, int]]:
        done = {record.start for record in self._manifest.shards}
        return [span for span in self.ranges if span[0] not in done]

    def has(self, start: int, stop: int) -> bool:
        """True if the shard [start, stop) is published and its sha256 is right; a damaged shard becomes `missing`.

        The bytes stay in memory, so that a `read` right afterwards does not load them again.
        """
        self._refresh()
        record = self._record_at(start)
        if record is None or record.stop != stop:
            return False
        try:
            self._held = (record.file, record.load(self.folder))
        except DamagedShardError as damage:
            if self._replacement(record) is not None:
                return self.has(start, stop)
            self._drop({record.file: str(damage)})
            return False
        return True

    @property
    def is_complete(self) -> bool:
        """True if every shard is published. The content of the shards is not checked."""
        return not self._missing()

    @property
    def rows_done(self) -> int:
        """Number of rows in published shards, bad ones included."""
        return sum(record.stop - record.start for record in self._manifest.shards)

    @property
    def count(self) -> int:
        """Number of rows that have features: the rows of published shards without the bad ones."""
        return sum(record.count for record in self._manifest.shards)

    @property
    def bad(self) -> list[BadRow]:
        """Images that could not be decoded, in this run or an earlier one, in row order."""
        return [item for record in self._manifest.shards for item in record.bad]

    @property
    def digest(self) -> str:
        """sha256 over the digests of all published shards; it changes with every stored byte."""
        return self._manifest.digest

    # Writing

    def write_shard(
        self,
        start: int,
        stop: int,
        rows: np.ndarray | Sequence[int],
        ids: Sequence[str],
        features: Mapping[str, np.ndarray],
        bad: Iterable[tuple[int, str, str]] = (),
        images: np.ndarray | None = None,
    ) -> None:
        """Publish the shard of rows [start, stop), one of `missing`. Once this returns, the shard survives a kill.

        `rows` int64 [n] are the rows that decoded, ascending; `ids`, `features` (float32 [n, D] per output) and the
        records `images` [n] belong to them. `bad` lists (row, id, reason) of the other rows. If another process has
        published the shard in the meantime, its shard stays.

        Raises `RunError` if the shard cannot be written, for example because the disk is full; no file is left behind.
        """
        listed = tuple(BadRow(int(row), str(id), str(reason)) for row, id, reason in bad)
        shard = Shard(np.asarray(rows, np.int64), ids, features, listed, images)
        header = self._manifest.header
        if not header.widths:
            header = replace(header, widths={name: x.shape[1] for name, x in features.items()})
        record, data = encode_shard(header, (start, stop), shard)
        path = self.folder / record.file
        with self._writing(), runtime.stage_bytes(path, data) as tmp, runtime.folder_lock(self.folder):
            self._load(is_quiet=True)
            self._check_header(header)
            if self._record_at(start) is None:
                runtime.publish(tmp, path)
                self._damaged.discard(record.file)
                shards = [*self._manifest.shards, record]
                self._save(replace(self._manifest, header=header).with_shards(shards))
                remove_superseded(self.folder, record)

    def _prepare(self) -> None:
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            with runtime.folder_lock(self.folder):
                self._load(is_quiet=True)
                sweep_temporaries(self.folder)
                self._save(self._manifest)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            rows = sum(stop - start for start, stop in self._missing())
            raise runtime.cache_write_error(error, self.folder, rows * self._manifest.header.row_bytes) from error

    def _save(self, manifest: Manifest) -> None:
        manifest.save(self.folder)
        self._manifest = manifest
        self._seen = manifest_stamp(self.folder)

    # Reading

    def read_shard(self, start: int, stop: int, outputs: Sequence[str] | None = None) -> Shard:
        """Read the shard [start, stop) with the features of `outputs`, by default of all.

        Raises `RunError` if the shard is missing or damaged; a damaged shard counts as `missing` from then on.
        """
        record, data = self._load_shard(start, stop)
        return decode_shard(data, record, self.outputs if outputs is None else outputs)

    def read_tensor(self, start: int, stop: int, output: str) -> tuple[np.ndarray, Tensor]:
        """Read the rows int64 [n] of the shard [start, stop) and their features [n, D] of `output` as they are stored.

        Raises `RunError` in the same cases as `read_shard`.
        """
        _, data = self._load_shard(start, stop)
        return decode_tensor(data, output)

    def _load_shard(self, start: int, stop: int) -> tuple[ShardRecord, bytes]:
        if (start, stop) not in self.ranges:
            raise ValueError(f"rows {start} to {stop} are not a shard of {self.num_rows} by {self.shard_size}")
        record = self._record_at(start)
        if record is None:
            raise RunError(f"Rows {start} to {stop - 1} are not in the feature cache {self.folder} yet.")
        if self._held is not None and self._held[0] == record.file:
            return record, self._held[1]
        try:
            return record, record.load(self.folder)
        except DamagedShardError as damage:
            return self._reload_shard(record, damage)

    def _record_at(self, start: int) -> ShardRecord | None:
        return next((record for record in self._manifest.shards if record.start == start), None)

    def _reload_shard(self, record: ShardRecord, damage: DamagedShardError) -> tuple[ShardRecord, bytes]:
        """Load the shard that another process has put in place of a damaged one, if the same rows decoded in both."""
        new = self._replacement(record)
        if new is not None and new.bad == record.bad:
            with contextlib.suppress(DamagedShardError):
                return new, new.load(self.folder)
        self._drop({record.file: str(damage)})
        raise RunError(
            f"Rows {record.start} to {record.stop - 1} of the feature cache {self.folder} are damaged ({damage}); "
            "run the same command again to extract them again."
        )

    def _replacement(self, record: ShardRecord) -> ShardRecord | None:
        self._refresh()
        new = self._record_at(record.start)
        return new if new is not None and new.file != record.file else None

    # Moments that are stored beside the features

    def load_moments(self, output: str) -> Moments | None:
        """The stored moments of `output` over all good rows; None if they are absent, damaged or from other shards."""
        return _derived.load_moments(self.folder, output, self.digest) if self.is_complete else None

    def save_moments(self, output: str, moments: Moments) -> bool:
        """Store the moments of `output` over all good rows. Returns False if the folder cannot be written."""
        if not self.is_complete:
            raise ValueError("moments of an incomplete cache would be those of other data")
        return _derived.save_moments(self.folder, output, self.digest, moments)

    # Keeping the manifest in memory in step with the folder

    def _refresh(self) -> None:
        """Read the manifest again if another process has replaced it."""
        seen = manifest_stamp(self.folder)
        if seen is not None and seen != self._seen:
            self._load(is_quiet=True)

    def _load(self, is_quiet: bool = False) -> bool:
        """Read the manifest, drop shards whose file is absent or truncated, and add good shards that it does not list.

        Returns False if there was no sound manifest. With `is_quiet` there are no warnings, because the first call has
        given them.
        """
        seen, found, reason = manifest_stamp(self.folder), None, "is missing"
        try:
            found = load_manifest(self.folder)
        except DamagedManifestError as error:
            reason = f"is damaged ({error})"
        if found is not None:
            self._check_header(found.header)
            own = self._manifest.header
            widths = found.header.widths or own.widths
            header = replace(found.header, key=own.key, widths=widths, dtype=own.dtype)
            shards = [record for record in found.shards if record.file not in self._damaged]
            self._manifest = replace(found, header=header).with_shards(shards)
            self._drop(absent_shards(self._manifest, self.folder), is_quiet)
        if self.folder.is_dir():
            self._manifest = recover_shards(self._manifest, self.folder, is_new=found is None)
            if found is None and not is_quiet and (self._manifest.shards or "damaged" in reason):
                good = f"{len(self._manifest.shards)} good shards of {len(self.ranges)}"
                _warn(f"The manifest of the feature cache {self.folder} {reason}; it was rebuilt from {good}.")
        self._seen = seen
        return found is not None

    def _check_header(self, found: EntryHeader) -> None:
        difference = self._manifest.header.difference(found)
        if difference is not None:
            raise RunError(
                f"The feature cache {self.folder} holds other features: {difference}; remove it with "
                f"'fdr cache remove {self.folder.name}', or pass --cache DIR."
            )

    def _drop(self, damaged: Mapping[str, str], is_quiet: bool = False) -> None:
        if not damaged:
            return
        self._damaged |= damaged.keys()
        self._manifest = self._manifest.with_shards(r for r in self._manifest.shards if r.file not in damaged)
        if not is_quiet:
            first, reason = next(iter(damaged.items()))
            found = f"{len(damaged)} of {len(self.ranges)} shards of the feature cache {self.folder} are damaged"
            _warn(f"{found} (the first is {first}: {reason}); only their rows will be extracted again.")


def _warn(text: str) -> None:
    warnings.warn(text, FdrWarning, stacklevel=4)
