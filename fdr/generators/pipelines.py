"""Pipelines of diffusers as sources of images: they draw their own noise, from random generators that we seed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fdr.errors import InputError
from fdr.generators.base import OUTSIDE_SHARE, OVERSHOOT, failures_named
from fdr.generators.labels import network_seed
from fdr.generators.source import SampleSource
from fdr.runtime import Group, Progress


def is_pipeline(value: Any) -> bool:
    """True for an object that is called with random generators and not with noise."""
    if isinstance(value, nn.Module) or inspect.isclass(value):
        return False
    try:
        called = inspect.signature(value).parameters
    except (TypeError, ValueError):
        return False
    return "generator" in called and bool({"batch_size", "class_labels"} & called.keys())


class PipelineSource(SampleSource):
    """Samples of a pipeline of diffusers: sample i has a random generator of its own, seeded with (seed, i)."""

    is_repeatable = False  # nothing tells two versions of a pipeline apart

    def __init__(self, pipeline: Callable[..., Any], num_classes: int | None, count: int, **sampling: Any) -> None:
        name = type(getattr(pipeline, "func", pipeline)).__name__
        called = inspect.signature(pipeline).parameters
        if "class_labels" in called and num_classes is None:
            raise InputError(f"{name} takes class labels; say how many classes with --num-classes.")
        super().__init__(name, num_classes, count, **sampling)
        self._pipeline, self._called = pipeline, called

    @property
    def made_by(self) -> dict[str, Any]:
        """How these samples are made, for reports."""
        labels = None if self.num_classes is None else self.label_policy
        return {"generator": self.name, "count": len(self), "seed": self.seed, "labels": labels}

    def _made(self, start: int, stop: int) -> np.ndarray:
        draws = [torch.Generator().manual_seed(network_seed(self.seed, row)) for row in range(start, stop)]
        arguments: dict[str, Any] = {"output_type": "np"} if "output_type" in self._called else {}
        labels = self.labels_at(start, stop)
        if labels is not None and "class_labels" in self._called:
            arguments["class_labels"] = labels.tolist()
        else:
            arguments["batch_size"] = len(draws)
        where = f"samples {start} to {stop - 1}"
        with failures_named(self.name, where), torch.no_grad():
            try:
                made = self._pipeline(generator=draws, **arguments)
            except TypeError:  # of torch's own functions, which take one generator for the whole batch
                made = self._pipeline(generator=draws[0], **arguments)
        return _pictures(made, len(draws), f"{self.name}, in {where},")

    def _content_digest(self, group: Group, progress: Progress) -> str | None:
        return None


def _pictures(made: Any, count: int, who: str) -> np.ndarray:
    """float32 [count, 3, H, W] of what a pipeline returns: an output with `images`, or a tuple beginning with them."""
    images = made[0] if isinstance(made, tuple) else getattr(made, "images", made)
    try:
        if isinstance(images, Tensor):
            images = images.detach().cpu().permute(0, 2, 3, 1).numpy()
        rows = np.stack([np.asarray(image) for image in images])
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{who} returned a {type(images).__name__} that is no batch of images ({error}).") from error
    has_shape = rows.ndim == 4 and len(rows) == count and rows.shape[3] in (1, 3)
    if not has_shape or not (rows.dtype == np.uint8 or rows.dtype.kind == "f"):
        raise InputError(
            f"{who} returned {rows.dtype} {list(rows.shape)}; expected {count} images [H, W, 3] of 8 bits or in [0, 1]."
        )
    values = rows.astype(np.float32) / (255.0 if rows.dtype == np.uint8 else 1.0)
    if ((values < -OVERSHOOT) | (values > 1 + OVERSHOOT)).mean() > OUTSIDE_SHARE:
        raise InputError(f"{who} returned values from {values.min():.3g} to {values.max():.3g}; expected [0, 1].")
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:3], 3)).transpose(0, 3, 1, 2).clip(0, 1))
