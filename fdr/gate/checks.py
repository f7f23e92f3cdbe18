"""What one number is held to, and whether it passes.

Every number has an uncertainty range [low, high] and one of three outcomes. A lower-is-better number passes if
high <= limit, fails if low > limit, and is inconclusive in between; without uncertainty low = high = value.

The range is value ± z stderr, where z is the normal quantile of the confidence: both ends are one-sided bounds, so that
a number passes or fails beyond that confidence. Against a baseline the limit is the baseline plus the tolerance, and
the standard error is that of the difference, sqrt(a² + b²); the same images are without noise. An interval that comes
from rounded denominators widens the range against an absolute limit, and not against a baseline, because both numbers
are divided by the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from fdr.comparison import CONFIDENCE, Difference
from fdr.gate.baseline import BaselineValue
from fdr.gate.limits import Tolerance
from fdr.metrics import metric_info, peer_name
from fdr.reports import Result

Outcome = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Bound:
    """What one number is held to: a limit, or its value in the baseline with a tolerance."""

    samples: str
    """The name of the sample set; if the whole set is missing, its name in the baseline."""
    key: str
    """The number ("fd:inception"); the name in the limit if no number has it."""
    rule: Literal["max", "min", "baseline"]
    value: float
    """The limit, or the value in the baseline."""
    baseline: BaselineValue | None = None
    baseline_name: str | None = None
    tolerance: Tolerance | None = None
    allowed: tuple[Difference, ...] = ()
    """Decisive differences from the baseline that `GateOptions.allow` permits."""
    failure: str = ""
    """Why the number could not be computed; empty if it was, or was not asked for."""

    @property
    def source(self) -> str:
        """Where the bound comes from: "--max", "--min" or "baseline"."""
        return "baseline" if self.baseline is not None else f"--{self.rule}"

    def limit(self, lower_is_better: bool) -> float:
        """The worst value that passes."""
        if self.tolerance is None:
            return self.value
        return self.value + (1 if lower_is_better else -1) * self.tolerance.allowance(self.value)

    @property
    def if_missing(self) -> str:
        """What to say if the number was not measured."""
        why = f" ({self.failure.rstrip('.')})" if self.failure else ""
        text = f"{self.key} of {self.samples} was not measured{why}, and "
        if self.baseline is None:
            return f"{text}{self.source} {self.key}={self.value:g} asks for it"
        metric = metric_of(self.key)
        meaning = peer_name(metric) if metric_info(metric) is None else None
        note = "" if meaning is None else f"; {metric} {meaning}"
        return f"{text}baseline {self.baseline_name!r} has it ({self.value:.6g}){note}"


@dataclass(frozen=True)
class Check:
    """One number compared with one bound."""

    bound: Bound
    result: Result
    confidence: float = CONFIDENCE
    """The one-sided confidence of passing and of failing."""
    is_same_images: bool = False
    """True if the number and its baseline are known to be of the same images, so that no noise is between them."""

    @property
    def limit(self) -> float:
        """The worst value that passes: the limit, or the baseline plus the tolerance."""
        return self.bound.limit(self.result.lower_is_better)

    @property
    def stderr(self) -> float | None:
        """The standard error of the value; against a baseline that of the difference, as far as it is known."""
        before = self.bound.baseline
        known = [self.result.stderr] if before is None else [self.result.stderr, before.stderr]
        spreads = [spread for spread in known if spread is not None]
        return None if not spreads or self.is_same_images else math.hypot(*spreads)

    @property
    def range(self) -> tuple[float, float]:
        """Lower and upper end of the uncertainty, as the first sentences of this file define it."""
        low, high = (self.bound.baseline is None and self.result.interval) or (self.result.value, self.result.value)
        reach = NormalDist().inv_cdf(self.confidence) * (self.stderr or 0.0)
        return low - reach, high + reach

    @property
    def outcome(self) -> Outcome:
        """Pass, fail or inconclusive."""
        low, high = self.range
        best, worst = (low, high) if self.result.lower_is_better else (-high, -low)
        limit = self.limit if self.result.lower_is_better else -self.limit
        return "pass" if worst <= limit else "fail" if best > limit else "inconclusive"

    @property
    def excess(self) -> float:
        """How far the value is beyond the limit, in the metric's units; negative within the limit."""
        beyond = self.result.value - self.limit
        return beyond if self.result.lower_is_better else -beyond

    @property
    def relative_excess(self) -> float | None:
        """`excess` over |limit|; None for a limit of 0."""
        return self.excess / abs(self.limit) if self.limit else None


def metric_of(key: str) -> str:
    """ "fd" of "fd:inception"."""
    return key.partition(":")[0]
