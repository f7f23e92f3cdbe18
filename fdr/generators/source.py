"""A generator as a source of images: drawn on the fly, the same ones every time."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import numpy as np
import torch

from fdr.errors import InputError
from fdr.generators.base import Generator
from fdr.generators.labels import SAMPLING_VERSION, Labels, check_labels, labels_of, network_seed, noise_of
from fdr.images import ImageOptions, MadeSource, RowIds
from fdr.runtime import Group, Progress

DEFAULT_COUNT = 50_000


def check_counts(count: int, batch_size: int, seed: int, options: ImageOptions) -> None:
    """Raise `InputError` for numbers that are too small, and for a count of images to choose."""
    if options.count is not None:
        raise InputError("A generator makes as many images as asked for (--num-images); leave out --count.")
    for name, value, least in (("number of images", count, 1), ("batch size", batch_size, 1), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"The {name} is {value}; it must be at least {least}.")


class GeneratorSource(MadeSource):
    """Samples 0 to count - 1 of a seed, as images that went through an 8-bit file (with quantize="uint8").

    Values outside of [0, 1] are clamped.
    """

    kind = "generator"

    def __init__(
        self,
        generator: Generator,
        count: int = DEFAULT_COUNT,
        *,
        seed: int = 0,
        labels: Labels = "random",
        batch_size: int = 32,
        options: ImageOptions | None = None,
    ) -> None:
        options = options or ImageOptions()
        check_counts(count, batch_size, seed, options)
        super().__init__(generator.name, options, RowIds(("sample", count)))
        self.generator = generator
        self.seed = seed
        self.label_policy = check_labels(labels, generator.num_classes)
        self.batch_size = batch_size
        self._code = generator.digest()
        self.warnings = [generator.weights.note] if generator.weights.note else []
        self.is_repeatable = self._code is not None  # code that cannot be read could change between two passes

    @property
    def made_by(self) -> dict[str, Any]:
        """How these samples are made, for reports and for files of samples."""
        return {
            "generator": self.name,
            "weights": self.generator.weights.label,
            "weights_held": list(self.generator.weights.held),
            "count": len(self),
            "seed": self.seed,
            "labels": None if self.generator.num_classes is None else self.label_policy,
            "digest": self._code,
        }

    def labels_at(self, start: int, stop: int) -> np.ndarray | None:
        """int64 [stop - start]: the classes of samples start..stop; None for an unconditional generator."""
        classes = self.generator.num_classes
        if classes is None:
            return None
        return labels_of(self.label_policy, self.seed, range(start, stop), classes).numpy()

    def _made(self, start: int, stop: int) -> np.ndarray:
        """float32 [stop - start, 3, H, W], clamped to [0, 1]; values that are not finite stay."""
        device, indices = self.generator.device, range(start, stop)
        noise = noise_of(self.seed, indices, self.generator.noise_shape, device)
        labels = self.labels_at(start, stop)
        classes = None if labels is None else torch.from_numpy(labels).to(device)
        is_cuda = device.type == "cuda"
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.random.fork_rng([device] if is_cuda else []))
            if is_cuda:
                stack.enter_context(torch.cuda.device(device))
            torch.manual_seed(network_seed(self.seed, start))
            images = self.generator.run(noise, classes, f"samples {start} to {stop - 1}")
            return images.clamp(0, 1).cpu().numpy()

    def _content_digest(self, group: Group, progress: Progress) -> str | None:
        if self._code is None:
            return None
        facts = {"code": self._code, "seed": self.seed, "labels": self.label_policy, "count": len(self)}
        facts |= {"sampling": SAMPLING_VERSION}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
