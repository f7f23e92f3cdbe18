"""Signs that a run learns nothing, diverges or overfits: warnings while it goes on, and an error at its end.

A step that cannot be taken reports that itself. This file looks for faults that let every step pass.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fdr.generators import OUTSIDE_SHARE, OVERSHOOT

DIVERGED = 10.0
"""A trained FD above this many times that of the first step is reported. Raising it reports divergence later."""
STILL = 3
"""This many logged steps in a row with the same FD, to the last digit, are reported. Raising it reports later."""
RISE = 0.05
"""A watched FD that is this share above its lowest, while the trained ones fell on, is reported.

Raising it reports later and less often by mistake.
"""
DEAD_SHARE = 0.5
"""A run fails when its gradient was exactly 0 up to its end, over at least this share of the steps.

Raising it lets runs pass that stopped learning early.
"""


@dataclass(frozen=True)
class BatchStatistics:
    """Statistics of the images of one step on this rank."""

    count: int
    spread: float
    """The largest difference between two images in any value; 0 when all are equal."""
    outside: float
    """The share of values that lie outside of [0, 1] by more than a tenth."""


def batch_statistics(images: Tensor) -> BatchStatistics:
    """The statistics of images [B, 3, H, W], with a single copy from the device."""
    values = images.detach()
    spread = (values.amax(0) - values.amin(0)).amax()
    outside = ((values < -OVERSHOOT) | (values > 1 + OVERSHOOT)).float().mean()
    return BatchStatistics(len(images), *torch.stack([spread, outside]).tolist())


def fingerprint(parameters: Sequence[Tensor]) -> list[float]:
    """The sum of each parameter in float64, which changes with an update; a single copy from the device."""
    return torch.stack([parameter.detach().sum(dtype=torch.float64) for parameter in parameters]).tolist()


@dataclass
class Watch:
    """Follows the steps of a run, and finds signs that it learns nothing or diverges."""

    beginning: list[float] = field(default_factory=list)
    """The fingerprint of the parameters before the first step."""
    zero_since: int | None = None
    """The first of the steps up to now whose gradients are all exactly 0."""
    fault: str = ""
    """The reason why the last skipped step was skipped."""
    reported: set[str] = field(default_factory=set)
    """Signs that were reported and are still there; a resumed run reports them again."""
    first: dict[str, float] = field(default_factory=dict)
    """FD by encoder at the first step that was taken."""
    still: dict[str, tuple[float, int]] = field(default_factory=dict)
    """By encoder: the last logged FD, and for how many logged steps in a row FD has been exactly that."""
    measure: str = "FD"
    """What sentences call the value of an encoder: "quadratic loss" for the solver local, whose value is no FD."""

    def record(self, step: int, grad_norm: float, fault: str | None, fd: Mapping[str, float] | None = None) -> None:
        """Record a step, by numbers that the step computes anyway; `fd` is that of every encoder."""
        if fault is not None:
            self.fault = fault
            return
        self.first = self.first or dict(fd or {})
        if grad_norm != 0:
            self.zero_since = None
        elif self.zero_since is None:
            self.zero_since = step

    def look(
        self, step: int, fd: Mapping[str, float], trained: Sequence[str], batch: BatchStatistics | None = None
    ) -> list[str]:
        """One sentence for every sign that a logged step shows for the first time."""
        signs = {"gradient": self._gradient(), "images": _images(step, batch), "range": _range(step, batch)}
        for name, value in fd.items():
            before, times = self.still.get(name, (math.nan, 0))
            self.still[name] = (value, times + 1 if value == before else 1)
            signs[f"still {name}"] = self._still(name)
            if name in trained:
                signs[f"diverged {name}"] = self._diverged(name, value)
        sentences = [text for sign, text in signs.items() if text is not None and sign not in self.reported]
        self.reported = {sign for sign, text in signs.items() if text is not None}
        return sentences

    def verdict(self, step: int, taken: int, parameters: Sequence[Tensor]) -> str | None:
        """Why a run that has taken `taken` of its `step` steps has learned nothing; None when it has learned."""
        if taken == 0:
            return f"none of the {step} steps was taken; of the last one the reason is: {self.fault.rstrip('.')}"
        now = fingerprint(parameters)
        if not all(map(math.isfinite, now)):
            return f"its parameters hold values that are not finite{f'; {self.fault}' if self.fault else ''}".rstrip(
                "."
            )
        if self.zero_since is not None and step - self.zero_since + 1 >= DEAD_SHARE * step:
            return f"the gradient has been exactly 0 from step {self.zero_since} to its end"
        if now == self.beginning:
            return f"its {taken} steps have changed no parameter: --lr is too small for them"
        return None

    def losses(self, step: int, taken: int) -> str | None:
        """A sentence for a run in which most steps were skipped; None otherwise."""
        if taken == 0 or taken >= step / 2:  # the verdict says that none was taken
            return None
        return f"{step - taken} of {step} steps were skipped; of the last one the reason is: {self.fault}"

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: all that does not depend on which steps are logged."""
        return {
            "beginning": self.beginning,
            "zero_since": self.zero_since,
            "fault": self.fault,
            "first": dict(self.first),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.beginning, self.zero_since = list(state["beginning"]), state["zero_since"]
        self.fault, self.first = state["fault"], dict(state.get("first", {}))  # earlier versions had no "first"

    def _gradient(self) -> str | None:
        if self.zero_since is None:
            return None
        return (
            f"The gradient has been exactly 0 since step {self.zero_since}, so that nothing is learned: the images or "
            "their features do not change with the parameters (a saturated or constant output); lower --lr, or look at "
            "the grids."
        )

    def _still(self, name: str) -> str | None:
        value, times = self.still[name]
        if times < STILL:
            return None
        return (
            f"The {self.measure} of {name} has been {value:.6g}, to the last digit, at {times} logged steps in a row: "
            "its features do not change with the images."
        )

    def _diverged(self, name: str, value: float) -> str | None:
        first = self.first.setdefault(name, value)
        if not 0 < DIVERGED * first < value:
            return None
        times = f"{value / first:.3g} times that of the first step"
        return f"The {self.measure} of {name} is {times}: lower --lr, or set --clip."


def _images(step: int, batch: BatchStatistics | None) -> str | None:
    if batch is None or batch.count < 2 or batch.spread > 0:
        return None
    return (
        f"All {batch.count} images of step {step} are equal: the generator ignores its noise, or its output is "
        "saturated; lower --lr, or start again from an earlier checkpoint."
    )


def _range(step: int, batch: BatchStatistics | None) -> str | None:
    if batch is None or batch.outside <= OUTSIDE_SHARE:
        return None
    return (
        f"{batch.outside:.0%} of the values of step {step} lie outside of the value range by more than a tenth: the "
        "encoders see what no file can hold, and samples are clamped; lower --lr, or end the network in a sigmoid."
    )


@dataclass
class OverfitWatch:
    """Notices when the FD of watched encoders rises while that of the trained encoders falls.

    A generator can game the encoders that it is trained on: their FD falls while the images get worse, which other
    encoders see.
    """

    lowest: dict[str, tuple[int, float, float]] = field(default_factory=dict)
    """By watched encoder: step of its lowest FD, that FD, and the geometric mean of the trained FDs then."""
    reported: set[str] = field(default_factory=set)
    """Watched encoders that were reported and have not recovered since."""
    measure: str = "FD"
    """As in `Watch`."""

    def look(self, step: int, trained: Mapping[str, float], watched: Mapping[str, float]) -> list[str]:
        """One sentence for every watched encoder that has risen since the last call and was not reported yet."""
        # The geometric mean, in which an encoder of large FD does not drown the others.
        now = 0.0 if min(trained.values()) <= 0 else statistics.geometric_mean(trained.values())
        sentences = []
        for name, value in watched.items():
            since, low, then = self.lowest.get(name, (step, math.inf, now))
            if value <= low:
                self.lowest[name] = (step, value, now)
                self.reported.discard(name)
            elif value > (1 + RISE) * low and now < then and name not in self.reported:
                self.reported.add(name)
                sentences.append(
                    f"Since step {since} the {self.measure} of the trained encoders fell by {1 - now / then:.1%}, but "
                    f"that of {name}, which is watched, rose by {value / low - 1:.1%}: what improves may not be the "
                    "images; look at the grids, train on more encoders, or stop."
                )
        return sentences

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds, by the names of its format."""
        return {"lowest": {name: list(row) for name, row in self.lowest.items()}, "told": sorted(self.reported)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.lowest = {name: (int(step), low, then) for name, (step, low, then) in state["lowest"].items()}
        self.reported = set(state["told"])
