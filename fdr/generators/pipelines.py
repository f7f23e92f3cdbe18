"""Pipelines of diffusers as sources of images: they draw their own noise, from random generators that we seed."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fdr.errors import InputError
from fdr.generators.base import OUTSIDE_SHARE, OVERSHOOT, failures_named, one_size
from fdr.generators.labels import SAMPLING_VERSION, network_seed
from fdr.generators.loaded_pipeline import LoadedPipeline
from fdr.generators.prompts import SamplePrompts
from fdr.generators.source import DEFAULT_COUNT, SampleSource
from fdr.images import Captions
from fdr.runtime import Group, Progress
from fdr.weights import quiet

INPUTS = ("batch_size", "class_labels", "prompt")
"""The arguments of a pipeline that say how many images it makes, and of what."""
SUPPLIED = (*INPUTS, "generator", "output_type")
MAX_BATCH = 16
"""Images in a batch unless --batch-size is given. Networks of text to image take much memory for each image."""

LEAST_PART = 64
"""Samples in one part of an output, about. Raising it makes a killed run lose more images."""


def is_pipeline(value: Any) -> bool:
    """True for an object that is called with random generators and not with noise."""
    if isinstance(value, LoadedPipeline):
        return True
    if isinstance(value, nn.Module) or inspect.isclass(value):
        return False
    try:
        called = inspect.signature(value).parameters
    except (TypeError, ValueError):
        return False
    return "generator" in called and bool({*INPUTS} & called.keys())


class PipelineSource(SampleSource):
    """Samples of a pipeline of diffusers: sample i has a random generator of its own, seeded with (seed, i).

    A `LoadedPipeline` is told apart from others by its digest, so that its samples can be cached and resumed. Nothing
    tells two versions of any other pipeline apart.
    """

    def __init__(
        self,
        pipeline: LoadedPipeline | Callable[..., Any],
        num_classes: int | None,
        count: int | None,
        *,
        captions: Captions | None = None,
        **sampling: Any,
    ) -> None:
        self.loaded = pipeline if isinstance(pipeline, LoadedPipeline) else None
        self._pipeline: Any = pipeline.pipeline if isinstance(pipeline, LoadedPipeline) else pipeline
        self._object = getattr(self._pipeline, "func", self._pipeline)  # of a functools.partial
        self._arguments: Mapping[str, Any] = {} if self.loaded is None else self.loaded.arguments
        self._called = inspect.signature(self._pipeline).parameters
        name = getattr(self._object, "__name__", type(self._object).__name__)
        if self.loaded is not None:
            name = _name(self.loaded)
        if num_classes is None and self.loaded is not None:
            num_classes = self.loaded.num_classes
        num_classes = num_classes or None  # 0: without labels
        self._check_inputs(name, num_classes, captions)
        if count is None:
            count = DEFAULT_COUNT if captions is None else len(captions)
        prompts = None if captions is None else SamplePrompts(captions, count)
        super().__init__(name, num_classes, count, prompts=prompts, **sampling)
        self.is_repeatable = self.loaded is not None

    def _check_inputs(self, name: str, num_classes: int | None, captions: Captions | None) -> None:
        """Raise `InputError` for a pipeline that needs other inputs than those that were given."""
        called, have = self._called, {*SUPPLIED, *self._arguments}
        if captions is not None and "prompt" not in called:
            raise InputError(f"{name} makes images without texts; leave out --prompts.")
        if captions is None and "prompt" in called:
            raise InputError(f"{name} makes images of texts; give a file of them with --prompts.")
        if num_classes is not None and "class_labels" not in called:
            raise InputError(f"{name} takes no class labels; leave out --num-classes.")
        may_have_none = self.loaded is not None and "batch_size" in called  # and the network has no classes
        if "class_labels" in called and num_classes is None and not may_have_none:
            raise InputError(f"{name} takes class labels; say how many classes with --num-classes.")
        for item in called.values():
            is_needed = item.default is item.empty and item.kind not in (item.VAR_KEYWORD, item.VAR_POSITIONAL)
            if is_needed and item.name not in have:
                raise InputError(
                    f"{name} needs {item.name} beside texts and labels; give it with --pipeline-args, or measure a "
                    "function that supplies it."
                )

    @property
    def made_by(self) -> dict[str, Any]:
        labels = None if self.num_classes is None else self.label_policy
        made = {"generator": self.name, "count": len(self), "seed": self.seed, "labels": labels}
        if self.prompts is not None:
            made["prompts"] = self.prompts.digest
        if self.loaded is not None:
            made |= {
                "pipeline": type(self._pipeline).__name__,
                "scheduler": self.loaded.scheduler,
                "arguments": self.loaded.shown,
                "dtype": self.loaded.dtype,
                **self.loaded.versions,
                "digest": self.loaded.digest,
            }
            made |= {"left_out": list(self.loaded.left_out)} if self.loaded.left_out else {}
        return made

    @property
    def described(self) -> str:
        return self.name if self.loaded is None else f"{self.name}, {self.loaded.kind}"

    @property
    def part_size(self) -> int:  # type: ignore[override]
        """A few batches, because a sample takes seconds."""
        return self.batch_size * max(1, LEAST_PART // self.batch_size)

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes."""
        return torch.device(getattr(self._object, "device", "cpu"))

    def _made(self, start: int, stop: int) -> np.ndarray:
        draws = [torch.Generator().manual_seed(network_seed(self.seed, row)) for row in range(start, stop)]
        arguments = {**self._arguments, **self._inputs(start, stop)}
        devices = [self.device] if self.device.type == "cuda" else []
        where = f"samples {start} to {stop - 1}"
        with failures_named(self.name, where), torch.no_grad(), _silent(self._object), torch.random.fork_rng(devices):
            torch.manual_seed(network_seed(self.seed, start))  # for what does not draw from our generators
            try:
                made = self._pipeline(generator=draws, **arguments)
            except TypeError:  # of torch's own functions, which take one generator for the whole batch
                if self.loaded is not None:
                    raise
                made = self._pipeline(generator=draws[0], **arguments)
        images = _pictures(made, len(draws), f"{self.name}, in {where},")
        self.image_size = one_size(images, self.image_size, self.name, where)
        return images

    def _inputs(self, start: int, stop: int) -> dict[str, Any]:
        """The arguments of the call for samples start..stop."""
        count = stop - start
        inputs: dict[str, Any] = {"output_type": "np"} if "output_type" in self._called else {}
        labels = self.labels_at(start, stop)
        if self.prompts is not None:
            inputs["prompt"] = self.prompts.texts(start, stop)
            for name, value in self._arguments.items():  # a pipeline wants as many negative prompts as prompts
                if name.startswith("negative_prompt") and isinstance(value, str):
                    inputs[name] = [value] * count
            return inputs
        if labels is not None:
            inputs["class_labels"] = labels.tolist()
        if labels is None or "batch_size" in self._called:
            inputs["batch_size"] = count
        return inputs

    def _content_digest(self, group: Group, progress: Progress) -> str | None:
        if self.loaded is None:
            return None
        decisive = {"pipeline": self.loaded.digest, "seed": self.seed, "labels": self.label_policy, "count": len(self)}
        decisive |= {"classes": self.num_classes, "sampling": SAMPLING_VERSION}
        decisive |= {"prompts": None if self.prompts is None else self.prompts.digest}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _name(loaded: LoadedPipeline) -> str:
    steps = loaded.shown.get("num_inference_steps")
    return f"{loaded.name} ({type(loaded.pipeline).__name__ if steps is None else f'{steps} steps'})"


@contextlib.contextmanager
def _silent(pipeline: Any) -> Iterator[None]:
    """No progress bars and no warnings of a pipeline of diffusers; its own setting is put back afterwards."""
    before = getattr(pipeline, "_progress_bar_config", {})
    has_bar = hasattr(pipeline, "set_progress_bar_config")
    if has_bar:
        pipeline.set_progress_bar_config(**{**before, "disable": True})
    try:
        with quiet("diffusers", "transformers"):
            yield
    finally:
        if has_bar:
            pipeline.set_progress_bar_config(**before)


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
