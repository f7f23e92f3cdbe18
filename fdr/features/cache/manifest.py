"""The manifest of a cache entry: a JSON file that lists the published shards and contains its own checksum."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fdr.errors import RunError
from fdr.features.cache.shards import SCHEMA, BadRow, CacheKey, EntryHeader, ShardRecord, recover_shard, shard_files
from fdr.runtime import publish, stage_bytes

MANIFEST_NAME = "manifest.json"


class DamagedManifestError(Exception):
    """The manifest exists, but it is not what was written."""


@dataclass(frozen=True)
class Manifest:
    """The header and the published shards of one entry."""

    header: EntryHeader
    created: str
    """When the entry was created; UTC, ISO 8601."""
    shards: tuple[ShardRecord, ...] = ()
    """In row order, never overlapping."""

    def with_shards(self, shards: Iterable[ShardRecord]) -> Manifest:
        """The same entry with other shards."""
        return replace(self, shards=tuple(sorted(shards, key=lambda record: record.start)))

    @property
    def digest(self) -> str:
        """sha256 over the digests of all shards: the identity of the features as they are stored now."""
        return hashlib.sha256("\n".join(record.sha256 for record in self.shards).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Replace the manifest in `folder`, atomically."""
        header = self.header
        fields: dict[str, Any] = {
            "schema": SCHEMA,
            "data_digest": header.key.data_digest,
            "spec_hash": header.key.spec_hash,
            "outputs": sorted(header.key.outputs),
            "widths": dict(sorted(header.widths.items())),
            "num_rows": header.num_rows,
            "shard_size": header.shard_size,
            "created": self.created,
            "attributes": dict(sorted(header.attributes.items())),
            "shards": [asdict(record) for record in self.shards],
        }
        fields["checksum"] = _checksum(fields)
        with stage_bytes(folder / MANIFEST_NAME, (json.dumps(fields, indent=1) + "\n").encode("ascii")) as temporary:
            publish(temporary, folder / MANIFEST_NAME)


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def load_manifest(folder: Path) -> Manifest | None:
    """The manifest of an entry; None when there is none.

    Raises `DamagedManifestError` when it was altered, `RunError` when it cannot be read or is of another format.
    """
    path = folder / MANIFEST_NAME
    try:
        fields = json.loads(path.read_bytes())
        if not isinstance(fields, dict):
            raise ValueError("not an object")
        checksum = fields.pop("checksum", None)
        if checksum != _checksum(fields):
            raise ValueError("checksum differs")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise DamagedManifestError(str(error)) from error
    except OSError as error:
        raise RunError(f"The feature cache {folder} cannot be read ({error.strerror}); pass --cache DIR.") from error
    if fields["schema"] != SCHEMA:
        raise RunError(
            f"The feature cache {folder} has format {fields['schema']}, and this version of fdr reads {SCHEMA}; "
            "pass --cache DIR with another folder, or use the version of fdr that wrote it."
        )
    manifest = _from_fields(fields)
    if any(Path(record.file).name != record.file for record in manifest.shards):
        raise DamagedManifestError("a shard in another folder")
    return manifest


def _from_fields(fields: dict[str, Any]) -> Manifest:
    key = CacheKey(fields["data_digest"], fields["spec_hash"], tuple(fields["outputs"]))
    header = EntryHeader(key, fields["num_rows"], fields["shard_size"], fields["widths"], fields["attributes"])
    records = [ShardRecord(**{**item, "bad": tuple(BadRow(*bad) for bad in item["bad"])}) for item in fields["shards"]]
    return Manifest(header, fields["created"], tuple(records))


def manifest_stamp(folder: Path) -> tuple[int, ...] | None:
    """Inode, time and size of the manifest file, which change whenever it is replaced. None if there is none."""
    with contextlib.suppress(OSError):
        stat = (folder / MANIFEST_NAME).stat()
        return stat.st_ino, stat.st_mtime_ns, stat.st_size
    return None


def absent_shards(manifest: Manifest, folder: Path) -> dict[str, str]:
    """Listed shards whose file is absent or has another size, with the reason. No content is read."""
    absent = {}
    for record in manifest.shards:
        try:
            size = (folder / record.file).stat().st_size
        except FileNotFoundError:
            absent[record.file] = "the file is missing"
            continue
        if size != record.num_bytes:
            absent[record.file] = f"{size} bytes where {record.num_bytes} are expected"
    return absent


def recover_shards(manifest: Manifest, folder: Path, is_new: bool) -> Manifest:
    """Add to `manifest` the good shards in `folder` that it does not list, because the process was killed before.

    `is_new` means that no manifest was found; then the entry takes the shard size that the shards state.
    """
    found = {record.start: record for record in manifest.shards}
    listed = {record.file for record in manifest.shards}
    for path in shard_files(folder):
        recovered = None if path.name in listed else recover_shard(path)
        if recovered is None or manifest.header.difference(recovered[0]) is not None:
            continue
        header, record = recovered
        if not found and (is_new or not manifest.header.widths):
            size = header.shard_size if is_new else manifest.header.shard_size
            manifest = replace(manifest, header=replace(manifest.header, widths=header.widths, shard_size=size))
        if record.start not in found and (record.start, record.stop) in manifest.header.ranges():
            found[record.start] = record
    return manifest.with_shards(found.values())
