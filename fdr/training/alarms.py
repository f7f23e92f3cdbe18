"""The collapse alarm of a run: fresh images against the population, and how much images follow noise and labels.

A population remembers older generators. A generator whose images are all alike, but other ones at every step, leaves
a broad population, whose FD stays low. Fresh images of the present weights show it (`fdr.training.fresh`): their FD,
without its bias, is then far above that of the population. The other direction is no fault: a population lags, so a
generator that improves fast is better than it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fdr.errors import InputError
from fdr.frechet import LEAST_COUNT
from fdr.training.folder import checkpoint_path, list_checkpoints
from fdr.training.options import RunOptions

ERRORS = 4.0
"""A gap must exceed this many errors of the fresh FD. Raising it gives fewer false alarms, and later ones."""
MARGIN = 0.5
"""It must also exceed this share of the population's FD. Raising it ignores generators that move about more."""
NARROW = 0.5
"""Below this share of the reference's variance, fresh images with a gap are called a collapse, and else an overshoot.

Raising it calls more gaps a collapse; the number of warnings and stops stays.
"""
FLOOR = 0.01
"""And this share of the variance of the reference. Raising it ignores gaps that nobody would see in the images."""
REPEATS = 3
"""So many alarms in a row with a gap stop a run with --on-collapse stop. Raising it stops later and more surely."""
LEAST_SENSITIVITY = 0.35
"""Images follow noise or labels too little below this share of what they did at the start.

Raising it warns earlier, and more often by mistake.
"""
LEAST_RATIO = 0.25
"""The debiased FD needs at least this many images per feature, and at least `LEAST_COUNT`."""
USUAL_RATIO, USUAL_COUNT = 0.5, 256
"""As many images per feature of the widest encoder, and at least as many images, are taken unless asked otherwise."""
USUAL_EVERY = 100
"""Steps between two alarms, unless the images that they need cost more than `IMAGE_COST`."""
IMAGE_COST = 0.01
"""Share of the run's time for images that are made for alarms. Raising it gives more alarms with small batches."""
PAIRS = 24
"""Pairs of images behind each sensitivity. Raising it makes them steadier and costs as many more images."""
FORWARD_SHARE = 1 / 3
"""Share of a step's time in the forward pass, as the backward pass takes about twice as long."""


@dataclass(frozen=True)
class AlarmPlan:
    """How often a run looks at fresh images, and at how many."""

    every: int
    """Steps between two alarms; 0 for never."""
    count: int
    """Fresh images of an alarm, over all ranks, with those of the step's batch."""
    extra: int
    """How many of them the batch does not hold."""

    @classmethod
    def of(cls, options: RunOptions, batch_size: int, dims: Mapping[str, int]) -> AlarmPlan:
        """The plan for encoders of `dims` features. Raises `InputError` for too few images for one of them."""
        if options.alarm_every == 0:
            return cls(0, 0, 0)
        widest = max(dims, key=lambda name: dims[name])
        usual = max(USUAL_COUNT, math.ceil(USUAL_RATIO * dims[widest]))
        count = max(batch_size, usual if options.alarm_count is None else options.alarm_count)
        least = max(LEAST_COUNT, math.ceil(LEAST_RATIO * dims[widest]))
        if count < least:
            raise InputError(
                f"--alarm-images {options.alarm_count} is too few for the {dims[widest]} features of {widest}: the "
                f"debiased FD of an alarm needs {least} images or more, and is better from {usual} on; give that "
                "many, or --alarm-every 0."
            )
        extra = count - batch_size
        share = (extra + 3 * PAIRS) * FORWARD_SHARE / batch_size
        usual_every = max(USUAL_EVERY, 50 * math.ceil(share / IMAGE_COST / 50))
        return cls(usual_every if options.alarm_every is None else options.alarm_every, count, extra)


@dataclass(frozen=True)
class FreshFD:
    """The FD of fresh images, without its bias from their number."""

    value: float
    error: float
    """Its standard error, with what extrapolation may add to it."""
    trace: float
    """The variance of the reference, tr S_p."""
    regime: str
    """That of `fdr.frechet.DebiasedFD`, or "bound" where only a lower bound can be given."""
    spread: float
    """The variance of the fresh features over that of the reference, tr S_q / tr S_p."""

    @property
    def least(self) -> float:
        """FD is above this value, but for noise of `ERRORS` errors."""
        return self.value - ERRORS * self.error

    def is_above(self, population: float) -> bool:
        """True where FD is above that of the population by more than errors and margins explain."""
        return self.least > (1 + MARGIN) * max(population, 0.0) + FLOOR * self.trace


@dataclass(frozen=True)
class AlarmRecord:
    """What one alarm has found."""

    step: int
    count: int
    """Fresh images."""
    fresh: Mapping[str, FreshFD] = field(default_factory=dict)
    """By encoder; those whose features were not finite are absent."""
    population: Mapping[str, float] = field(default_factory=dict)
    """FD of the population by encoder, without its bias where that is known. It is empty with the solver "local"."""
    not_finite: Mapping[str, int] = field(default_factory=dict)
    """Images by encoder whose features are not finite."""
    noise_sensitivity: Mapping[str, float] = field(default_factory=dict)
    """By encoder: the mean distance of two images of one label and other noise, over that of two reference images."""
    label_sensitivity: Mapping[str, float] = field(default_factory=dict)
    """The same for two images of one noise and other labels; empty without classes."""

    def entry(self) -> dict[str, Any]:
        """The entry of the log."""
        rows = self.fresh.items()
        return {
            "step": self.step,
            "count": self.count,
            "fd": {name: found.value for name, found in rows},
            "error": {name: found.error for name, found in rows},
            "population": {name: self.population[name] for name in self.fresh if name in self.population},
            "regime": {name: found.regime for name, found in rows},
            "spread": {name: found.spread for name, found in rows},
            "noise_sensitivity": dict(self.noise_sensitivity),
            "label_sensitivity": dict(self.label_sensitivity),
        }


@dataclass
class CollapseAlarm:
    """Compares what alarms find with the population and with the start of the run."""

    in_a_row: int = 0
    """Alarms up to now with a gap, without one between them that has none."""
    good_step: int = 0
    """The last step at which fresh images were as good as the population."""
    scores: dict[int, float] = field(default_factory=dict)
    """By step of an alarm: the mean of FD / tr S_p of fresh images over the trained encoders."""
    start: dict[str, dict[str, float]] = field(default_factory=dict)
    """The sensitivities at the start of the run, by kind and encoder."""
    reported: set[str] = field(default_factory=set)
    """Signs that were reported and are still there."""

    def look(self, record: AlarmRecord, trained: Sequence[str]) -> list[str]:
        """One sentence for every sign that this alarm shows for the first time."""
        signs = {f"gap {name}": self._gap(record, name) for name in record.fresh}
        has_gap = any(text is not None for text in signs.values())
        if record.fresh:
            self.in_a_row = self.in_a_row + 1 if has_gap else 0
            if not has_gap:
                self.good_step = record.step
            found = [record.fresh[name] for name in trained if name in record.fresh]
            if found:
                self.scores[record.step] = sum(fd.value / (fd.trace or 1.0) for fd in found) / len(found)
        for name, count in record.not_finite.items():
            signs[f"finite {name}"] = (
                f"{count} of {record.count} fresh images at step {record.step} have features of {name} that are not "
                "finite, so that nothing can be said of them; lower --lr, or look at the grids."
            )
        for kind, now in (("noise", record.noise_sensitivity), ("labels", record.label_sensitivity)):
            signs |= {f"{kind} {name}": self._insensitive(kind, name, value) for name, value in now.items()}
        sentences = [text for sign, text in signs.items() if text is not None and sign not in self.reported]
        self.reported = {sign for sign, text in signs.items() if text is not None}
        return sentences

    def verdict(self, record: AlarmRecord, run: Path) -> str:
        """What a collapsed run has come to, and which checkpoint to go back to, as most of a sentence."""
        name = max(record.fresh, key=lambda name: record.fresh[name].least / (record.fresh[name].trace or 1.0))
        fresh, best = record.fresh[name], self.best_checkpoint(list(list_checkpoints(run)))
        what = "has collapsed" if fresh.spread < NARROW else "is no more where its population is"
        where = (
            "no checkpoint from before is left (--keep and --milestone-every keep more)"
            if best is None
            else f"the best checkpoint from before is {str(checkpoint_path(run, best))!r}"
        )
        return (
            f"at {self.in_a_row} alarms in a row, the last at step {record.step}, fresh images were far from the "
            f"reference (FD of {name} {fresh.value:.4g} ± {fresh.error:.2g}) while their population was not "
            f"({record.population[name]:.4g}), so the generator {what}; {where}"
        )

    def best_checkpoint(self, steps: Sequence[int]) -> int | None:
        """The step of the checkpoint with the best fresh images among those from before the gap; None without any."""
        before = [step for step in steps if step <= self.good_step]
        return min(before, key=lambda step: (self._score_at(step), -step), default=None)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "in_a_row": self.in_a_row,
            "good_step": self.good_step,
            "scores": dict(self.scores),
            "start": {kind: dict(values) for kind, values in self.start.items()},
            "reported": sorted(self.reported),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.in_a_row, self.good_step = int(state["in_a_row"]), int(state["good_step"])
        self.scores = {int(step): float(score) for step, score in state["scores"].items()}
        self.start = {kind: dict(values) for kind, values in state["start"].items()}
        self.reported = set(state["reported"])

    def _score_at(self, step: int) -> float:
        """The score of the alarm nearest to `step`; infinite without alarms."""
        nearest = min(self.scores, key=lambda other: (abs(other - step), other), default=None)
        return math.inf if nearest is None else self.scores[nearest]

    def _gap(self, record: AlarmRecord, name: str) -> str | None:
        if name not in record.population:
            return None
        fresh, population = record.fresh[name], record.population[name]
        if not fresh.is_above(population):
            return None
        what = (
            "the generator makes fewer kinds of images at a time than over time (a collapse)"
            if fresh.spread < NARROW
            else "the generator has moved on from its population (an overshoot, or modes that change)"
        )
        return (
            f"The {record.count} fresh images at step {record.step} have an FD of {name} of {fresh.value:.4g} ± "
            f"{fresh.error:.2g} and {100 * fresh.spread:.3g}% of the reference's variance, and their population, which "
            f"remembers older generators, has an FD of {population:.4g}: {what}; look at the grids, and train again "
            "with a lower --lr or a shorter --population."
        )

    def _insensitive(self, kind: str, name: str, value: float) -> str | None:
        """Compare a sensitivity with its first value, which is kept as the yardstick."""
        if not math.isfinite(value):  # what made it so is warned of elsewhere
            return None
        start = self.start.setdefault(kind, {}).setdefault(name, value)
        if not value < LEAST_SENSITIVITY * start:
            return None
        what = "noise, at the same label," if kind == "noise" else "labels, at the same noise,"
        return (
            f"Images with other {what} differ by {value / start:.0%} of what they did at the start, under {name}: the "
            f"generator comes to ignore its {kind}; look at the grids, lower --lr, or start again from an earlier "
            "checkpoint."
        )
