"""The options that describe a generator, shared by every command that runs one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fdr.cli._options import Decorator, flag, gather, is_typed, key_values, option, stack, theme, trusts, value_range

if TYPE_CHECKING:
    from fdr.encoders import EncoderOptions
    from fdr.evaluation import Evaluator
    from fdr.generators import Generator
    from fdr.images import ImageSource


def _noise_shape(ctx: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """A callback that reads sizes from "64" or "3x32x32"."""
    if text is None:
        return None
    if not re.fullmatch(r"\d+([x,]\d+)*", text):
        raise click.BadParameter(f"{text!r} is no shape of noise; expected sizes such as 64 or 3x32x32.")
    return tuple(int(size) for size in re.split("[x,]", text))


@dataclass(frozen=True)
class Model:
    """How a network is made from a checkpoint, where the checkpoint itself does not say."""

    arch: str | None
    arch_args: Mapping[str, object]
    ema: str | None
    noise_shape: tuple[int, ...] | None
    num_classes: int | None
    value_range: tuple[float, float] | None

    def load(self, path: Path, options: EncoderOptions) -> Generator:
        """The generator in `path`, on the device of `options`."""
        from fdr.generators import load_generator

        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return load_generator(path, device=options.device, offline=options.offline, trust=trusts(), **values)


model: Decorator = theme(
    "model",
    Model,
    option(
        "--arch NAME|MODULE:FACTORY",
        "The network to load the weights into: a known name (pmf-b-256, jit-b-256, ...), or a function that "
        "builds it from --arch-args. A run folder of fdr train needs none.",
    ),
    option(
        "--arch-args KEY=VALUE",
        "Arguments for that function; values are JSON or text. May be repeated, or several given in quotes.",
        multiple=True,
        callback=key_values,
    ),
    option(
        "--ema LABEL",
        "Which weights of a checkpoint to use: the label of an average, such as edm_250, or none for the trained "
        "weights.  [default: the first average, as in papers; fdr train starts from the trained weights]",
    ),
    option(
        "--noise-shape SHAPE",
        "Shape of the noise of one sample, such as 64 or 3x32x32.  [default: what the generator declares]",
        callback=_noise_shape,
    ),
    option(
        "--num-classes N",
        "Number of classes; 0 for a generator without labels.  [default: what the generator declares, else 0]",
        type=click.IntRange(min=0),
    ),
    value_range("0:1", "generator"),
)
labels = option(
    "--labels random|balanced|K",
    "Class labels of the samples: drawn at random, every class equally often, or class K for all.",
    default="random",
)


def num_images(meaning: str) -> Decorator:
    """--num-images of a generator, with what is done with them."""
    return option("-n, --num-images N", meaning, type=int, default=50_000)


@dataclass(frozen=True)
class Drawn:
    """The samples of a generator that are made while they are measured."""

    path: Path
    num_images: int
    labels: str
    model: Model

    def source(self, evaluator: Evaluator) -> ImageSource:
        """The samples, made on the device of the first encoder, in batches of its size."""
        from dataclasses import replace

        from fdr.generators import GeneratorSource

        device = evaluator.encoders[0].device
        return GeneratorSource(
            self.model.load(self.path, replace(evaluator.encoder_options, device=str(device))),
            self.num_images,
            seed=evaluator.image_options.seed,
            labels=self.labels,
            batch_size=evaluator.extraction_options.batch_size_on(device.type),
            options=evaluator.image_options,
        )


def _drawn(gen: Path | None, num_images: int, labels: str, model: Model) -> Drawn | None:
    """The samples that --gen asks for. Raises `UsageError` for an option about a generator without --gen."""
    if gen is not None:
        return Drawn(gen, num_images, labels, model)
    for name in ("num_images", "labels", *(field.name for field in fields(Model))):
        if is_typed(name):
            others = " To take a subset of sample sets, use --count." if name == "num_images" else ""
            raise click.UsageError(f"{flag(name)} goes with --gen, the generator that it is about.{others}")
    return None


drawn: Decorator = stack(
    option(
        "--gen PATH",
        "Measure a generator. It makes its samples during the run: those that fdr sample makes from the same --seed.",
        type=click.Path(path_type=Path),
    ),
    num_images("Number of samples to make with --gen."),
    labels,
    model,
    gather("drawn", _drawn, ("gen", "num_images", "labels", "model")),
)
"""The options of `Drawn`, as the argument `drawn` of a command; None without --gen."""
