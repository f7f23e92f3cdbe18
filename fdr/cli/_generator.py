"""The options that say which generator, shared by every command that runs one."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fdr.cli._options import flag, is_typed, prepare_evaluation, stack, trusts
from fdr.runtime import Progress

if TYPE_CHECKING:
    from fdr.evaluation import Evaluator
    from fdr.generators import Generator
    from fdr.images import ImageSource

T = TypeVar("T")

RANGES = {"0:1": (0.0, 1.0), "-1:1": (-1.0, 1.0)}


class NoiseShape(click.ParamType):
    """ "64" or "3x32x32"."""

    name = "shape"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"\d+([x,]\d+)*", str(value)):
            self.fail(f"{value!r} is no shape of noise; expected sizes such as 64 or 3x32x32.", param, ctx)
        return tuple(int(size) for size in re.split("[x,]", str(value)))


_architecture = stack(
    click.option(
        "--arch",
        metavar="NAME|MODULE:FACTORY",
        help="The network to load the weights into: a known name (pmf-b-256, jit-b-256, ...), or a function that "
        "builds it from --arch-args. A run folder of fdr train needs none.",
    ),
    click.option(
        "--arch-args",
        multiple=True,
        metavar="KEY=VALUE",
        help="Arguments for that function; values are JSON or text. May be repeated, or several given in quotes.",
    ),
    click.option(
        "--ema",
        metavar="LABEL",
        help="Which weights of a checkpoint to use: the label of an average, such as edm_250, or none for the trained "
        "weights.  [default: the first average, as in papers; fdr train starts from the trained weights]",
    ),
    click.option(
        "--noise-shape",
        type=NoiseShape(),
        metavar="SHAPE",
        help="Shape of the noise of one sample, such as 64 or 3x32x32.  [default: what the generator declares]",
    ),
    click.option(
        "--num-classes",
        type=click.IntRange(min=0),
        metavar="N",
        help="Number of classes; 0 for a generator without labels.  [default: what the generator declares, else 0]",
    ),
    click.option(
        "--value-range",
        type=click.Choice(list(RANGES)),
        help="The values of black and white in the images of the network.  [default: what the generator declares, else "
        "0:1]",
    ),
)
labels = click.option(
    "--labels",
    default="random",
    show_default=True,
    metavar="random|balanced|K",
    help="Class labels of the samples: drawn at random, every class equally often, or class K for all.",
)
_which_samples = stack(
    click.option(
        "--gen",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Measure a generator; it makes the samples during the run (the same as fdr sample), from --seed.",
    ),
    click.option(
        "-n",
        "--num-images",
        type=click.IntRange(min=1),
        default=50_000,
        show_default=True,
        metavar="N",
        help="Number of samples to make with --gen.",
    ),
    labels,
)


@dataclass(frozen=True)
class Choice:
    """The values of the options of `architecture`."""

    arch: str | None
    arch_args: tuple[str, ...]
    ema: str | None
    noise_shape: tuple[int, ...] | None
    num_classes: int | None
    value_range: str | None
    trust: bool = False

    def settings(self) -> dict[str, Any]:
        """The arguments of `fdr.load_generator` beside path and device."""
        return {
            "arch": self.arch,
            "arch_args": arguments(self.arch_args),
            "value_range": None if self.value_range is None else RANGES[self.value_range],
            "noise_shape": self.noise_shape,
            "num_classes": self.num_classes,
            "ema": self.ema,
        }

    def load(self, path: Path, device: str, offline: bool | None = None) -> Generator:
        """The generator in `path` that the options describe."""
        from fdr.generators import load_generator

        return load_generator(path, device=device, offline=offline, trust=self.trust, **self.settings())


_CHOICES = tuple(field.name for field in fields(Choice) if field.name != "trust")
"""The options of `architecture`."""


def architecture(command: Callable[..., T]) -> Callable[..., T]:
    """A command that takes `choice`, made of the options that say what a checkpoint is of."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> T:
        chosen = {name: options.pop(name) for name in _CHOICES}
        return command(*arguments, choice=Choice(**chosen, trust=trusts()), **options)

    return _architecture(run)


@dataclass(frozen=True)
class Drawn:
    """The samples that --gen asks for."""

    path: Path
    choice: Choice
    num_images: int
    labels: str

    def source(self, evaluator: Evaluator, seed: int) -> ImageSource:
        """Made where the first encoder is, and as many at a time."""
        from fdr.generators import GeneratorSource

        device = evaluator.encoders[0].device
        return GeneratorSource(
            self.choice.load(self.path, str(device), evaluator.encoder_options.offline),
            self.num_images,
            seed=seed,
            labels=self.labels,
            batch_size=evaluator.extraction_options.batch_size_on(device.type),
            options=evaluator.image_options,
        )


def measured(command: Callable[..., T]) -> Callable[..., T]:
    """A command that takes `drawn`, the samples of a generator or None, made of the options that say which."""

    @functools.wraps(command)
    def run(*arguments: Any, gen: Path | None, num_images: int, labels: str, choice: Choice, **options: Any) -> T:
        names = ("num_images", "labels", *_CHOICES)
        typed = [name for name in names if is_typed(name)]
        if gen is None and typed:
            others = " To take a subset of sample sets, use --count." if typed[0] == "num_images" else ""
            raise click.UsageError(f"{flag(typed[0])} goes with --gen, the generator that it is about.{others}")
        drawn = None if gen is None else Drawn(gen, choice, num_images, labels)
        return command(*arguments, drawn=drawn, **options)

    return _which_samples(architecture(run))


def prepare_samples(
    samples: Sequence[str], drawn: Drawn | None, progress: Progress, **measuring: Any
) -> tuple[Evaluator, list[ImageSource]]:
    """`prepare_evaluation`, with the samples of a generator as one more set."""
    evaluator, sources = prepare_evaluation(samples, progress, **measuring)
    if drawn is not None:
        sources.append(drawn.source(evaluator, measuring["seed"]))
    return evaluator, sources


def arguments(given: tuple[str, ...], option: str = "--arch-args") -> dict[str, Any]:
    """("width=256 act=relu", "deep=true") -> {"width": 256, "act": "relu", "deep": True}."""
    arguments: dict[str, Any] = {}
    for text in (part for several in given for part in several.split()):
        key, separator, value = text.partition("=")
        if not separator or not key.isidentifier():
            raise click.BadParameter(f"{text!r} is not KEY=VALUE.", param_hint=option)
        try:
            read = json.loads(value)
        except ValueError:
            read = value
        if arguments.get(key, read) != read:
            raise click.BadParameter(f"{key} was given two values, {arguments[key]!r} and {read!r}.", param_hint=option)
        arguments[key] = read
    return arguments
