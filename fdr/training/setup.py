"""Set-up of a run: its parts are loaded and checked before any step, and `plan` says what the run would cost."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fdr.encoders import AbstractEncoder, EncoderOptions, load_encoders, parse_encoders
from fdr.errors import InputError
from fdr.evaluation import write_reference
from fdr.features import ExtractionOptions
from fdr.generators import Architecture, Generator, check_architecture, load_generator
from fdr.images import open_images
from fdr.loss import BatchPopulation, EmaPopulation, FDLoss, LossOptions, QueuePopulation
from fdr.pages import PAGE_NAME
from fdr.references import names_images
from fdr.runtime import (
    Group,
    TensorGroup,
    check_dtype,
    human_bytes,
    peak_memory,
    resolve_device,
    run_on_rank0,
    tensor_ranks,
)
from fdr.training import folder
from fdr.training.alarms import FORWARD_SHARE, AlarmPlan
from fdr.training.folder import CHECKPOINTS, EVALUATIONS, GRIDS, list_checkpoints
from fdr.training.live_page import LEAST_SECONDS
from fdr.training.log import SilentView, View, check_sinks
from fdr.training.options import RunOptions, TrainOptions, parse_population
from fdr.training.step import Draws, Stepper, Stopwatch, own_randomness
from fdr.weights import ONLINE

MEASURED = 64
"""Most images per rank in the step that `plan` measures; the time of a larger batch is extrapolated.

Raising it makes the estimate better and the dry run longer.
"""
LONGEST_WAIT = 100
"""Most steps between two eigendecompositions of the fast solver. Raising it lowers the estimated time."""


@dataclass(frozen=True)
class Parts:
    """All that a run works with on this rank."""

    options: TrainOptions
    run: Path
    """The folder of the run."""
    run_options: RunOptions
    group: Group
    view: View
    device: torch.device
    generator: Generator
    encoders: Mapping[str, AbstractEncoder]
    """All encoders by name, whether trained on or watched."""
    reference: str
    """The name of the reference, or the path of its statistics."""
    loss: FDLoss
    draws: Draws
    alarms: AlarmPlan


def build(
    options: TrainOptions, run: Path, run_options: RunOptions, group: Group, view: View, *, is_new: bool
) -> Parts:
    """Load everything. A resumed run takes the generator, and the moments of reference images, from its own folder."""
    check_sinks(run_options)
    device = resolve_device(run_options.device)
    check_dtype(options.dtype, device)
    check_dtype(options.encoder_dtype, device)
    generator = _generator(options, run_options, run, device, is_new)
    encoder_options = EncoderOptions(
        weights_dir=None if run_options.weights_dir is None else Path(run_options.weights_dir),
        device=str(device),
        offline=run_options.offline,
        tf32=options.tf32,
        progress=view,
    )
    trained_on = parse_encoders(list(options.reps))
    generator.trained_on = tuple(dict.fromkeys([*(generator.trained_on or ()), *trained_on]))
    names = parse_encoders([*options.reps, *options.monitor])
    encoders = {encoder.spec.name: encoder for encoder in load_encoders(names, encoder_options)}
    check_classes(options, generator)
    cache = None if run_options.cache is None else Path(run_options.cache)
    extraction = ExtractionOptions(cache, progress=view, group=group)
    reference = _reference(options, run, list(encoders.values()), extraction, is_new)
    loss = FDLoss(
        list(encoders.values()),
        reference,
        options.chosen_population(),
        LossOptions(
            options.solver,
            options.eps,
            options.gradient,
            encoder_batch_size=run_options.encoder_batch_size,
            autocast="bf16" if options.encoder_dtype == "bf16" else None,
            local_rho=options.local_rho,
        ),
        conditional=options.conditional,
        weights={name: 0.0 for name in encoders if name not in trained_on},
        encoder_options=encoder_options,
        group=group,
    )
    if loss.num_classes not in (None, generator.num_classes):
        raise InputError(
            f"{generator.name} has {generator.num_classes} classes and the reference has {loss.num_classes}; "
            "--conditional needs the same classes on both sides."
        )
    draws = Draws(options.seed, generator.noise_shape, generator.num_classes, device)
    dims = {name: found.moments.dim for name, found in loss.references.items()}
    alarms = AlarmPlan.of(run_options, options.batch_size, dims)
    return Parts(options, run, run_options, group, view, device, generator, encoders, reference, loss, draws, alarms)


def check_classes(options: TrainOptions, generator: Generator) -> None:
    """Raise `InputError` where labels are to be trained and the generator takes none."""
    if options.conditional is not None and generator.num_classes is None:
        raise InputError(
            f"{generator.name} has no classes, so --conditional has no labels to train; leave it out, or give "
            "--num-classes of a generator that takes labels."
        )


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
    options: TrainOptions, run: Path, encoders: list[AbstractEncoder], extraction: ExtractionOptions, is_new: bool
) -> str:
    """The reference of loss and evaluations; for reference images, moments are computed once, into the run folder."""
    if not names_images(options.reference):
        return options.reference
    own = run / folder.REFERENCE_NAME
    if is_new:
        if extraction.group.rank == 0:
            shutil.rmtree(own, ignore_errors=True)  # of a run that was killed before its first checkpoint
        source, has_labels = open_images(options.reference), options.conditional is not None
        if has_labels and source.labels is None:
            raise InputError(
                f"The images {options.reference} have no labels, which --conditional needs; give one folder per class, "
                "a dataset.json, or labels as arr_1."
            )
        name = Path(options.reference).name
        write_reference(source, encoders, own, name=name, labels=has_labels, options=extraction)
    return str(own)


# --------------------------------------------------------------------------------------------------------- dry run


def plan(options: TrainOptions, run: Path, run_options: RunOptions, group: Group) -> Iterator[str]:
    """Check everything, take one step that is thrown away, and say what the run would be; nothing is left in `run`."""
    folder.check_folder(run, options)
    last = max(list_checkpoints(run), default=None)
    if last == options.steps:
        yield f"{run} has finished already, at step {last}; nothing would be done"
        return
    with tempfile.TemporaryDirectory() as scratch, own_randomness(resolve_device(run_options.device)):
        place = run_on_rank0(group, lambda: Path(scratch)) if last is None else run
        parts = build(options, place, run_options, group, SilentView(), is_new=last is None)
        yield from _contents(parts, run, last or 0)
        yield from _costs(parts)
    yield from _files(parts, run)


def _contents(parts: Parts, run: Path, done: int) -> Iterator[str]:
    trained = [name for name, weight in parts.loss.weights.items() if weight]
    watched = [name for name, weight in parts.loss.weights.items() if not weight]
    generator, steps = parts.generator, parts.options.steps
    count = sum(parameter.numel() for parameter in generator.parameters())
    yield f"run: {run}, {'new' if not done else f'goes on at step {done}'}, {steps} steps on {parts.device}"
    yield f"generator: {generator.name}, {count:,} parameters, noise {list(generator.noise_shape)}"
    what = "quadratic loss" if parts.options.solver == "local" else "FD"
    yield f"loss: {what} of {', '.join(trained)} to {parts.reference}" + (
        f"; watched: {', '.join(watched)}" if watched else ""
    )
    if parts.options.conditional is not None:
        yield f"classes: {parts.loss.num_classes}, with {parts.options.conditional:g} times the gradient of FD"
    if parts.alarms.every:
        more = f", {parts.alarms.extra:,} of them made for it" if parts.alarms.extra else ""
        yield f"alarm: every {parts.alarms.every} steps, {parts.alarms.count:,} fresh images{more}"


def _costs(parts: Parts) -> Iterator[str]:
    """The cost of a step, measured on a part of the batch with an empty population; its result is thrown away."""
    options = parts.options
    size = options.batch_size if _is_debiased_batch(options) else min(options.batch_size, MEASURED * parts.group.size)
    trial = replace(options, batch_size=size, chunks=1, ema_kimg=())
    ranks = tensor_ranks(parts.group, parts.device)
    stepper = Stepper(trial, parts.generator, parts.loss, parts.draws, ranks)
    stepper.check_gradient()
    stepper.check_repeats()
    outcome = stepper.step(0, is_timed=True)
    parts.loss.discard()
    if outcome.fault is not None:
        yield f"warning: a step measured now would be skipped: {outcome.fault}"
        return
    seconds, share = outcome.seconds, options.batch_size / size
    networks, solver = (seconds["generator"] + seconds["encoders"]) * share, seconds["solver"]
    if stepper.previous is not None:
        extra = _correction(parts, stepper, trial, ranks) * share
        yield f"lag correction: {extra:.3g} s more in the networks, at every {options.lag_every} step(s)"
        networks += extra / options.lag_every
    way, refreshes, solving = _solving(options, solver, share)
    yield f"a step: {networks:.3g} s in the networks, measured on {size} images; {way}"
    yield f"refreshes: {refreshes}"
    fill = options.filled
    filling = _words_of(fill / options.batch_size * networks * FORWARD_SHARE)
    stepping = _words_of(options.steps * networks + solving)
    yield f"time: about {filling} to fill with {fill} images, {stepping} or more for {options.steps} steps"
    weights = sum(parameter.numel() * parameter.element_size() for parameter in parts.generator.parameters())
    sets = 4 + len(options.ema_kimg) + options.lag_correction
    kept = human_bytes(weights * sets + _population_bytes(parts))
    peak = peak_memory(parts.device)
    used = "unknown" if peak is None else human_bytes(peak)
    more = ", the previous weights" if options.lag_correction else ""
    yield f"memory: {used} at the peak of that step; {kept} for parameters{more}, AdamW, averages and populations"


def _solving(options: TrainOptions, seconds: float, share: float) -> tuple[str, str, float]:
    """What the solver does in a step that took it `seconds`, how often it decomposes, and its seconds in the run.

    `share` is the size of a batch in that of the step.
    """
    if options.solver == "local":
        seconds *= share
        return f"{seconds:.3g} s in products of the solver local", "none", options.steps * seconds
    way = f"{seconds:.3g} s in an exact solution"
    has_estimate = options.solver == "fast" and isinstance(parse_population(options.population), EmaPopulation)
    if not has_estimate:
        return way, "every step", options.steps * seconds
    solves = math.ceil(options.steps / LONGEST_WAIT)
    return way, f"{solves} or more, as the error estimate asks", solves * seconds


def _is_debiased_batch(options: TrainOptions) -> bool:
    """True for a gradient that needs the whole batch: a part of it may have too few images."""
    return parse_population(options.population) == BatchPopulation("debiased")


def _correction(parts: Parts, stepper: Stepper, trial: TrainOptions, ranks: TensorGroup) -> float:
    """The seconds of the pass that a lag correction needs: generator and encoders, without gradient."""
    assert stepper.previous is not None
    noise, labels = parts.draws.of_step(0, trial, ranks, 0)
    watch = Stopwatch(parts.device, is_running=True)
    with torch.no_grad(), stepper.previous.in_place():
        images = stepper.images(noise, labels, "a lag correction")
    parts.loss.features(images)
    watch.lap("pass")
    return watch.seconds["pass"]


def _population_bytes(parts: Parts) -> int:
    population, total = parse_population(parts.options.population), 0
    for reference in parts.loss.references.values():
        dim = reference.moments.dim
        if isinstance(population, EmaPopulation):
            total += 3 * dim * dim * 8
        elif isinstance(population, QueuePopulation):
            total += population.size * dim * 4 + 4 * dim * dim * 8
    return total


def _files(parts: Parts, run: Path) -> Iterator[str]:
    options, run_options = parts.options, parts.run_options
    weights = sum(value.numel() * value.element_size() for value in parts.generator.state_dict().values())
    sets = 1 + len(options.ema_kimg)
    size = weights * (sets + 2 + options.lag_correction) + _population_bytes(parts)
    kept = run_options.keep + (options.steps // run_options.milestone_every if run_options.milestone_every else 0)
    every = f"every {run_options.checkpoint_every} steps" if run_options.checkpoint_every else "at the end"
    yield f"files: {run / CHECKPOINTS}: {kept} checkpoints of {human_bytes(size)}, {every}"
    yield f"files: {run}: the generator in {sets} sets of weights of {human_bytes(weights)}, {folder.LOG_NAME}"
    if run_options.grid_every:
        yield f"files: {run / GRIDS}: a grid of {run_options.grid_size} images every {run_options.grid_every} steps"
    if run_options.eval_every:
        every = f"every {run_options.eval_every} steps"
        yield f"files: {run / EVALUATIONS}: a report on {run_options.eval_count} images {every}"
    if run_options.page:
        yield f"files: {run / PAGE_NAME}: the page of the run, written again at most every {LEAST_SECONDS:g} s"


def _words_of(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"
