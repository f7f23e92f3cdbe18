"""Images in parquet files, encoded, one in a row: the layout of the Hugging Face Hub, or a column of bytes."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fdr.errors import InputError, first_line
from fdr.images.array_file import ArrayInfo, ArrayPart, ArraySource, Shown, open_arrays
from fdr.images.base import ImageOptions, Loader
from fdr.images.decode import Picture, UnreadableImage
from fdr.images.files import SUFFIXES, Place
from fdr.images.labels import Labels, array_labels
from fdr.images.values import KEYS, picture_of
from fdr.runtime import read_ahead

LABELS = ("label", "labels", "class", "cls", "fine_label")
_AHEAD = 32
_BATCH = 16  # rows taken from the decoder at once
_BUFFER = 1 << 20


def open_parquet(place: Place, options: ImageOptions) -> ArraySource:
    """The source for parquet files; raises `InputError` when one holds no column of images or is damaged."""
    return open_arrays(place, options, functools.partial(_read, options))


class ParquetRows(ArrayPart):
    """One column of one parquet file, read in one stream of the row groups that are asked for."""

    kind = "parquet"

    def __init__(self, path: Path, column: str, count: int, labels: Labels | None, options: ImageOptions) -> None:
        super().__init__(path, ArrayInfo(column, (count,), np.dtype(object)), labels)
        self._options = options

    def loaders(self, rows: np.ndarray, shown: Shown) -> Iterator[Loader]:
        yield from read_ahead(self._stream(rows), _AHEAD)

    def _stream(self, rows: np.ndarray) -> Iterator[Loader]:
        try:
            with _open(self.path) as file:
                start = 0
                for group in range(file.num_row_groups):
                    stop = start + file.metadata.row_group(group).num_rows
                    wanted = rows[(rows >= start) & (rows < stop)]
                    if len(wanted):
                        found = 0
                        for load in self._group(file, group, wanted, start):
                            found += 1
                            yield load
                        if found < len(wanted):
                            raise EOFError(f"row group {group} ends before its last row")
                    start = stop
        except Exception as error:  # pyarrow raises what its readers raise
            raise _damaged(self.path, error) from error

    def _group(self, file: Any, group: int, wanted: np.ndarray, start: int) -> Iterator[Loader]:
        for batch in file.iter_batches(_BATCH, row_groups=[group], columns=[self.info.key], use_threads=False):
            for row in map(int, wanted[(wanted >= start) & (wanted < start + batch.num_rows)]):
                yield functools.partial(self._picture, batch.column(0)[row - start].as_py(), row)
            start += batch.num_rows

    def _picture(self, value: Any, row: int) -> Picture:
        data = value.get("bytes") if isinstance(value, Mapping) else value
        if data is None:
            raise UnreadableImage("its row holds no bytes (the name of a file at most)")
        return picture_of(data, self._options, f"{self.path.name}: {self.info.key}[{row}]")


def _read(options: ImageOptions, path: Path, choice: str | None) -> ParquetRows:
    try:
        with _open(path) as file:
            if not 0 <= file.metadata.num_rows <= path.stat().st_size:
                raise ValueError(f"it announces {file.metadata.num_rows} rows")
            schema, features = file.schema_arrow, _features(file.schema_arrow.metadata)
            column = _image_column(str(path), schema, features, choice)
            return ParquetRows(path, column, file.metadata.num_rows, _labels(file, schema, features), options)
    except InputError:
        raise
    except Exception as error:
        raise _damaged(path, error) from error


def _open(path: Path) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise InputError(f"{path} needs the package pyarrow, which is not installed: pip install pyarrow.") from None
    return ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True)


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is no parquet file, or is truncated or damaged ({first_line(error)}).")


def _features(metadata: Mapping[bytes, bytes] | None) -> dict[str, dict[str, Any]]:
    """The description of the columns that `datasets` wrote; empty without one."""
    try:
        found = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {name: value for name, value in found.items() if isinstance(value, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _image_column(where: str, schema: Any, features: Mapping[str, Any], choice: str | None) -> str:
    """The chosen column, the one that is declared as images, one of a usual name, or the only one that could be."""
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
    """The column of whole numbers that is declared as classes, or called so; None where a row has no number."""
    from pyarrow import types

    numbers = [field.name for field in schema if types.is_integer(field.type)]
    declared = [name for name in numbers if features.get(name, {}).get("_type") == "ClassLabel"]
    found = [*declared, *(name for key in LABELS for name in numbers if name.lower() == key)]
    column = file.read(columns=found[:1]).column(0) if found else None
    if column is None or column.null_count or len(column) != file.metadata.num_rows:
        return None
    labels = array_labels(column.to_numpy(), found[0])
    names = features.get(found[0], {}).get("names")
    is_named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return labels if labels is None or not is_named else Labels(labels.values, tuple(names), found[0])
