"""Images that are made when they are needed, and are the same every time."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Iterator

import numpy as np

from fdr.images.base import ImageSource, Loader
from fdr.images.decode import Picture
from fdr.images.values import array_picture
from fdr.runtime import memory_for


class MadeSource(ImageSource):
    """A source that makes its images in fixed batches: rows k B to (k + 1) B - 1.

    The batches do not depend on which rows are asked for, so a resumed pass and every rank get the bits of one
    uninterrupted pass. Subclasses set `batch_size` and give `_made`.
    """

    is_indexed = False
    batch_size: int
    is_clamped: bool = True
    """False if values may lie outside of [0, 1]. They are then used unchanged."""

    @abstractmethod
    def _made(self, start: int, stop: int) -> np.ndarray:
        """float32 [stop - start, 3, H, W], black 0 and white 1."""

    def _loaders(self, start: int, stop: int | None) -> Iterator[Loader]:
        end = len(self) if stop is None else stop
        for at in range(start - start % self.batch_size, end, self.batch_size):
            stop = min(at + self.batch_size, len(self))
            with memory_for(f"images {at} to {stop - 1} of {self.name}", "lower --batch-size"):
                images = self._made(at, stop)
            for row in range(max(start, at), min(at + len(images), end)):
                yield functools.partial(self._picture, images[row - at], f"{self.name}: {self.ids[row]}")

    def _picture(self, image: np.ndarray, where: str) -> Picture:
        if self.is_clamped:
            return array_picture(image, 0, self.options, where)
        return Picture(np.ascontiguousarray(image.transpose(1, 2, 0)), "array")
