"""What a run would cost and leave behind, with one step measured: `fdr train --dry-run`."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fdr.loss import EmaPopulation, QueuePopulation
from fdr.runtime import Group, peak_memory, resolve_device, run_on_rank0, tensor_ranks
from fdr.training import folder
from fdr.training.folder import CHECKPOINTS, list_checkpoints
from fdr.training.log import SilentView
from fdr.training.options import RunOptions, TrainOptions, parse_population
from fdr.training.setup import Parts, build
from fdr.training.snapshots import EVALUATIONS, GRIDS
from fdr.training.step import Stepper, own_randomness

MEASURED = 64
"""Most images per rank in the step that is measured; the time of a larger batch is extrapolated.

Raising it makes the estimate better and the dry run longer.
"""
LONGEST_WAIT = 100
"""Most steps between two eigendecompositions of the fast solver. Raising it lowers the estimated time."""
FORWARD_SHARE = 1 / 3
"""Share of a step's time in the forward pass, as the backward pass takes about twice as long."""


def plan(options: TrainOptions, run: Path, run_options: RunOptions, group: Group) -> Iterator[str]:
    """Check everything, take one step that is thrown away, and say what the run would be; nothing is left in `run`."""
    folder.check_folder(run, options)
    last = max(list_checkpoints(run), default=None)
    if last == options.steps:
        yield f"{run} has finished already, at step {last}; nothing would be done"
        return
    with tempfile.TemporaryDirectory() as scratch, own_randomness(resolve_device(run_options.device)):
        place = run_on_rank0(group, lambda: Path(scratch)) if last is None else run
        parts = build(options, place, run_options, group, is_new=last is None, progress=SilentView())
        yield from _contents(options, parts, run, last or 0)
        yield from _costs(options, parts, group)
    yield from _files(options, run_options, parts, run)


def _contents(options: TrainOptions, parts: Parts, run: Path, done: int) -> Iterator[str]:
    trained = [name for name, weight in parts.loss.weights.items() if weight]
    watched = [name for name, weight in parts.loss.weights.items() if not weight]
    count = sum(parameter.numel() for parameter in parts.generator.parameters())
    yield f"run: {run}, {'new' if not done else f'goes on at step {done}'}, {options.steps} steps on {parts.device}"
    yield f"generator: {parts.generator.name}, {count:,} parameters, noise {list(parts.generator.noise_shape)}"
    yield f"loss: FD of {', '.join(trained)} to {parts.reference}" + (
        f"; watched: {', '.join(watched)}" if watched else ""
    )


def _costs(options: TrainOptions, parts: Parts, group: Group) -> Iterator[str]:
    """One step of a part of the batch, with an empty population, whose result is thrown away."""
    size = min(options.batch_size, MEASURED * group.size)
    trial = replace(options, batch_size=size, chunks=1)
    ranks = tensor_ranks(group, parts.device)
    stepper = Stepper(trial, parts.generator, parts.loss, parts.draws, ranks)
    stepper.check_gradient()
    outcome = stepper.step(0, is_timed=True)
    parts.loss.discard()
    if outcome.fault is not None:
        yield f"warning: a step measured now would be skipped: {outcome.fault}"
        return
    seconds, share = outcome.seconds, options.batch_size / size
    networks, solver = (seconds["generator"] + seconds["encoders"]) * share, seconds["solver"]
    yield f"a step: {networks:.3g} s in the networks, measured on {size} images; {solver:.3g} s in an exact solution"
    solves = options.steps if options.solver == "exact" else math.ceil(options.steps / LONGEST_WAIT)
    yield f"refreshes: {'every step' if options.solver == 'exact' else f'{solves} or more, as the error estimate asks'}"
    fill = 0 if options.population == "batch" else options.fill
    filling = _words_of(fill / options.batch_size * networks * FORWARD_SHARE)
    stepping = _words_of(options.steps * networks + solves * solver)
    yield f"time: about {filling} to fill with {fill} images, {stepping} or more for {options.steps} steps"
    peak, kept = _bytes(peak_memory(parts.device)), _bytes(_kept(options, parts))
    yield f"memory: {peak} at the peak of that step; {kept} for parameters, AdamW, averages and populations"


def _kept(options: TrainOptions, parts: Parts) -> int:
    """Bytes that stay from step to step on the main rank."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in parts.generator.parameters())
    return weights * (4 + len(options.ema_kimg)) + _population_bytes(options, parts)


def _population_bytes(options: TrainOptions, parts: Parts) -> int:
    population, total = parse_population(options.population), 0
    for reference in parts.loss.references.values():
        dim = reference.moments.dim
        if isinstance(population, EmaPopulation):
            total += 3 * dim * dim * 8
        elif isinstance(population, QueuePopulation):
            total += population.size * dim * 4 + 4 * dim * dim * 8
    return total


def _files(options: TrainOptions, run_options: RunOptions, parts: Parts, run: Path) -> Iterator[str]:
    weights = sum(value.numel() * value.element_size() for value in parts.generator.state_dict().values())
    sets = 1 + len(options.ema_kimg)
    size = weights * (sets + 2) + _population_bytes(options, parts)
    kept = run_options.keep + (options.steps // run_options.milestone_every if run_options.milestone_every else 0)
    every = f"every {run_options.checkpoint_every} steps" if run_options.checkpoint_every else "at the end"
    yield f"files: {run / CHECKPOINTS}: {kept} checkpoints of {_bytes(size)}, {every}"
    yield f"files: {run}: the generator in {sets} sets of weights of {_bytes(weights)}, {folder.LOG_NAME}"
    if run_options.grid_every:
        yield f"files: {run / GRIDS}: a grid of {run_options.grid_size} images every {run_options.grid_every} steps"
    if run_options.eval_every:
        every = f"every {run_options.eval_every} steps"
        yield f"files: {run / EVALUATIONS}: a report on {run_options.eval_count} images {every}"


def _bytes(size: int | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _words_of(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"
