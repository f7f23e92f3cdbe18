"""`fdr.extract`: the features of images as an iterable of batches, for notebooks and scripts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fdr.encoders import AbstractEncoder, EncoderOptions, as_encoder
from fdr.features.extraction import Extraction, ExtractionOptions
from fdr.images import BadImage, ImageOptions, open_images
from fdr.runtime import Progress, as_path, as_progress, named_arguments


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

    def __repr__(self) -> str:
        count = "" if self.num_images is None else f" of {self.num_images} images"
        return f"<Features{count} of {self._extraction.source.name} by {', '.join(self._extraction.encoders)}>"

    def __len__(self) -> int:
        if self.num_images is None:
            raise TypeError(f"{self._extraction.source.name} has no known length")
        size = self._extraction.batch_size
        return sum(-(-(stop - start) // size) for start, stop in self._extraction.plan.spans())

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
    progress: Progress | bool | None = None,
) -> Features:
    """Extract the features of `images` with one encoder or a list of encoders, and store them in the folder `cache`.

    `images` is anything `fdr.open_images` reads. An encoder is a name, an `AbstractEncoder`, or a callable from
    images [B, 3, H, W] in [0, 1] to features [B, D]. Features are computed when you iterate over the result. Raises
    `InputError` for images that cannot be read, before the pass where possible.
    """
    is_many = isinstance(encoder, list | tuple)
    given = list(encoder) if isinstance(encoder, list | tuple) else [encoder]
    shown = as_progress(progress)
    encoders = [as_encoder(item, EncoderOptions(progress=shown)) for item in given]
    options = ExtractionOptions(None if cache is None else as_path(cache, "the cache"), batch_size, num_workers, shown)
    return Features(Extraction(open_images(images, image_options or ImageOptions()), encoders, None, options), is_many)
