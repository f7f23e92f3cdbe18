"""`ImageSource`, the base of all sources of images, and the batches that it gives."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fdr.errors import InputError, RunError, as_utf8, warn
from fdr.images.decode import Picture, UnreadableImage, WrongValues, quiet_pillow
from fdr.images.digests import file_stamp
from fdr.images.files import left_out_text, lost_images
from fdr.images.ids import EndlessIds, Selected
from fdr.images.labels import Labels
from fdr.images.options import ImageOptions
from fdr.images.records import IMAGE_RECORD, record_of
from fdr.images.resize import CROPS
from fdr.runtime import SOLO, Group, Progress, SilentProgress, available_cpus, ordered_map

if TYPE_CHECKING:
    from torch import Tensor

PIXELS_VERSION = 1
"""Raised whenever a release changes the pixels of an unchanged source, so that no cached feature is stale."""
MAX_WORKERS = 16
"""Threads that decode images unless a number is given. More of them rarely make decoding faster."""
_SILENT = SilentProgress()

Loader = Callable[[], Picture]
"""Reads and decodes one image, in any thread; raises `UnreadableImage` for a bad one."""


@dataclass(frozen=True)
class BadImage:
    """An image that could not be decoded."""

    row: int
    """Its row in the selection."""
    id: str
    reason: str


@dataclass(frozen=True)
class ImageBatch:
    """Consecutive rows of the selection. Sizes may differ from image to image."""

    rows: list[int]
    """The rows that decoded, ascending."""
    images: list[Tensor]
    """One per row: uint8 [3, H, W] RGB, or float32 in [0, 1] for float input with quantize="none"; H W C strides."""
    bad: list[BadImage]
    records: np.ndarray
    """One record of dtype `IMAGE_RECORD` per row."""


@dataclass(frozen=True)
class _Content:
    """The result of reading the content of a source."""

    digest: str | None
    stamps: Mapping[str | Path, list[int] | None]
    """The identity of each file just before it was read."""


class _Ready(NamedTuple):
    image: Tensor
    record: tuple


class ImageSource(ABC):
    """An ordered selection of images, which never changes. Subclasses set `kind` and give `_loaders` and
    `_content_digest`.

    `rows` are the positions of the selected images in the whole, ascending; None when the length is unknown.
    """

    kind: str
    path: Path | None = None
    """The one file that holds all images, for an array file."""
    is_repeatable: bool = True
    """False when the images can be read once only."""
    is_indexed: bool = True
    """False if images are made, or given, one after the other, so that some rows alone are no source of their own."""
    trained_on: tuple[str, ...] | None = None
    """The encoders that the generator of the images was trained on, where `fdr sample` wrote them beside the images."""

    def __init__(
        self,
        name: str,
        options: ImageOptions,
        ids: Sequence[str],
        labels: Labels | None = None,
        left_out: Mapping[str, int] | None = None,
    ) -> None:
        self.name = as_utf8(name)
        self.options = options
        self.rows = None if isinstance(ids, EndlessIds) else select(len(ids), options, name)
        self.all_ids = ids
        """The ids of all images, of which `ids` are the selected ones."""
        self.ids: Sequence[str] = ids if self.rows is None else Selected(ids, self.rows)
        self.labels = None if labels is None else np.asarray(labels.values, dtype=np.int64)[self.rows]
        self.class_names = None if labels is None else labels.names
        self.labels_from = None if labels is None else labels.origin
        """Where the labels were found: "class folders", "dataset.json", "arr_1", ..."""
        self.left_out = dict(left_out or {})
        """The number of files beside the images that are not measured, by kind."""
        self._check_left_out(0 if self.rows is None else len(ids))
        self.warnings: list[str] = []
        """The warnings given when the source was opened."""
        self._content: _Content | None = None

    def _check_left_out(self, total: int) -> None:
        """Warn of files that are not measured. Raise `InputError` if more images are lost than the share `max_bad`."""
        if not self.left_out:
            return
        lost, listed = lost_images(self.left_out), left_out_text(self.left_out)
        if lost > self.options.max_bad * (lost + total):
            raise InputError(
                f"{self.name} has {total} images that can be measured, and beside them {listed}: more than the share "
                f"of {self.options.max_bad:.4g} that may be left out; convert or remove those, or raise --max-bad."
            )
        warn(f"{self.name}: beside {total} images, these are left out: {listed}.")

    @abstractmethod
    def _loaders(self, start: int, stop: int | None) -> Iterator[Loader]:
        """The loaders of rows start..stop of the selection, in order."""

    def _files(self, start: int = 0, stop: int | None = None) -> Sequence[str | Path]:
        """The files that rows start..stop come from; none for images in memory."""
        return ()

    @abstractmethod
    def _content_digest(self, group: Group, progress: Progress) -> str | None:
        """A hash of the bytes behind the selected pixels, or None for a source that can be read only once."""

    def __len__(self) -> int:
        """Number of selected images; `TypeError` for an iterable of unknown length."""
        if self.rows is None:
            raise TypeError(f"{self.name} has no known length")
        return len(self.rows)

    def __repr__(self) -> str:
        length = "" if self.rows is None else f", {len(self.rows)} images"
        return f"<{type(self).__name__} {self.name!r}{length}>"

    @property
    def digest(self) -> str | None:
        """sha256 over the content of the selection and the policy; None for an iterable. Found on first use."""
        return self.find_digest()

    def find_digest(self, group: Group = SOLO, progress: Progress = _SILENT) -> str | None:
        """Find `digest`, each rank of `group` hashing a part of the files; all ranks make this call together.

        `progress` shows how far the reading of large files is.
        """
        is_found_everywhere = all(group.gather(self._content is not None))
        if self._content is None or not is_found_everywhere:
            self._content = self._read_content(group, progress)
        return self._content.digest

    def _read_content(self, group: Group, progress: Progress) -> _Content:
        stamps = {path: file_stamp(path) for path in self._files()}
        with quiet_pillow(self.options.max_pixels):
            content = self._content_digest(group, progress)
        if content is None:
            return _Content(None, stamps)
        decisive = {"pixels": PIXELS_VERSION, "content": content, "max_pixels": self.options.max_pixels, **self.policy}
        return _Content(hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest(), stamps)

    @property
    def made_by(self) -> Mapping[str, Any] | None:
        """How generated images are made, for reports; None for images that are read."""
        return None

    def check_unchanged(self, start: int, stop: int) -> None:
        """Raise `RunError` when a file behind rows start..stop has changed since `digest` was computed."""
        stamps = {} if self._content is None else self._content.stamps
        for path in self._files(start, stop) if stamps else ():
            if file_stamp(path) != stamps[path]:
                raise RunError(
                    f"{path} changed while {self.name} was being read; run the same command again when nothing writes "
                    "there any more."
                )

    @property
    def policy(self) -> dict[str, str]:
        """All that decides the pixels besides the content. EXIF orientation is never applied."""
        crop, size = self.options.crop, self.options.size
        named = "none" if size is None else f"{'squash' if crop == 'none' else crop}-{size}"
        policy = {"crop": named, "alpha": self.options.alpha, "quantize": self.options.quantize}
        if lost := lost_images(self.left_out):
            policy["left"] = str(lost)
        if size is not None:
            import PIL

            policy["pillow"] = PIL.__version__
        return policy

    def batches(
        self, batch_size: int, num_workers: int | None = None, start: int = 0, stop: int | None = None
    ) -> Iterator[ImageBatch]:
        """Rows start..stop of the selection in batches of `batch_size` rows, the last one perhaps shorter.

        Images are decoded ahead in `num_workers` threads (None: one per processor, at most 16; 0: none), a few batches
        at most. The rows of a batch never depend on the threads or on bad files.

        Raises `InputError` naming the first bad image, or, with on_bad="skip", `RunError` after the last batch of a
        whole pass when more than the share `max_bad` was bad.
        """
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1; got {batch_size}.")
        if num_workers is None:
            num_workers = min(MAX_WORKERS, available_cpus())
        elif num_workers < 0:
            raise InputError(f"num_workers must be at least 0; got {num_workers}.")
        if self.rows is not None:
            start, stop, _ = slice(start, stop).indices(len(self.rows))
        return self._pass(batch_size, num_workers, start, stop)

    def _pass(self, batch_size: int, num_workers: int, start: int, stop: int | None) -> Iterator[ImageBatch]:
        bad: list[BadImage] = []
        row = start
        ahead = 2 * batch_size + num_workers
        ready = ordered_map(self._prepare, self._loaders(start, stop), num_workers, ahead)
        with quiet_pillow(self.options.max_pixels), closing(ready):
            while results := list(islice(ready, batch_size)):
                batch = self._collect(row, results)
                bad += batch.bad
                row += len(results)
                yield batch
        if start == 0 and (self.rows is None or row == len(self.rows)):
            self.check_bad(bad, row)

    def _prepare(self, load: Loader) -> _Ready | UnreadableImage:
        import torch

        try:
            picture = load()
        except UnreadableImage as error:
            return error
        except WrongValues as error:
            if self.options.on_bad == "fail":
                raise
            return UnreadableImage(str(error))
        array = self._resized(picture)
        return _Ready(torch.from_numpy(array).permute(2, 0, 1), record_of(array, picture.format))

    def _resized(self, picture: Picture) -> np.ndarray:
        if self.options.size is None:
            return picture.array
        image = picture.pixels
        if isinstance(image, np.ndarray):
            from PIL import Image

            if image.dtype != np.uint8:
                raise InputError(
                    f"{self.name} holds floats and quantize='none' keeps them, but a crop or size resizes 8-bit "
                    "pixels with Pillow; use quantize='uint8', or give images of the final size."
                )
            image = Image.fromarray(image)
        return np.array(CROPS[self.options.crop](image, self.options.size))

    def _collect(self, row: int, results: Sequence[_Ready | UnreadableImage]) -> ImageBatch:
        rows: list[int] = []
        images: list[Tensor] = []
        records: list[tuple] = []
        bad: list[BadImage] = []
        for offset, result in enumerate(results):
            if isinstance(result, _Ready):
                rows.append(row + offset)
                images.append(result.image)
                records.append((row + offset, *result.record))
                continue
            name, reason = self.ids[row + offset], str(result)
            if self.options.on_bad == "fail":
                raise InputError(
                    f"{self.name}: {name} cannot be used: {reason}. Replace or remove it, or skip bad images with "
                    "--on-bad skip."
                ) from result
            bad.append(BadImage(row + offset, name, reason))
        return ImageBatch(rows, images, bad, np.array(records, IMAGE_RECORD))

    def check_bad(self, bad: Sequence[BadImage], num_rows: int, is_all: bool = True) -> None:
        """Raise `RunError` when `bad`, all bad images or those found so far, is more than the share `max_bad` of
        `num_rows` images."""
        if len(bad) > self.options.max_bad * num_rows:
            first = "; ".join(f"{image.id}: {image.reason}" for image in bad[:3])
            more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
            least = "" if is_all else "at least "
            raise RunError(
                f"{self.name}: {least}{len(bad)} of {num_rows} images are bad, above the limit of "
                f"{self.options.max_bad:.4g} (max_bad): {first}{more}."
            )


def select(total: int, options: ImageOptions, name: str) -> np.ndarray:
    """Ascending rows of the seeded subset of `options.count` out of `total`; all rows when no count is set.

    The same on every platform and numpy version, and nested: a smaller count with the same seed is a subset.
    """
    if options.count is None or options.count == total:
        return np.arange(total)
    if options.count > total:
        found = "only one image" if total == 1 else f"only {total} images"
        raise InputError(f"{name} has {found}, but {options.count} were asked for (count).")
    keys = np.random.PCG64(options.seed).random_raw(total)
    return np.sort(np.argsort(keys, kind="stable")[: options.count])
