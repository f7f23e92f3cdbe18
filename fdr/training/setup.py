"""Set-up of a run: generator, encoders, reference and loss are loaded, and errors are raised before any step."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from fdr.encoders import AbstractEncoder, EncoderOptions, load_encoders, parse_encoders
from fdr.evaluation import write_reference
from fdr.features import ExtractionOptions
from fdr.generators import Architecture, Generator, check_architecture, load_generator
from fdr.images import open_images
from fdr.loss import FDLoss
from fdr.references import names_images
from fdr.runtime import Group, Progress, check_dtype, resolve_device
from fdr.training import folder
from fdr.training.draws import Draws
from fdr.training.options import RunOptions, TrainOptions, parse_population
from fdr.weights import ONLINE


@dataclass(frozen=True)
class Parts:
    """The objects that the training loop works with."""

    device: torch.device
    generator: Generator
    encoders: Mapping[str, AbstractEncoder]
    """All encoders by name, whether trained on or watched."""
    reference: str
    """Name, or path of statistics."""
    loss: FDLoss
    draws: Draws


def build(
    options: TrainOptions, run: Path, run_options: RunOptions, group: Group, *, is_new: bool, progress: Progress
) -> Parts:
    """Load everything. A resumed run takes the generator, and the moments of reference images, from its own folder."""
    device = resolve_device(run_options.device)
    check_dtype(options.dtype, device)
    check_dtype(options.encoder_dtype, device)
    generator = _generator(options, run_options, run, device, is_new)
    encoder_options = EncoderOptions(
        weights_dir=None if run_options.weights_dir is None else Path(run_options.weights_dir),
        device=str(device),
        offline=run_options.offline,
        tf32=options.tf32,
        progress=progress,
    )
    names = parse_encoders([*options.reps, *options.monitor])
    encoders = {encoder.spec.name: encoder for encoder in load_encoders(names, encoder_options)}
    cache = None if run_options.cache is None else Path(run_options.cache)
    extraction = ExtractionOptions(cache, progress=progress, group=group)
    reference = _reference(options.reference, run, list(encoders.values()), extraction, is_new)
    loss = FDLoss(
        list(encoders.values()),
        reference,
        parse_population(options.population),
        options.solver,
        weights={name: 0.0 for name in encoders if name not in parse_encoders(list(options.reps))},
        eps=options.eps,
        gradient=options.gradient,
        encoder_batch_size=run_options.encoder_batch_size,
        autocast="bf16" if options.encoder_dtype == "bf16" else None,
        encoder_options=encoder_options,
        group=group,
    )
    draws = Draws(options.seed, generator.noise_shape, generator.num_classes, device)
    return Parts(device, generator, encoders, reference, loss, draws)


def _generator(
    options: TrainOptions, run_options: RunOptions, run: Path, device: torch.device, is_new: bool
) -> Generator:
    offline, trust = run_options.offline, run_options.trust
    if not is_new:
        arch = options.arch if run_options.is_arch_named else None
        arguments = options.arch_args if arch is not None else None
        return load_generator(run, arch, str(device), arch_args=arguments, ema=ONLINE, offline=offline, trust=trust)
    if options.arch is not None and not run_options.is_arch_named and not trust:
        architecture = Architecture("factory", options.arch, options.arch_args)
        check_architecture(architecture, repr(str(run / folder.OPTIONS_NAME)))
    return load_generator(
        options.gen,
        options.arch,
        str(device),
        arch_args=options.arch_args,
        value_range=options.value_range,
        noise_shape=options.noise_shape,
        num_classes=options.num_classes,
        ema=options.ema or ONLINE,
        offline=offline,
        trust=trust,
    )


def _reference(
    reference: str, run: Path, encoders: list[AbstractEncoder], options: ExtractionOptions, is_new: bool
) -> str:
    """The reference of loss and evaluations; for reference images, moments are computed once, into the run folder."""
    if not names_images(reference):
        return reference
    own = run / folder.REFERENCE_NAME
    if is_new:
        if options.group.rank == 0:
            shutil.rmtree(own, ignore_errors=True)  # of a run that was killed before its first checkpoint
        write_reference(open_images(reference), encoders, own, name=Path(reference).name, options=options)
    return str(own)
