"""Hugging Face datasets: an object, a dataset saved to disk, or the name of one on the Hub.

Images are taken undecoded, so that fdr decodes them like files. The package `datasets` is needed only here.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from fdr.errors import InputError, first_line
from fdr.images.base import ImageSource, Loader
from fdr.images.dataset import DatasetSource
from fdr.images.files import Place
from fdr.images.ids import RowIds
from fdr.images.labels import Labels, array_labels
from fdr.images.options import ImageOptions
from fdr.images.parquet import LABELS
from fdr.images.values import KEYS, picture_of
from fdr.runtime import Group, Progress, is_offline

_BLOCK = 32
"""Rows taken from the dataset at once. Raising it takes more memory."""


def open_named(text: str, options: ImageOptions) -> ImageSource:
    """The source for "hf-dataset:NAME" of the Hub or of the cache of `datasets`; NAME may end in @CONFIG and :SPLIT."""
    text = text.partition(":")[2]
    datasets = _library(text)
    name, _, split = text.partition(":")
    name, _, config = name.partition("@")
    settings = datasets.DownloadConfig(local_files_only=is_offline())
    try:
        found = datasets.load_dataset(name, config or None, split=split or None, download_config=settings)
    except Exception as error:  # whatever its builders and the network raise
        offline = " (without the network, as --offline or $FDR_OFFLINE asks)" if is_offline() else ""
        raise InputError(f"The dataset {text!r} cannot be loaded{offline}: {first_line(error)}.") from error
    return open_hf(found, options, f"hf-dataset:{text}")


def open_saved(place: Place, options: ImageOptions) -> ImageSource:
    """The source for a folder of `save_to_disk`."""
    datasets = _library(str(place.path))
    try:
        found = datasets.load_from_disk(str(place.path))
    except Exception as error:
        raise InputError(f"{place.path} is no complete saved dataset: {first_line(error)}.") from error
    return open_hf(found, options, place.name)


def open_hf(value: Any, options: ImageOptions, name: str = "") -> ImageSource:
    """The source for a Dataset, or a DatasetDict of one split.

    A Dataset with a format or transform gives its own items.
    """
    import datasets

    if isinstance(value, datasets.DatasetDict):
        if len(value) != 1:
            example = f"{name}:{next(iter(value), 'train')}" if name.startswith("hf-dataset:") else "data['train']"
            raise InputError(f"The dataset has the splits {', '.join(value)}; name one, as in {example}.")
        (value,) = value.values()
    images = [key for key, feature in value.features.items() if _is_image(feature)]
    named = [key for known in KEYS for key in images if key.lower() == known]
    if not images or value.format["type"] is not None:
        source = DatasetSource(value, options)
        source.name = name or source.name
        return source
    if len(images) > 1 and not named:
        raise InputError(
            f"The dataset has several columns of images ({', '.join(images)}); keep one with select_columns([...])."
        )
    if len(value) == 0:
        raise InputError(f"The dataset {name or 'of images'} is empty.")
    return HfSource(value, options, (named or images)[0], name or f"Dataset of {len(value)}")


def _is_image(feature: Any) -> bool:
    """True for an Image, and for a struct of bytes and path, which parquet files without metadata of `datasets`
    have."""
    return type(feature).__name__ == "Image" or (isinstance(feature, dict) and feature.keys() == {"bytes", "path"})


class HfSource(ImageSource):
    """The encoded images of one column."""

    kind = "hf-dataset"

    def __init__(self, value: Any, options: ImageOptions, column: str, name: str) -> None:
        import datasets

        super().__init__(name, options, RowIds((column, len(value))), _labels(value))
        self._column = column
        self._value = value.select_columns([column]).cast_column(column, datasets.Image(decode=False))

    def _loaders(self, start: int, stop: int | None) -> Iterator[Loader]:
        assert self.rows is not None
        for row, image in self._encoded(self.rows[start:stop]):
            yield functools.partial(picture_of, image, self.options, f"{self.name}: {self._column}[{row}]")

    def _encoded(self, rows: np.ndarray) -> Iterator[tuple[int, Any]]:
        left = iter(rows.tolist())
        while block := list(islice(left, _BLOCK)):
            yield from zip(block, self._value[block][self._column], strict=True)

    def _content_digest(self, group: Group, progress: Progress) -> str:
        """The hash of the encoded images, which takes one pass over them."""
        assert self.rows is not None
        content = hashlib.sha256()
        for _, image in self._encoded(self.rows):
            content.update(hashlib.sha256(_bytes_of(image)).digest())
        return content.hexdigest()


def _bytes_of(image: Any) -> bytes:
    if image is None or image["bytes"] is not None:
        return b"" if image is None else image["bytes"]
    try:
        with open(image["path"], "rb") as file:
            return file.read()
    except OSError as error:
        return f"unreadable: {error.strerror}".encode()


def _labels(value: Any) -> Labels | None:
    """The column that the dataset declares as classes, or else one with the name of labels."""
    declared = [key for key, feature in value.features.items() if type(feature).__name__ == "ClassLabel"]
    found = [*declared, *(key for name in LABELS for key in value.features if key.lower() == name)]
    if not found:
        return None
    column = np.asarray(value.with_format("arrow")[found[0]])
    if column.ndim != 1 or column.dtype.kind not in "iu" or column.size == 0 or (declared and column.min() < 0):
        return None
    return array_labels(column, found[0], getattr(value.features[found[0]], "names", None))


def _library(what: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise InputError(f"{what} needs the package datasets, which is not installed: pip install datasets.") from None
    if int(datasets.__version__.split(".")[0]) < 4:
        raise InputError(
            f"{what} needs datasets 4 or newer, which runs no code of a dataset; found {datasets.__version__}: "
            "pip install -U datasets."
        )
    return datasets
