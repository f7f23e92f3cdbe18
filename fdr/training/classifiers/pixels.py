"""The pixels of a set of images in one file on disk, which training reads in any order, and its random batches."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from fdr.errors import InputError
from fdr.images import ImageSource
from fdr.runtime import Progress, decode_json, write_atomically
from fdr.training.classifiers.recipes import Recipe

STATISTICS_ROWS = 10_000
"""Images whose pixels give mean and standard deviation. More change them in the third digit."""


@dataclass(frozen=True)
class Pixels:
    """Images of one size, and their classes."""

    images: np.ndarray
    """uint8 [N, H, W, 3], in a file"""
    classes: np.ndarray
    """int64 [N]"""

    def __len__(self) -> int:
        return len(self.images)


def store_pixels(source: ImageSource, classes: np.ndarray, path: Path, progress: Progress) -> Pixels:
    """Decode `source` into the file `path`, unless an earlier run has done so.

    Raises `InputError` if images differ in size.
    """
    mark = path.with_suffix(".json")
    if path.exists() and mark.exists() and decode_json(mark.read_bytes()).get("digest") == source.digest:
        return Pixels(np.load(path, mmap_mode="r"), classes)
    array: np.memmap | None = None
    with progress.task(f"{source.name}: pixels", len(source)) as task:
        for batch in source.batches(64):
            for row, image in zip(batch.rows, batch.images, strict=True):
                pixels = image.permute(1, 2, 0).numpy()
                if array is None:
                    shape = len(source), *pixels.shape
                    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
                if pixels.shape != array.shape[1:]:
                    raise InputError(
                        f"{source.name}: {source.ids[row]} has {pixels.shape[1]} x {pixels.shape[0]} pixels and others "
                        f"{array.shape[2]} x {array.shape[1]}; a classifier needs images of one size."
                    )
                array[row] = pixels
            task.advance(len(batch.rows))
    assert array is not None
    array.flush()
    write_atomically(mark, json.dumps({"digest": source.digest, "source": source.name}))
    return Pixels(np.load(path, mmap_mode="r"), classes)


class Batches:
    """The training batches of one or two sets: a function of (seed, step) alone, so that a resumed run sees the same.

    Every image is drawn once before any is drawn again.
    """

    def __init__(self, parts: list[Pixels], recipe: Recipe, seed: int) -> None:
        self._parts, self._recipe, self._seed = parts, recipe, seed
        self._starts = np.cumsum([0, *map(len, parts)])
        self._epoch, self._order = -1, np.empty(0, np.int64)
        self.mean, self.scale = self._statistics()

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the channels, [3, 1, 1]."""
        count = int(self._starts[-1])
        rows = np.linspace(0, count - 1, min(count, STATISTICS_ROWS)).astype(np.int64)
        total, squares = np.zeros(3), np.zeros(3)
        for row in rows:
            pixels = self._image(row).reshape(-1, 3) / 255.0
            total += pixels.mean(0) / len(rows)
            squares += (pixels**2).mean(0) / len(rows)
        scale = np.sqrt(np.maximum(squares - total**2, 1e-6))
        return tuple(torch.tensor(x, dtype=torch.float32)[:, None, None] for x in (total, scale))  # type: ignore[return-value]

    def _image(self, row: int) -> np.ndarray:
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._parts[part].images[row - self._starts[part]]

    def _rows(self, step: int) -> list[int]:
        count, size = int(self._starts[-1]), self._recipe.batch_size
        rows = []
        for position in range(step * size, (step + 1) * size):
            epoch, place = divmod(position, count)
            if epoch != self._epoch:
                self._epoch, self._order = epoch, np.random.default_rng([self._seed, epoch]).permutation(count)
            rows.append(int(self._order[place]))
        return rows

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Augmented images float32 [B, 3, H, W], and classes int64 [B]."""
        rows = self._rows(step)
        images = torch.from_numpy(np.stack([self._image(row) for row in rows])).permute(0, 3, 1, 2)
        random = np.random.default_rng([self._seed, step, 1])
        x = self.normalised(images)
        x = torch.stack([augmented(image, self._recipe, random) for image in x])
        parts = np.searchsorted(self._starts, rows, side="right") - 1
        classes = [self._parts[part].classes[row - self._starts[part]] for part, row in zip(parts, rows, strict=True)]
        return x, torch.tensor(np.array(classes, np.int64))

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] to float32 with mean 0 and standard deviation 1 over the training set."""
        return (images.float() / 255 - self.mean) / self.scale


def augmented(image: Tensor, recipe: Recipe, random: np.random.Generator) -> Tensor:
    """A random crop and flip of an image [3, H, W] by the recipe."""
    top, left, flip = random.random(3)
    if recipe.augmentation == "pad":
        height, width = image.shape[1:]
        padded = pad(image, [recipe.padding] * 4)
        y, x = (int(at * (2 * recipe.padding + 1)) for at in (top, left))
        image = padded[:, y : y + height, x : x + width]
    else:
        image = _resized_crop(image, recipe.input_size or image.shape[1], top, left, random)
    return image.flip(2) if recipe.flips and flip < 0.5 else image


def _resized_crop(image: Tensor, size: int, top: float, left: float, random: np.random.Generator) -> Tensor:
    """A crop of 8 to 100 % of the area, of 3:4 to 4:3, resized to `size`; at most the whole image."""
    height, width = image.shape[1:]
    area, log_ratio = random.uniform(0.08, 1.0) * height * width, random.uniform(np.log(3 / 4), np.log(4 / 3))
    h = min(height, max(1, round(float(np.sqrt(area / np.exp(log_ratio))))))
    w = min(width, max(1, round(float(np.sqrt(area * np.exp(log_ratio))))))
    y, x = int(top * (height - h + 1)), int(left * (width - w + 1))
    crop = image[None, :, y : y + h, x : x + w]
    return interpolate(crop, (size, size), mode="bilinear", antialias=True, align_corners=False)[0]


def central(images: Tensor, size: int | None) -> Tensor:
    """The central size x size pixels of images [B, 3, H, W], as the network sees them in the test."""
    if size is None:
        return images
    y, x = (images.shape[2] - size) // 2, (images.shape[3] - size) // 2
    return images[:, :, y : y + size, x : x + size]
