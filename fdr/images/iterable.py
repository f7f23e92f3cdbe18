"""A Python iterable of images or of batches of images: a generator, a DataLoader, an iterable-style Dataset."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fdr.errors import InputError
from fdr.images.base import ImageSource, Loader
from fdr.images.ids import EndlessIds, RowIds
from fdr.images.options import ImageOptions
from fdr.images.values import image_of, is_array, picture_of
from fdr.runtime import Group, Progress


class IterableSource(ImageSource):
    """Images in the order of the iterable, which is advanced in the caller's thread.

    An iterator can be read only once. `options.count` takes the first images, because a random subset needs a known
    length.
    """

    kind = "iterable"

    def __init__(self, value: Iterable[Any], options: ImageOptions) -> None:
        count = options.count
        name = type(value).__name__ if count is None else f"first {count} of {type(value).__name__}"
        self.is_indexed = False
        super().__init__(name, options, EndlessIds() if count is None else RowIds(("item", count)))
        self._value = value
        self.is_repeatable = not isinstance(value, Iterator)
        self._is_read = False

    def _loaders(self, start: int, stop: int | None) -> Iterator[Loader]:
        if self._is_read and not self.is_repeatable:
            raise InputError(f"This {self.name} of images was read already; give a list or a Dataset to read it again.")
        self._is_read = True
        row = -1
        for row, image in enumerate(itertools.islice(self._images(), stop)):
            if row >= start:
                yield functools.partial(picture_of, image, self.options, f"{self.name}: item[{row}]")
        if row < 0:
            raise InputError(f"The {self.name} gave no images.")
        if self.rows is not None and stop is not None and row + 1 < stop:
            raise InputError(f"The {self.name} gave {row + 1} images, but count={self.options.count} were asked for.")

    def _images(self) -> Iterator[Any]:
        for item in self._value:
            yield from _unbatched(image_of(item))

    def _content_digest(self, group: Group, progress: Progress) -> None:
        return None


class _Returned(Iterable[Any]):
    """The images that a function returns, which is called for every pass."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function

    def __iter__(self) -> Iterator[Any]:
        return iter(self._function())


def open_function(function: Callable[[], Any], options: ImageOptions) -> IterableSource:
    """The images of the iterable that a function without arguments returns."""
    source = IterableSource(_Returned(function), options)
    name = getattr(function, "__name__", type(function).__name__)
    source.name = source.name.replace(_Returned.__name__, name)
    return source


def _unbatched(value: Any) -> Iterator[Any]:
    """The images of one item: those of a batch [B, C, H, W], those of a list of items, or the item itself."""
    if isinstance(value, list | tuple):
        yield from map(image_of, value)
    elif is_array(value) and value.ndim == 4:
        yield from value
    else:
        yield value
