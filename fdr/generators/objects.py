"""Python objects as generators: networks, functions, and pipelines of diffusers."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fdr import runtime
from fdr.errors import InputError
from fdr.generators.architectures import declared, needs_labels
from fdr.generators.base import OUTSIDE_SHARE, OVERSHOOT, Generator, GeneratorSpec, telling
from fdr.generators.labels import Labels, check_labels, labels_of, network_seed
from fdr.generators.source import DEFAULT_COUNT, GeneratorSource, check_counts
from fdr.images import ImageOptions, ImageSource, MadeSource, RowIds
from fdr.runtime import Group, Progress

ACCEPTED = (
    "a Generator (fdr.load_generator), an nn.Module or function of noise [B, *noise_shape] (and labels [B]) that "
    "returns images [B, 3, H, W], or a pipeline of diffusers without a prompt"
)
"""What a generator may be, for messages."""
_DRAWN: tuple[tuple[str, Any], ...] = (("num_images", DEFAULT_COUNT), ("seed", 0), ("labels", "random"))


class CalledFunction(nn.Module):
    """A function as a network. Nothing tells two versions of it apart, so what it makes is never cached."""

    has_identity = False

    def __init__(self, function: Callable[..., Any], device: torch.device) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("place", torch.empty(0, device=device), persistent=False)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def is_generator(value: Any) -> bool:
    """True for a network, and for a callable that is not a collection of images."""
    if isinstance(value, nn.Module):
        return True
    holds = any(hasattr(value, name) for name in ("__getitem__", "__iter__", "__array__"))
    return callable(value) and not holds and not isinstance(value, ImageSource)


def as_generator(
    value: Any,
    device: str | None = None,
    *,
    value_range: tuple[float, float] | None = None,
    noise_shape: Sequence[int] | int | None = None,
    num_classes: int | None = None,
) -> Generator:
    """A network or a function as a `Generator`, in eval mode, which has made a few images already.

    What is not given is taken from attributes of these names. A `device` moves a network; without it, it stays where it
    is. Raises `InputError` for another object, and for one that makes no images of the declared range.
    """
    given = {"noise_shape": noise_shape, "num_classes": num_classes, "value_range": value_range}
    given = {name: item for name, item in given.items() if item is not None}
    if isinstance(value, Generator):
        if given:
            raise InputError(f"{value.name} is a Generator already; leave out {', '.join(given)}.")
        return value.to(device) if device is not None else value
    name = getattr(value, "__name__", type(value).__name__)
    if inspect.isclass(value) or not is_generator(value):
        what = f"{name} is a class: make an object of it" if inspect.isclass(value) else f"got a {name}"
        raise InputError(f"A generator is {ACCEPTED}; {what}.")
    if isinstance(value, nn.Module):
        network = value if device is None else value.to(runtime.resolve_device(device))
        facts = {**declared(network), **given}
    else:
        network = CalledFunction(value, runtime.resolve_device(device or "cpu"))
        facts = {key: getattr(value, key, None) for key in ("noise_shape", "num_classes", "value_range")}
        facts = {key: item for key, item in {**facts, **given}.items() if item is not None}
    generator = Generator(network, spec_of(name, network, facts), name=name)
    generator.eval().check()
    return generator


def spec_of(name: str, network: nn.Module, facts: Mapping[str, Any]) -> GeneratorSpec:
    """Make a spec of noise_shape, num_classes and value_range. Raises `InputError` if one is missing or no number."""
    shape = facts.get("noise_shape")
    if shape is None:
        raise InputError(
            f"Nothing says which noise {name} takes; give --noise-shape, such as 64 or 3x32x32, or an attribute "
            f"noise_shape of the network, or, beside a file of weights, {name}.json with noise_shape, num_classes and "
            "value_range."
        )
    if "num_classes" not in facts and needs_labels(network):
        raise InputError(f"{name} takes labels beside noise; say how many classes with --num-classes.")
    try:
        sizes = tuple(shape) if not isinstance(shape, int) else (shape,)
        scale = tuple(float(value) for value in facts.get("value_range", (0.0, 1.0)))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: noise_shape and value_range are lists of numbers ({error}).") from error
    classes = facts.get("num_classes")
    return GeneratorSpec(sizes, None if classes == 0 else classes, scale)  # type: ignore[arg-type]


class PipelineSource(MadeSource):
    """Samples of a pipeline of diffusers: sample i has a random generator of its own, seeded with (seed, i)."""

    kind = "generator"
    is_repeatable = False  # nothing tells two versions of a pipeline apart

    def __init__(
        self,
        pipeline: Callable[..., Any],
        count: int,
        *,
        seed: int,
        labels: Labels,
        num_classes: int | None,
        batch_size: int,
        options: ImageOptions,
    ) -> None:
        check_counts(count, batch_size, seed, options)
        called = inspect.signature(pipeline).parameters
        name = type(getattr(pipeline, "func", pipeline)).__name__
        if "class_labels" in called and num_classes is None:
            raise InputError(f"{name} takes class labels; say how many classes with --num-classes.")
        super().__init__(name, options, RowIds(("sample", count)))
        self.seed, self.batch_size, self.num_classes = seed, batch_size, num_classes
        self.label_policy = check_labels(labels, num_classes)
        self._pipeline, self._called = pipeline, called

    @property
    def made_by(self) -> dict[str, Any]:
        """How these samples are made, for reports."""
        labels = None if self.num_classes is None else self.label_policy
        return {"generator": self.name, "count": len(self), "seed": self.seed, "labels": labels}

    def _made(self, start: int, stop: int) -> np.ndarray:
        rows = range(start, stop)
        draws = [torch.Generator().manual_seed(network_seed(self.seed, row)) for row in rows]
        arguments: dict[str, Any] = {"output_type": "np"} if "output_type" in self._called else {}
        if self.num_classes is not None and "class_labels" in self._called:
            arguments["class_labels"] = labels_of(self.label_policy, self.seed, rows, self.num_classes).tolist()
        else:
            arguments["batch_size"] = len(rows)
        where = f"samples {start} to {stop - 1}"
        with telling(self.name, where), torch.no_grad():
            try:
                made = self._pipeline(generator=draws, **arguments)
            except TypeError:  # of torch's own functions, which take one generator for the whole batch
                made = self._pipeline(generator=draws[0], **arguments)
        return _pictures(made, len(rows), f"{self.name}, in {where},")

    def _content_digest(self, group: Group, progress: Progress) -> str | None:
        return None


def _pictures(made: Any, count: int, who: str) -> np.ndarray:
    """float32 [count, 3, H, W] of what a pipeline returns: an output with `images`, or a tuple beginning with them."""
    images = made[0] if isinstance(made, tuple) else getattr(made, "images", made)
    try:
        rows = (
            images.detach().cpu().permute(0, 2, 3, 1).numpy()
            if isinstance(images, Tensor)
            else np.stack([np.asarray(image) for image in images])
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{who} returned a {type(images).__name__} that is no batch of images ({error}).") from error
    if (
        rows.ndim != 4
        or len(rows) != count
        or rows.shape[3] not in (1, 3)
        or not (rows.dtype == np.uint8 or rows.dtype.kind == "f")
    ):
        raise InputError(
            f"{who} returned {rows.dtype} {list(rows.shape)}; expected {count} images [H, W, 3] of 8 bits or in [0, 1]."
        )
    values = rows.astype(np.float32) / (255.0 if rows.dtype == np.uint8 else 1.0)
    if ((values < -OVERSHOOT) | (values > 1 + OVERSHOOT)).mean() > OUTSIDE_SHARE:
        raise InputError(f"{who} returned values from {values.min():.3g} to {values.max():.3g}; expected [0, 1].")
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:3], 3)).transpose(0, 3, 1, 2).clip(0, 1))


def _is_pipeline(value: Any) -> bool:
    """True for an object that is called with random generators and not with noise."""
    if isinstance(value, nn.Module) or inspect.isclass(value):
        return False
    try:
        called = inspect.signature(value).parameters
    except (TypeError, ValueError):
        return False
    return "generator" in called and bool({"batch_size", "class_labels"} & called.keys())


@dataclass(frozen=True)
class GeneratorOptions:
    """Which samples of a generator are measured, and what the generator does not declare itself.

    None stands for the default of the first three, and for what the generator declares.
    """

    num_images: int | None = None
    seed: int | None = None
    labels: Labels | None = None
    noise_shape: Sequence[int] | int | None = None
    num_classes: int | None = None
    value_range: tuple[float, float] | None = None


@contextlib.contextmanager
def samples_of(value: Any, batch_size: int, options: ImageOptions, drawn: GeneratorOptions) -> Iterator[Any]:
    """The samples of a generator; a network is put in eval mode and afterwards as it was. Other values are as they are.

    Raises `InputError` for any of the options `drawn` about images that are there.
    """
    given = {name: item for name, item in vars(drawn).items() if item is not None}
    if not is_generator(value):
        if given:
            raise InputError(f"{', '.join(given)}: only a generator has this; got a {type(value).__name__}.")
        yield value
        return
    count, seed, labels = (given.pop(*pair) for pair in _DRAWN)
    if _is_pipeline(value):
        classes = given.pop("num_classes", None)
        if given:
            raise InputError(f"A pipeline draws its own noise; leave out {', '.join(given)}.")
        yield PipelineSource(
            value, count, seed=seed, labels=labels, num_classes=classes, batch_size=batch_size, options=options
        )
        return
    parts = list(value.modules()) if isinstance(value, nn.Module) else []
    modes = [part.training for part in parts]
    try:
        generator = as_generator(value, **given)
        generator.eval()
        yield GeneratorSource(generator, count, seed=seed, labels=labels, batch_size=batch_size, options=options)
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
