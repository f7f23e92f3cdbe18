"""Images in parquet files, encoded, one in a row: the layout of the Hugging Face Hub, or a column of bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fdr.errors import InputError
from fdr.images.array_file import ArraySource, open_arrays
from fdr.images.decode import SUFFIXES, UnreadableImage
from fdr.images.file_parts import ArrayInfo, StreamedPart, refuse_damage
from fdr.images.files import Place
from fdr.images.labels import Labels, array_labels
from fdr.images.options import ImageOptions
from fdr.images.values import KEYS

LABELS = ("label", "labels", "class", "cls", "fine_label")
_BATCH = 16
"""Rows that pyarrow decodes at once; raising it takes more memory."""
_BUFFER = 1 << 20
"""Bytes that pyarrow reads at once."""


def open_parquet(place: Place, options: ImageOptions) -> ArraySource:
    """The source for parquet files; raises `InputError` when one holds no column of images or is damaged."""
    return open_arrays("parquet", place, options, _read)


class ParquetRows(StreamedPart):
    """One column of one parquet file, read in one stream of the row groups that are asked for."""

    kind = "parquet"
    damage = (Exception,)  # pyarrow raises what its readers raise

    def stream(self, rows: np.ndarray) -> Iterator[Any]:
        with _open(self.path) as file:
            start = 0
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                wanted = rows[(rows >= start) & (rows < stop)]
                if len(wanted):
                    yield from self._group(file, group, wanted - start)
                start = stop

    def _group(self, file: Any, group: int, wanted: np.ndarray) -> Iterator[Any]:
        start = 0
        for batch in file.iter_batches(_BATCH, row_groups=[group], columns=[self.info.key], use_threads=False):
            stop = start + batch.num_rows
            for row in wanted[(wanted >= start) & (wanted < stop)]:
                yield _encoded(batch.column(0)[int(row) - start].as_py())
            start = stop
        if start <= wanted[-1]:
            raise EOFError(f"row group {group} ends before its last row")


def _encoded(value: Any) -> Any:
    data = value.get("bytes") if isinstance(value, Mapping) else value
    return UnreadableImage("its row holds no bytes (the name of a file at most)") if data is None else data


def _read(path: Path, choice: str | None) -> ParquetRows:
    with refuse_damage(path, "parquet", ParquetRows.damage), _open(path) as file:
        count = file.metadata.num_rows
        if not 0 <= count <= path.stat().st_size:
            raise ValueError(f"it announces {count} rows")
        schema, features = file.schema_arrow, _features(file.schema_arrow.metadata)
        info = ArrayInfo(_image_column(str(path), schema, features, choice), (count,), np.dtype(object))
        return ParquetRows(path, info, _labels(file, schema, features))


def _open(path: Path) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise InputError(f"{path} needs the package pyarrow, which is not installed: pip install pyarrow.") from None
    return ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True)


def _features(metadata: Mapping[bytes, bytes] | None) -> dict[str, dict[str, Any]]:
    """The description of the columns that `datasets` wrote; empty without one."""
    try:
        found = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {name: value for name, value in found.items() if isinstance(value, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _image_column(where: str, schema: Any, features: Mapping[str, Any], choice: str | None) -> str:
    """The chosen column, or else the one declared as images, one with a usual name, or the only one that fits."""
    fitting = [field.name for field in schema if _holds_bytes(field.type)]
    listed = ", ".join(f"{field.name} ({field.type})" for field in schema)[:300]
    if choice is not None:
        if choice in fitting:
            return choice
        raise InputError(f"{where} has no column {choice!r} of images; its columns are {listed}.")
    declared = [name for name in fitting if features.get(name, {}).get("_type") == "Image"]
    named = [name for key in KEYS for name in fitting if name.lower() == key]
    formats = [name for name in fitting if f".{name.lower().rpartition('.')[2]}" in SUFFIXES]
    found = next((names for names in (declared, named[:1], formats, fitting) if names), [])
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{where} holds several columns of images; choose one, as in {where}:{found[0]} ({listed}).")
    raise InputError(f"{where} holds no images; expected a column of bytes, or of bytes and path, found {listed}.")


def _holds_bytes(kind: Any) -> bool:
    """True for a column of bytes, and for one of structs with such a field "bytes"."""
    from pyarrow import types

    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _labels(file: Any, schema: Any, features: Mapping[str, Any]) -> Labels | None:
    """The column of whole numbers that is declared as classes or has the name of labels; None if a row has no
    number."""
    from pyarrow import types

    numbers = [field.name for field in schema if types.is_integer(field.type)]
    declared = [name for name in numbers if features.get(name, {}).get("_type") == "ClassLabel"]
    found = [*declared, *(name for key in LABELS for name in numbers if name.lower() == key)]
    column = file.read(columns=found[:1]).column(0) if found else None
    if column is None or column.null_count or len(column) != file.metadata.num_rows:
        return None
    names = features.get(found[0], {}).get("names")
    is_named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return array_labels(column.to_numpy(), found[0], names if is_named else None)
