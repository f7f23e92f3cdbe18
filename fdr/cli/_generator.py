"""The options that describe a generator, shared by every command that runs one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fdr.cli._options import Decorator, flag, gather, is_typed, key_values, option, stack, theme, trusts, value_range

if TYPE_CHECKING:
    from fdr.encoders import EncoderOptions
    from fdr.evaluation import Evaluator
    from fdr.features import ExtractionOptions
    from fdr.generators import Generator, SampleSource
    from fdr.images import Captions, ImageOptions, ImageSource


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

    def load(self, path: object, options: EncoderOptions) -> Generator:
        """The generator in `path`, or the object, on the device of `options`."""
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
GEN = (
    "a checkpoint (.pt or .safetensors, with --arch), a TorchScript or torch.export file (.pt2), a run folder of fdr "
    "train, a pipeline of diffusers (its folder, or OWNER/NAME of the hub), or MODULE:NAME, an object in Python"
)
"""The help of --gen: the kinds of generators."""


def num_images(meaning: str) -> Decorator:
    """--num-images of a generator, with what is done with them."""
    return option("-n, --num-images N", f"{meaning}  [default: 50000, or one for each prompt]", type=int)


@dataclass(frozen=True)
class Drawn:
    """Samples that a generator makes."""

    gen: str
    num_images: int | None
    labels: str
    model: Model
    pipeline_args: Mapping[str, object]

    def source(self, evaluator: Evaluator) -> ImageSource:
        """The samples for an evaluation, made on the device of the first encoder."""
        from fdr.generators import find_named, is_generator
        from fdr.images import open_images

        named = find_named(self.gen) if self.model.arch is None else None
        if named is not None and not is_generator(named):  # a data set, or a function that returns images
            return open_images(named, replace(evaluator.image_options, count=self.num_images))
        options = replace(evaluator.encoder_options, device=str(evaluator.encoders[0].device))
        images = evaluator.image_options
        return self.samples(options, evaluator.extraction_options, images, images.seed, evaluator.captions)

    def samples(
        self,
        encoder_options: EncoderOptions,
        extraction: ExtractionOptions,
        images: ImageOptions,
        seed: int,
        captions: Captions | None,
    ) -> SampleSource:
        """The samples, made on the device of `encoder_options`, in batches of the size that `extraction` says."""
        from fdr.generators import GeneratorSource, find_named, is_pipeline, names_whole_pipeline

        named = find_named(self.gen) if self.model.arch is None else None
        is_whole = named is None and self.model.arch is None and names_whole_pipeline(self.gen)
        sampling: dict[str, Any] = {"seed": seed, "labels": self.labels, "options": images}
        if is_whole or is_pipeline(named):
            return self._of_pipeline(named, encoder_options, extraction, {**sampling, "captions": captions})
        if self.pipeline_args:
            raise click.UsageError(
                "--pipeline-args goes with a pipeline of diffusers that is run as a whole, without --arch; "
                f"{self.gen} is another generator."
            )
        generator = self.model.load(Path(self.gen) if named is None else named, encoder_options)
        size = extraction.batch_size_on(generator.device.type)
        return GeneratorSource(generator, self.num_images, batch_size=size, **sampling)

    def _of_pipeline(
        self, named: Any, encoder_options: EncoderOptions, extraction: ExtractionOptions, sampling: dict[str, Any]
    ) -> SampleSource:
        """The samples of a pipeline that is run as a whole."""
        from fdr.generators import MAX_BATCH, PipelineSource, load_pipeline

        for name in ("arch_args", "ema", "noise_shape", "value_range", *(() if named is None else ("pipeline_args",))):
            if is_typed(name):
                raise click.UsageError(f"{flag(name)} does not go with {self.gen}, a pipeline that is run as a whole.")
        classes = self.model.num_classes
        if named is None:
            device, offline = encoder_options.device, encoder_options.offline
            named = load_pipeline(self.gen, self.pipeline_args, num_classes=classes, device=device, offline=offline)
        size = MAX_BATCH if extraction.batch_size is None else extraction.batch_size
        return PipelineSource(named, classes, self.num_images, batch_size=size, **sampling)


def announce_pipeline(source: ImageSource) -> None:
    """Say on stderr how a pipeline is run, unless --quiet was given."""
    from fdr.generators import PipelineSource

    is_quiet = click.get_current_context().params.get("quiet")
    if isinstance(source, PipelineSource) and source.loaded is not None and not is_quiet:
        once = "" if source.prompts is not None else "; --arch diffusers would make each image in one step"
        click.echo(f"fdr: note: samples are made by the whole pipeline, {source.described}{once}.", err=True)


_sampler = stack(
    labels,
    option(
        "--pipeline-args KEY=VALUE",
        "Arguments of a pipeline of diffusers, such as num_inference_steps=50 or guidance_scale=7.5; also "
        "scheduler=CLASS and dtype=bf16. Values are JSON or text. May be repeated, or several given in quotes.",
        multiple=True,
        callback=key_values,
    ),
)
_FIELDS = ("gen", "num_images", "labels", "model", "pipeline_args")


def _drawn(gen: str | None, model: Model, **values: Any) -> Drawn | None:
    """The samples that --gen asks for. Raises `UsageError` for an option about a generator without --gen."""
    if gen is not None:
        return Drawn(gen, model=model, **values)
    for name in (*values, *(field.name for field in fields(Model))):
        if is_typed(name):
            others = " To take a subset of sample sets, use --count." if name == "num_images" else ""
            raise click.UsageError(f"{flag(name)} goes with --gen, the generator that it is about.{others}")
    return None


drawn: Decorator = stack(
    option(
        "--gen PATH|OWNER/NAME",
        "Measure a generator: a checkpoint, a run folder, a pipeline of diffusers, ... (see fdr sample). It makes its "
        "samples during the run: those that fdr sample makes from the same --seed.",
    ),
    num_images("Number of samples to make with --gen."),
    _sampler,
    model,
    gather("drawn", _drawn, _FIELDS),
)
"""The options of `Drawn`, as the argument `drawn` of a command; None without --gen."""
sampled: Decorator = stack(
    option("--gen PATH|OWNER/NAME", f"The generator: {GEN}.", required=True),
    num_images("Number of samples; the first N samples of a seed are always the same."),
    _sampler,
    model,
    gather("drawn", Drawn, _FIELDS),
)
"""The options of `Drawn` for a command that only samples."""
