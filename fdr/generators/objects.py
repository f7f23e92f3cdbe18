"""Python objects as generators: networks, functions, and pipelines of diffusers."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fdr import runtime
from fdr.errors import InputError
from fdr.generators.architectures import declared, needs_labels
from fdr.generators.base import Generator, GeneratorSpec
from fdr.generators.first_images import check_first_images
from fdr.generators.labels import Labels
from fdr.generators.loaded_pipeline import LoadedPipeline
from fdr.generators.pipelines import PipelineSource, is_pipeline
from fdr.generators.source import GeneratorSource
from fdr.images import Captions, ImageOptions, ImageSource, takes_nothing
from fdr.weights import find_object

ACCEPTED = (
    "a Generator (fdr.load_generator), an nn.Module or function of noise [B, *noise_shape] (and labels [B]) that "
    "returns images [B, 3, H, W], or a pipeline of diffusers (an object, or fdr.load_pipeline)"
)
"""What a generator may be, for messages."""


class CalledFunction(nn.Module):
    """A function as a network. Two versions of a function cannot be distinguished, so its features are never cached."""

    has_identity = False

    def __init__(self, function: Callable[..., Any], device: torch.device) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("place", torch.empty(0, device=device), persistent=False)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def is_generator(value: Any) -> bool:
    """True for a network, and for a callable that is neither a collection of images nor takes no arguments."""
    if isinstance(value, nn.Module | LoadedPipeline):
        return True
    if takes_nothing(value):
        return False
    holds = any(hasattr(value, name) for name in ("__getitem__", "__iter__", "__array__"))
    return callable(value) and not holds and not isinstance(value, ImageSource)


_OBJECT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def names_object(text: str) -> bool:
    """True for "module:name", an object in Python, unless there is a file of that name."""
    return _OBJECT.fullmatch(text) is not None and not Path(text).exists()


def find_named(text: str) -> Any:
    """The object that "module:name" names, imported from the current folder too; None for any other text.

    Raises `InputError` if the import fails, if there is no such object, and for the class of a network.
    """
    if not names_object(text):
        return None
    module, _, name = text.partition(":")
    value = find_object(module, name, f"The generator {text!r}")
    if inspect.isclass(value) and issubclass(value, nn.Module):
        raise InputError(
            f"{text} is the class of a network; name its weights with --gen and the class with --arch, or name an "
            "object of it."
        )
    return value


def as_generator(
    value: Any,
    device: str | None = None,
    *,
    value_range: tuple[float, float] | None = None,
    noise_shape: Sequence[int] | int | None = None,
    num_classes: int | None = None,
) -> Generator:
    """A network or function as a `Generator` in eval mode, after it has been tried on a few samples.

    Arguments that are None are taken from attributes of these names. Without `device` a network stays on its device.
    Raises `InputError` for any other object, and for one that makes no images of its value range.
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
    else:
        network = CalledFunction(value, runtime.resolve_device(device or "cpu"))
    generator = Generator(network, spec_of(name, network, {**declared(value), **given}), name=name)
    check_first_images(generator.eval())
    return generator


def spec_of(name: str, network: nn.Module, stated: Mapping[str, Any]) -> GeneratorSpec:
    """The spec with the noise_shape, num_classes and value_range that were stated.

    Raises `InputError` if one is missing or no number.
    """
    shape = stated.get("noise_shape")
    if shape is None:
        raise InputError(
            f"Nothing says which noise {name} takes; give --noise-shape, such as 64 or 3x32x32, or an attribute "
            f"noise_shape of the network, or, beside a file of weights, {name}.json with noise_shape, num_classes and "
            "value_range."
        )
    if "num_classes" not in stated and needs_labels(network):
        raise InputError(f"{name} takes labels beside noise; say how many classes with --num-classes.")
    try:
        sizes = tuple(shape) if not isinstance(shape, int) else (shape,)
        scale = tuple(float(value) for value in stated.get("value_range", (0.0, 1.0)))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: noise_shape and value_range are lists of numbers ({error}).") from error
    classes = stated.get("num_classes")
    return GeneratorSpec(sizes, None if classes == 0 else classes, scale)  # type: ignore[arg-type]


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
def samples_of(
    value: Any, batch_size: int, options: ImageOptions, drawn: GeneratorOptions, captions: Captions | None = None
) -> Iterator[Any]:
    """The samples of a generator as a source of images; any other value is given back as it is.

    `captions` are the texts that a pipeline makes images of, and no concern of other generators.

    A network is put into eval mode, and afterwards into the mode it was in. Raises `InputError` if `drawn` says
    something about images that need no generator.
    """
    given = {name: item for name, item in vars(drawn).items() if item is not None}
    if not is_generator(value):
        if given:
            raise InputError(f"{', '.join(given)}: only a generator has this; got a {type(value).__name__}.")
        yield value
        return
    count: int | None = given.pop("num_images", None)
    sampling: dict[str, Any] = {"seed": given.pop("seed", 0), "labels": given.pop("labels", "random")}
    sampling |= {"batch_size": batch_size, "options": options}
    if is_pipeline(value):
        classes = given.pop("num_classes", None)
        if given:
            raise InputError(f"A pipeline draws its own noise; leave out {', '.join(given)}.")
        yield PipelineSource(value, classes, count, captions=captions, **sampling)
        return
    parts = list(value.modules()) if isinstance(value, nn.Module) else []
    modes = [part.training for part in parts]
    try:
        generator = as_generator(value, **given)
        generator.eval()
        yield GeneratorSource(generator, count, **sampling)
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
