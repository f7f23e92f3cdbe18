"""A generator as a source of images: samples are made when they are needed, and are the same every time."""

from __future__ import annotations

import contextlib
import hashlib
import json
from abc import abstractmethod
from typing import Any

import numpy as np
import torch

from fdr.errors import InputError
from fdr.generators.base import Generator
from fdr.generators.labels import SAMPLING_VERSION, Labels, check_labels, labels_of, network_seed, noise_of
from fdr.generators.prompts import SamplePrompts
from fdr.images import ImageOptions, MadeSource, RowIds
from fdr.runtime import Group, Progress

DEFAULT_COUNT = 50_000
"""Samples that are measured unless a number is given, as many as papers use. Fewer make FID larger."""


class SampleSource(MadeSource):
    """Samples 0 to count - 1 of a seed, as images that went through an 8-bit file (with quantize="uint8").

    Values outside of [0, 1] are clamped. Subclasses give `_made`, `made_by`, `described` and `_content_digest`.
    """

    kind = "generator"
    part_size: int | None = None
    """Samples in one part of an output, where that is not as many as usual."""

    def __init__(
        self,
        name: str,
        num_classes: int | None,
        count: int,
        *,
        seed: int,
        labels: Labels,
        batch_size: int,
        options: ImageOptions,
        prompts: SamplePrompts | None = None,
    ) -> None:
        if options.count is not None:
            raise InputError("A generator makes as many images as asked for (--num-images); leave out --count.")
        for what, value, least in (("number of images", count, 1), ("batch size", batch_size, 1), ("seed", seed, 0)):
            if value < least:
                raise InputError(f"The {what} is {value}; it must be at least {least}.")
        super().__init__(name, options, RowIds(("sample", count)) if prompts is None else prompts.names)
        self.seed, self.batch_size, self.num_classes, self.prompts = seed, batch_size, num_classes, prompts
        self.image_size: tuple[int, int] | None = None
        """(H, W); None until the first images are made."""
        self.label_policy = check_labels(labels, num_classes)

    def labels_at(self, start: int, stop: int) -> np.ndarray | None:
        """int64 [stop - start]: the classes of samples start..stop; None for an unconditional generator."""
        if self.num_classes is None:
            return None
        return labels_of(self.label_policy, self.seed, range(start, stop), self.num_classes).numpy()

    @property
    @abstractmethod
    def made_by(self) -> dict[str, Any]:
        """How these samples are made, for reports and for files of samples."""

    @property
    @abstractmethod
    def described(self) -> str:
        """The name, with the weights that were taken or the class of the pipeline, for messages."""


class GeneratorSource(SampleSource):
    """The samples of a `Generator`: `count` of them, `DEFAULT_COUNT` if it is None."""

    def __init__(
        self,
        generator: Generator,
        count: int | None = None,
        *,
        seed: int = 0,
        labels: Labels = "random",
        batch_size: int = 32,
        options: ImageOptions | None = None,
    ) -> None:
        super().__init__(
            generator.name,
            generator.num_classes,
            DEFAULT_COUNT if count is None else count,
            seed=seed,
            labels=labels,
            batch_size=batch_size,
            options=options or ImageOptions(),
        )
        self.generator, self.image_size = generator, generator.image_size
        self._code = generator.digest()
        self.warnings = [generator.weights.note] if generator.weights.note else []
        self.is_repeatable = self._code is not None  # code that cannot be read could change between two passes

    @property
    def made_by(self) -> dict[str, Any]:
        return {
            "generator": self.name,
            "weights": self.generator.weights.label,
            "weights_held": list(self.generator.weights.held),
            "count": len(self),
            "seed": self.seed,
            "labels": None if self.num_classes is None else self.label_policy,
            "digest": self._code,
            **({} if self.generator.trained_on is None else {"trained_on": list(self.generator.trained_on)}),
        }

    @property
    def described(self) -> str:
        return f"{self.name} ({self.generator.weights.label})"

    def _made(self, start: int, stop: int) -> np.ndarray:
        """float32 [stop - start, 3, H, W], clamped to [0, 1]; values that are not finite stay."""
        device, labels = self.generator.device, self.labels_at(start, stop)
        noise = noise_of(self.seed, range(start, stop), self.generator.noise_shape, device)
        classes = None if labels is None else torch.from_numpy(labels).to(device)
        is_cuda = device.type == "cuda"
        current = torch.cuda.device(device) if is_cuda else contextlib.nullcontext()
        with torch.no_grad(), torch.random.fork_rng([device] if is_cuda else []), current:
            torch.manual_seed(network_seed(self.seed, start))
            images = self.generator.run(noise, classes, f"samples {start} to {stop - 1}")
            self.image_size = self.generator.image_size
            return images.clamp(0, 1).cpu().numpy()

    def _content_digest(self, group: Group, progress: Progress) -> str | None:
        if self._code is None:
            return None
        decisive = {"code": self._code, "seed": self.seed, "labels": self.label_policy, "count": len(self)}
        decisive |= {"sampling": SAMPLING_VERSION}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
