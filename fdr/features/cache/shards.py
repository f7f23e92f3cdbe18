"""One shard of a feature cache: its content, its bytes as an HDF5 file, and its file name, which contains a digest."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fdr.features.cache.stored_dtypes import item_size, read_dataset, read_tensor, write_dataset
from fdr.images import as_records
from fdr.runtime import dataset_of

if TYPE_CHECKING:
    import h5py
    from torch import Tensor

SCHEMA = "fdr-features/1"
_NAME = re.compile(r"shard-(\d{9,})-(\d{9,})-([0-9a-f]{16})\.h5")
_OWN_ATTRIBUTES = ("schema", "data_digest", "spec_hash", "widths", "num_rows", "shard_size", "start", "stop")


class BadRow(NamedTuple):
    """An image that could not be decoded: its row in the selection, its id, and the reason."""

    row: int
    id: str
    reason: str


@dataclass(frozen=True)
class Shard:
    """The content of one shard: n good rows, ascending, with their ids and features; and the bad rows."""

    rows: np.ndarray
    """int64 [n]"""
    ids: Sequence[str]
    features: Mapping[str, np.ndarray]
    """float32 [n, D] per output"""
    bad: tuple[BadRow, ...]
    images: np.ndarray | None = None
    """One record (`fdr.images.IMAGE_RECORD`) for each good row, [n]; None if there are none."""


class DamagedShardError(Exception):
    """A shard file is not what was published; the message says why."""


@dataclass(frozen=True)
class CacheKey:
    """What identifies a cache entry: the images, the encoder and the outputs."""

    data_digest: str
    """sha256 over the content, selection and pixel policy of the images."""
    spec_hash: str
    """`EncoderSpec.hash`."""
    outputs: tuple[str, ...]
    """The outputs that are stored, in any order."""
    label: str = ""
    """Readable start of the folder name. It must follow from the spec (`spec.model`), because it is not compared."""

    @property
    def directory(self) -> str:
        """Folder name of the entry: "fid-inception-2015-3c1f09ab-9ab2c3d4-0123456789abcdef"."""
        text = json.dumps([SCHEMA, self.data_digest, self.spec_hash, sorted(self.outputs)])
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        label = re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")[:40] or "features"
        parts = [re.sub(r"[^0-9a-z]+", "", text.lower())[:8] for text in (self.spec_hash, self.data_digest)]
        return "-".join([label, *parts, digest])


@dataclass(frozen=True)
class EntryHeader:
    """What every shard of an entry repeats, so that each file can be understood and checked by itself."""

    key: CacheKey
    num_rows: int
    shard_size: int
    widths: Mapping[str, int] = field(default_factory=dict)
    """D per output; empty until the first shard sets it."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """For people: source and encoder names, spec JSON, versions, device; not compared."""
    dtype: str = "float32"
    """The type that features are stored in. It follows from the spec, and every dataset states it as well."""

    def __post_init__(self) -> None:
        if self.num_rows < 1 or self.shard_size < 1:
            raise ValueError(f"a cache entry needs rows and a shard size, got {self.num_rows} and {self.shard_size}")
        if self.widths and set(self.widths) != set(self.key.outputs):
            raise ValueError(f"widths {sorted(self.widths)} are not those of outputs {sorted(self.key.outputs)}")
        if bad := [name for name in self.key.outputs if not name or "/" in name or name.startswith(".")]:
            raise ValueError(f"output name {bad[0]!r} cannot name an HDF5 dataset")
        if bad := [name for name in self.attributes if name in _OWN_ATTRIBUTES]:
            raise ValueError(f"attribute {bad[0]!r} is taken by the cache itself")

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's features."""
        return item_size(self.dtype) * sum(self.widths.values())

    def ranges(self) -> list[tuple[int, int]]:
        """(start, stop) of every shard, in order."""
        size = self.shard_size
        return [(start, min(start + size, self.num_rows)) for start in range(0, self.num_rows, size)]

    def difference(self, other: EntryHeader) -> str | None:
        """The first difference between two headers, in words; None if they belong to the same entry."""
        pairs = {
            "data digest": (self.key.data_digest, other.key.data_digest),
            "encoder spec hash": (self.key.spec_hash, other.key.spec_hash),
            "outputs": (sorted(self.key.outputs), sorted(other.key.outputs)),
            "number of images": (self.num_rows, other.num_rows),
            "feature widths": (dict(self.widths), dict(other.widths)),
        }
        for name, (own, its) in pairs.items():
            if own != its and (own and its):
                return f"{name} {its} where {own} is expected"
        return None


@dataclass(frozen=True)
class ShardRecord:
    """A published shard, as the manifest lists it."""

    file: str
    start: int
    stop: int
    count: int
    """Rows that decoded, hence rows of features."""
    num_bytes: int
    sha256: str
    bad: tuple[BadRow, ...] = ()

    def load(self, folder: Path) -> bytes:
        """Read the file and check its size and sha256. Raises `DamagedShardError` if they differ."""
        try:
            data = (folder / self.file).read_bytes()
        except FileNotFoundError:
            raise DamagedShardError("the file is missing") from None
        except OSError as error:
            raise DamagedShardError(f"it cannot be read: {error.strerror}") from error
        if len(data) != self.num_bytes:
            raise DamagedShardError(f"{len(data)} bytes where {self.num_bytes} are expected")
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise DamagedShardError("its content changed: the sha256 differs")
        return data


def encode_shard(header: EntryHeader, span: tuple[int, int], shard: Shard) -> tuple[ShardRecord, bytes]:
    """Encode a shard as the bytes of an HDF5 file; the same content always gives the same bytes.

    The file is built in memory, so that HDF5 never meets an error of the disk.
    """
    import h5py

    _check(header, span, shard)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        _write_attributes(file, header, span)
        for name in sorted(shard.features):
            write_dataset(file, f"features/{name}", shard.features[name], header.dtype)
        if shard.images is not None:
            file.create_dataset("images", data=shard.images)
        file.create_dataset("rows", data=shard.rows, dtype="<i8")
        file.create_dataset("ids", data=_to_utf8(shard.ids))
        file.create_dataset("bad/rows", data=np.array([item.row for item in shard.bad], np.int64), dtype="<i8")
        file.create_dataset("bad/ids", data=_to_utf8([item.id for item in shard.bad]))
        file.create_dataset("bad/reasons", data=_to_utf8([item.reason for item in shard.bad]))
    data = buffer.getvalue()
    return _record(data, span, len(shard.rows), shard.bad), data


def _record(data: bytes, span: tuple[int, int], count: int, bad: tuple[BadRow, ...]) -> ShardRecord:
    sha256 = hashlib.sha256(data).hexdigest()
    name = f"shard-{span[0]:09d}-{span[1]:09d}-{sha256[:16]}.h5"
    return ShardRecord(name, *span, count, len(data), sha256, bad)


def _check(header: EntryHeader, span: tuple[int, int], shard: Shard) -> None:
    """Raise `ValueError` for a shard that does not fit into its entry."""
    rows, ids, features = shard.rows, shard.ids, shard.features
    if span not in header.ranges():
        raise ValueError(f"rows {span[0]} to {span[1]} are not a shard of {header.num_rows} by {header.shard_size}")
    if len(ids) != len(rows) or np.any(np.diff(rows) <= 0):
        raise ValueError(f"{len(rows)} rows, ascending, need as many ids; got {len(ids)}")
    if sorted([*map(int, rows), *(item.row for item in shard.bad)]) != list(range(*span)):
        raise ValueError(f"good and bad rows together are not exactly rows {span[0]} to {span[1]}")
    if set(features) != set(header.widths):
        raise ValueError(f"outputs {sorted(features)} given where {sorted(header.widths)} are stored")
    for name, x in features.items():
        if x.dtype != np.float32 or x.shape != (len(rows), header.widths[name]):
            wanted = (len(rows), header.widths[name])
            raise ValueError(f"features {name!r} are {x.dtype} {x.shape}; float32 {wanted} is expected")


def _to_utf8(texts: Sequence[str]) -> np.ndarray:
    import h5py

    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    length = max(map(len, encoded), default=0) or 1
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", length))


def from_utf8(array: np.ndarray) -> list[str]:
    """Decode the texts of a fixed-length UTF-8 dataset; file names that are not UTF-8 come back unchanged."""
    return [item.decode("utf-8", "surrogateescape") for item in array.tolist()]


def _write_attributes(file: h5py.File, header: EntryHeader, span: tuple[int, int]) -> None:
    values: list[Any] = [
        SCHEMA,
        header.key.data_digest,
        header.key.spec_hash,
        json.dumps(dict(sorted(header.widths.items()))),
        header.num_rows,
        header.shard_size,
        *span,
    ]
    for name, value in [*zip(_OWN_ATTRIBUTES, values, strict=True), *sorted(header.attributes.items())]:
        file.attrs[name] = value


def open_shard(data: bytes) -> h5py.File:
    """Open the checked bytes of a shard as an HDF5 file. HDF5 itself never opens or locks a file on disk."""
    import h5py

    return h5py.File(io.BytesIO(data), "r")


def decode_shard(data: bytes, record: ShardRecord, outputs: Iterable[str]) -> Shard:
    """Decode the checked bytes of a shard to arrays, with the features of `outputs`."""
    with open_shard(data) as file:
        features = {name: read_dataset(dataset_of(file, f"features/{name}")) for name in outputs}
        images = as_records(file["images"][:]) if "images" in file else None
        return Shard(file["rows"][:], from_utf8(file["ids"][:]), features, record.bad, images)


def decode_tensor(data: bytes, output: str) -> tuple[np.ndarray, Tensor]:
    """Decode rows [n] and features [n, D] of one output from the checked bytes of a shard, in the stored type."""
    with open_shard(data) as file:
        return file["rows"][:], read_tensor(dataset_of(file, f"features/{output}"))


def shard_files(folder: Path) -> list[Path]:
    """All files in `folder` that are named like a shard, in row order."""
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def shard_span(file: str) -> tuple[int, int]:
    """(start, stop) from the name of a shard file."""
    match = _NAME.fullmatch(file)
    if match is None:
        raise ValueError(f"{file!r} is not the name of a shard")
    return int(match[1]), int(match[2])


def remove_superseded(folder: Path, record: ShardRecord) -> None:
    """Remove other files for the same rows as a shard that was just published."""
    for path in shard_files(folder):
        if shard_span(path.name)[0] == record.start and path.name != record.file:
            path.unlink(missing_ok=True)


def recover_shard(path: Path) -> tuple[EntryHeader, ShardRecord] | None:
    """Header and record of a shard that no manifest lists; None if its content and the digest in its name differ."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if not path.name.endswith(f"-{hashlib.sha256(data).hexdigest()[:16]}.h5"):
        return None
    with open_shard(data) as file:
        attributes = dict(file.attrs)
        if attributes.get("schema") != SCHEMA:
            return None
        bad = map(
            BadRow, file["bad/rows"][:].tolist(), from_utf8(file["bad/ids"][:]), from_utf8(file["bad/reasons"][:])
        )
        record = _record(data, shard_span(path.name), len(file["rows"]), tuple(bad))
    widths = json.loads(attributes["widths"])
    key = CacheKey(attributes["data_digest"], attributes["spec_hash"], tuple(widths))
    own = {name: str(value) for name, value in attributes.items() if name not in _OWN_ATTRIBUTES}
    return EntryHeader(key, int(attributes["num_rows"]), int(attributes["shard_size"]), widths, own), record
