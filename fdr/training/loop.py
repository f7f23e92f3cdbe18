"""The post-training loop: steps, and what is logged, saved, drawn and measured between them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fdr.errors import FdrError, FdrWarning, RunError
from fdr.evaluation import encoder_groups
from fdr.generators import save_generator
from fdr.runtime import (
    SOLO,
    Group,
    memory_for,
    peak_memory,
    propagate_failures,
    resolve_device,
    run_on_rank0,
    tensor_ranks,
)
from fdr.training import folder
from fdr.training.alarms import REPEATS, AlarmRecord, CollapseAlarm
from fdr.training.folder import list_checkpoints, load_checkpoint, prune, save_checkpoint
from fdr.training.fresh import FreshImages
from fdr.training.log import Clock, SilentView, Sink, StepRecord, View, group_means, open_sinks
from fdr.training.options import RunOptions, TrainOptions
from fdr.training.setup import Parts, build
from fdr.training.snapshots import FILL_BATCH, Snapshots, evaluated
from fdr.training.step import StepOutcome, Stepper, own_randomness
from fdr.training.watch import OverfitWatch, Watch, fingerprint
from fdr.weights import ONLINE


@dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended."""

    run: Path
    step: int
    """Steps done, in this call and before it."""
    steps: int
    skipped: int
    """Steps that were skipped in this call and before it."""
    had_finished: bool = False
    """True when there was nothing left to do."""

    @property
    def is_finished(self) -> bool:
        """False for a run that was asked to stop; the same call goes on with it."""
        return self.step == self.steps


def train(
    options: TrainOptions,
    run: Path,
    run_options: RunOptions | None = None,
    *,
    group: Group = SOLO,
    view: View | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Post-train a generator in the folder `run`; a run that was begun there with the same options continues.

    Every rank calls `should_stop` after every step; when one gets True, the state is saved and the call returns.
    Under torchrun, `group=fdr.join_ranks()` divides every batch; the parameters are those of one process up to
    rounding. A run that was killed gives, on a CPU, the parameters of an uninterrupted one bit for bit.

    Raises `InputError` for unusable options or a folder of other options, `RunError` when the run cannot go on.
    """
    run_options = run_options or RunOptions()
    with propagate_failures(group):
        last = run_on_rank0(group, lambda: _last_step(run, options))
        if last == options.steps:
            return TrainResult(run, last, options.steps, 0, had_finished=True)
        device = resolve_device(run_options.device)
        with folder.locked(run) if group.rank == 0 else contextlib.nullcontext(), own_randomness(device):
            parts = build(options, run, run_options, group, view or SilentView(), is_new=last is None)
            return _Run(parts).go(last, should_stop)


def _last_step(run: Path, options: TrainOptions) -> int | None:
    folder.check_folder(run, options)
    return max(list_checkpoints(run), default=None)


class _Run:
    """The state of a run in this process."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self.options, self.run_options = parts, parts.options, parts.run_options
        self.is_main = parts.group.rank == 0
        self.ranks = tensor_ranks(parts.group, parts.device)
        self.stepper = Stepper(parts.options, parts.generator, parts.loss, parts.draws, self.ranks)
        self.snapshots = Snapshots(parts, self.stepper.images)
        self.fresh = FreshImages(parts, parts.alarms, self.stepper.images, self.ranks)
        specs = {name: encoder.spec for name, encoder in parts.encoders.items()}
        self.groups = dict(encoder_groups(specs, parts.generator.trained_on or ()))
        self.trained = [name for name, weight in parts.loss.weights.items() if weight]
        measure = "quadratic loss" if parts.options.solver == "local" else "FD"
        self.watch, self.overfit_watch = Watch(measure=measure), OverfitWatch(measure=measure)
        self.collapse = CollapseAlarm()
        self.step, self.skipped_in_a_row = 0, 0
        self.sinks: list[Sink] = []
        self.clock = Clock()

    def go(self, last: int | None, should_stop: Callable[[], bool]) -> TrainResult:
        """Take all steps that are left, or those until `should_stop`; `last` is the step of the last checkpoint."""
        run, steps = self.parts.run, self.options.steps
        if self.is_main:
            folder.write_options(run, self.options)
            self.sinks = open_sinks(run, self.options, self.run_options, last or 0)
        try:
            if last is None:
                self._begin()
            else:
                self._resume(last)
            with self.parts.view.running(steps, self.step):
                self._steps(should_stop)
        finally:
            for sink in self.sinks:
                sink.close()
        return TrainResult(run, self.step, steps, self.step - self.stepper.taken)

    def _begin(self) -> None:
        self.stepper.check_gradient()
        self.stepper.check_repeats()
        self.watch.beginning = fingerprint(self.stepper.parameters)
        if self.options.filled:
            self._fill()
        self.snapshots.reals()
        self.snapshots.grid(0)
        if self.parts.alarms.every:
            self._alarm(AlarmRecord(0, 0))
        self._save()

    def _fill(self) -> None:
        draws, count = self.parts.draws, self.options.fill
        advice = "lower --encoder-batch-size or --fill"
        with evaluated(self.parts.generator), memory_for("filling the populations", advice):
            drawn = draws.batches("fill", count, FILL_BATCH, self.ranks)
            made = ((self.stepper.images(*d, "the filling of the populations"), d[1]) for d in drawn)
            batches = (self.stepper.batch_of(*one) for one in made)
            self.parts.loss.fill(batches, count, progress=self.parts.view)

    def _resume(self, last: int) -> None:
        state = load_checkpoint(list_checkpoints(self.parts.run)[last])
        self.step, self.stepper.taken, self.skipped_in_a_row = state["step"], state["taken"], state["in_a_row"]
        self.parts.generator.load_state_dict(state["model"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.stepper.emas.load(state["model_ema"]["shadows"])
        if self.stepper.previous is not None:
            self.stepper.previous.load(state["previous"])
        self.parts.loss.load_state_dict(state["loss"])
        self.overfit_watch.load_state_dict(state["parting"])
        self.watch.load_state_dict(state["watch"])
        if "alarms" in state:  # it is absent from checkpoints of before there were alarms
            self.collapse.load_state_dict(state["alarms"])

    def _steps(self, should_stop: Callable[[], bool]) -> None:
        stops = False
        self.parts.generator.train()
        while self.step < self.options.steps and not stops:
            is_logged = self._is_due(self.run_options.log_every, self.step + 1)
            is_looked_at = is_logged or self._is_due(self.parts.alarms.every, self.step + 1)
            outcome = self.stepper.step(self.step, is_timed=is_looked_at)
            self.step += 1
            self.clock.count(self.options.batch_size)
            self.watch.record(self.step, outcome.grad_norm, outcome.fault, outcome.fd)
            if outcome.fault is not None:
                self._count_skipped(outcome.fault)
            else:
                self.skipped_in_a_row = 0
                if is_logged and self.is_main:
                    self._log(outcome)
                if is_looked_at and self.is_main:
                    self._look(outcome)
            self.parts.view.reached(self.step)
            stops = self.ranks.is_any(should_stop())
            with self.clock.stopped():
                self._between(outcome, stops)

    def _count_skipped(self, fault: str) -> None:
        """Log a skipped step. Raises `RunError` after too many in a row."""
        self.skipped_in_a_row += 1
        self._write("skipped", {"step": self.step, "text": fault})
        if self.skipped_in_a_row >= self.options.max_skipped:
            raise RunError(
                f"{self.skipped_in_a_row} steps in a row were skipped; of step {self.step} the reason is: "
                f"{fault.rstrip('.')}. Lower --lr, set --clip, or leave out bf16."
            )

    def _log(self, outcome: StepOutcome) -> None:
        watched = tuple(name for name in outcome.fd if name not in self.trained)
        record = StepRecord(
            step=self.step,
            images=self.stepper.taken * self.options.batch_size,
            lr=outcome.lr,
            loss=outcome.loss,
            fd=outcome.fd,
            fdr=outcome.fdr,
            class_distance=outcome.class_distance,
            fd_debiased=outcome.fd_debiased,
            watched=watched,
            grad_norm=outcome.grad_norm,
            skipped=self.step - self.stepper.taken,
            images_per_second=self.clock.rate(),
            memory=peak_memory(self.parts.device),
            seconds=outcome.seconds,
            fdr_k=group_means(outcome.fdr, self.groups),
            is_quadratic=self.options.solver == "local",
        )
        self._write("step", record.entry())
        self.parts.view.show(record)

    def _look(self, outcome: StepOutcome) -> None:
        """Warn of signs in a step that nothing is learned, or that encoders are gamed."""
        trained = {name: outcome.fd[name] for name in self.trained}
        watched = [name for name in outcome.fd if name not in self.trained]
        overfit = self.overfit_watch.look(self.step, trained, {name: outcome.fd[name] for name in watched})
        for sentence in (*overfit, *self.watch.look(self.step, outcome.fd, self.trained, outcome.batch)):
            self._warn(sentence)

    def _measure(self, outcome: StepOutcome) -> str | None:
        """Measure fresh images, with those of the step; return why the run should stop, or None."""
        fresh, not_finite = self.fresh.distances(self.step, outcome.features)
        # the quadratic loss of the solver local is no FD, and cannot be compared with that of fresh images
        population = {} if self.options.solver == "local" else {**outcome.fd, **outcome.fd_debiased}
        record = AlarmRecord(self.step, self.parts.alarms.count, fresh, population, not_finite)
        self._alarm(record)
        if self.collapse.in_a_row < REPEATS:
            return None
        verdict = self.collapse.verdict(record, self.parts.run)
        if self.run_options.on_collapse == "stop":
            return f"Run {str(self.parts.run)!r} was stopped: {verdict}."
        if self.collapse.in_a_row == REPEATS:
            self._warn(f"{verdict[0].upper()}{verdict[1:]}; --on-collapse stop ends such a run.")
        return None

    def _alarm(self, record: AlarmRecord) -> None:
        """Add the sensitivities to a record, log it, and warn of what it shows."""
        if self.is_main:
            found = self.fresh.sensitivities()
            record = replace(record, noise_sensitivity=found["noise"], label_sensitivity=found.get("labels", {}))
            self._write("alarm", record.entry())
            self.parts.view.show_alarm(record)
        for sentence in self.collapse.look(record, self.trained):
            self._warn(sentence)

    def _warn(self, sentence: str) -> None:
        if self.is_main:
            self._write("warning", {"step": self.step, "text": sentence})
            warnings.warn(sentence, FdrWarning, stacklevel=3)

    def _judge(self) -> None:
        """At the end of a run, warn when most steps were skipped, and raise `RunError` when it has learned nothing."""
        sentence = self.watch.losses(self.step, self.stepper.taken)
        if sentence is not None:
            self._warn(sentence)
        verdict = self.watch.verdict(self.step, self.stepper.taken, self.stepper.parameters)
        if verdict is not None:
            self._write("warning", {"step": self.step, "text": f"Nothing was learned: {verdict}."})
            raise RunError(f"Run {str(self.parts.run)!r} has learned nothing: {verdict}.")

    def _between(self, outcome: StepOutcome, stops: bool) -> None:
        """Do what is due after a step. The checkpoint comes last, so that a resumed run repeats what it missed.

        Raises `RunError`, after the checkpoint, where a collapsed run is to be stopped.
        """
        options, is_last = self.run_options, self.step == self.options.steps
        collapsed = None
        if outcome.fault is None and self._is_due(self.parts.alarms.every, self.step):
            collapsed = self._measure(outcome)
        if is_last:
            self._judge()
        if self._is_due(options.grid_every, self.step):
            self._try("sample grid", lambda: self.snapshots.grid(self.step))
        if self._is_due(options.eval_every, self.step):
            self._try("evaluation", lambda: self._write("evaluation", self.snapshots.evaluate(self.step)))
        if stops or collapsed or self._is_due(options.checkpoint_every, self.step) or is_last:
            self._save()
        if collapsed:
            self._write("warning", {"step": self.step, "text": collapsed})
            raise RunError(collapsed)

    def _try(self, what: str, look: Callable[[], None]) -> None:
        """Call `look`; its error is a warning on a single rank. On several it ends the run, as other ranks may wait."""
        try:
            look()
        except FdrError as error:
            if self.ranks.size > 1:
                raise
            self._warn(f"The {what} of step {self.step} failed, and the run goes on: {error}")

    def _is_due(self, every: int | None, step: int) -> bool:
        return every is not None and every > 0 and (step % every == 0 or step == self.options.steps)

    def _save(self) -> None:
        """Save a checkpoint, and the generator in the form that `fdr.load_generator` reads."""
        loss, model = self.parts.loss.state_dict(), self.parts.generator.state_dict()
        if not self.is_main:
            return
        run, stepper = self.parts.run, self.stepper
        state: dict[str, Any] = {
            "taken": stepper.taken,
            "in_a_row": self.skipped_in_a_row,
            "images": stepper.taken * self.options.batch_size,
            "model": model,
            "model_ema": {"shadows": stepper.emas.shadows},
            "optimizer": stepper.optimizer.state_dict(),
            "previous": {} if stepper.previous is None else stepper.previous.stored,
            "loss": loss,
            "parting": self.overfit_watch.state_dict(),
            "watch": self.watch.state_dict(),
            "alarms": self.collapse.state_dict(),
        }
        save_generator(run, self.parts.generator, {ONLINE: model, **stepper.emas.shadows})
        save_checkpoint(run, self.step, state)  # after the generator, which a resumed run loads first
        # While a gap is open, the best checkpoint from before it stays.
        best = self.collapse.best_checkpoint(list(list_checkpoints(run))) if self.collapse.in_a_row else None
        prune(run, self.run_options.keep, self.run_options.milestone_every, best)

    def _write(self, kind: str, values: dict[str, Any]) -> None:
        for sink in self.sinks:
            sink.write(kind, values)
