"""Null reports: numbers of the unchanged model at other seeds. A budget that they break stops unchanged models.

Of k null values v with mean m and standard deviation s, a further run of the unchanged model stays below
m + t s sqrt(1 + 1/k) with the confidence of the quantile t, Student's with k - 1 degrees of freedom (the one-sided
prediction bound of a normal sample).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from fdr.comparison import images_digest, match_sets, signature_differences, t_quantile
from fdr.errors import InputError
from fdr.gate.baseline import Baseline, BaselineValue
from fdr.gate.checks import Bound
from fdr.gate.limits import Row
from fdr.reports import Report, format_number

DIGITS = 2
"""Significant digits of a suggested budget, which is rounded so that the null reports keep it."""
MIN_RUNS = 2
"""Null reports from which on a prediction bound exists."""


@dataclass(frozen=True)
class NullBudget:
    """One bound beside the values that the unchanged model gives."""

    bound: Bound
    values: Mapping[str, float]
    """The value in each null report, by its name."""
    lower_is_better: bool
    confidence: float

    @property
    def limit(self) -> float:
        """The worst value that passes."""
        return self.bound.limit(self.lower_is_better)

    @property
    def worst(self) -> tuple[str, float]:
        """The null report with the worst value, and that value."""
        sign = 1 if self.lower_is_better else -1
        return max(self.values.items(), key=lambda item: sign * item[1])

    @property
    def is_broken(self) -> bool:
        """True if a null value would fail by its value."""
        _, worst = self.worst
        return worst > self.limit if self.lower_is_better else worst < self.limit

    @property
    def prediction(self) -> float | None:
        """The value that a further run keeps to with the confidence; None below two null reports."""
        found = list(self.values.values())
        if len(found) < MIN_RUNS:
            return None
        reach = t_quantile(self.confidence, len(found) - 1) * stdev(found) * math.sqrt(1 + 1 / len(found))
        return fmean(found) + (reach if self.lower_is_better else -reach)

    def budget_for(self, value: float) -> str:
        """The smallest budget that `value` keeps, as it is typed: "3.2", "4.1%", "fd:inception=0.05"."""
        excess = (value - self.bound.value) * (1 if self.lower_is_better else -1)
        if self.bound.tolerance is None:
            return f"{_rounded_away(value, up=self.lower_is_better):g}"
        if self.bound.tolerance.is_relative and self.bound.value:
            return f"{_rounded_away(max(0.0, 100 * excess / abs(self.bound.value)), up=True):g}%"
        return f"{self.bound.key}={_rounded_away(max(0.0, excess), up=True):g}"

    @property
    def refusal(self) -> str:
        """The sentence for a budget that is broken."""
        name, worst = self.worst
        text = (
            f"{self._named} is a budget that the unchanged model already breaks: null report {name!r} has "
            f"{self.bound.key} {format_number(worst)}, and the limit is {format_number(self.limit)}"
        )
        advice = f". The smallest {self._kind} that the null reports keep is {self.budget_for(worst)}"
        if self.prediction is None:
            return text + advice
        return f"{text}{advice}; {self.budget_for(self.prediction)} covers {self._chance}"

    @property
    def warning(self) -> str | None:
        """The sentence for a budget that a further run may well break; None if it covers enough."""
        beyond = None if self.prediction is None else self.prediction - self.limit
        if beyond is None or (beyond if self.lower_is_better else -beyond) <= 0:
            return None
        return (
            f"{self.bound.samples}: {self._named} is narrow: {len(self.values)} null reports keep it, and a further "
            f"run of the unchanged model may not; a {self._kind} of {self.budget_for(self.prediction or 0.0)} covers "
            f"{self._chance}."
        )

    @property
    def _kind(self) -> str:
        return "limit" if self.bound.tolerance is None else "tolerance"

    @property
    def _named(self) -> str:
        if self.bound.tolerance is None:
            return f"{self.bound.source} {self.bound.key}={self.bound.value:g}"
        return f"A tolerance of {self.bound.tolerance} for {self.bound.key}"

    @property
    def _chance(self) -> str:
        return f"a further run with {100 * self.confidence:g} % confidence"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "samples": self.bound.samples,
            "key": self.bound.key,
            "rule": self.bound.rule,
            "limit": self.limit,
            "values": dict(self.values),
            "covers": self.prediction,
        }


def _rounded_away(value: float, *, up: bool) -> float:
    """`value` with `DIGITS` significant digits, rounded up or down, with room for the rounding of its text."""
    if not value:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - DIGITS + 1)
    steps = value / unit
    return (math.ceil(steps + 1e-9) if up else math.floor(steps - 1e-9)) * unit


def null_budgets(
    sets: Mapping[str, Sequence[Row]],
    bounds: Mapping[str, Sequence[Bound]],
    nulls: Sequence[Baseline],
    allow: Sequence[str],
    confidence: float,
) -> list[NullBudget]:
    """Every bound beside its null values; bounds that no null report has a number for are left out.

    Raises `InputError` for a null report that has no such set or that is not comparable, for two of the same images,
    and for a budget that the unchanged model breaks.
    """
    matches = {null.name: match_sets(sets, null.sets, f"null report {null.name!r}") for null in nulls}
    found = []
    for name, rows in sets.items():
        by_key = {row.key: row for row in rows}
        values = {null.name: null.sets[matches[null.name][name]] for null in nulls}
        _refuse_repeats(values)
        for bound in bounds[name]:
            known = {where: numbers[bound.key] for where, numbers in values.items() if bound.key in numbers}
            row = by_key[bound.key]
            for where, number in known.items():
                _refuse_incomparable(row, where, number, allow)
            if known:
                numbers = {where: number.value for where, number in known.items()}
                found.append(NullBudget(bound, numbers, row.lower_is_better, confidence))
    broken = [budget.refusal for budget in found if budget.is_broken]
    if broken:
        raise InputError(f"{'. '.join(broken)}.")
    return found


def _refuse_repeats(values: Mapping[str, Mapping[str, BaselineValue]]) -> None:
    """Raise `InputError` if two null reports are of the same images."""
    seen: dict[str, str] = {}
    for where, numbers in values.items():
        for digest in {number.samples_digest for number in numbers.values()} - {None}:
            if digest in seen:
                raise InputError(
                    f"Null reports {seen[digest]!r} and {where!r} are of the same images, and runs at other seeds are "
                    "not; leave one out."
                )
            seen[str(digest)] = where


def _refuse_incomparable(row: Row, where: str, number: BaselineValue, allow: Sequence[str]) -> None:
    found = [
        difference
        for difference in signature_differences(row.signature, number.signature)
        if difference.is_decisive and difference.field not in allow
    ]
    if found:
        differing = "; ".join(f"{d.field} ({d.meaning}) is {d.a} here and {d.b} there" for d in found)
        raise InputError(
            f"{row.key} cannot be compared with null report {where!r}: {differing}. Measure the unchanged model in the "
            "same way."
        )


def refuse_own_images(sets: Mapping[str, Report], nulls: Sequence[Baseline]) -> None:
    """Raise `InputError` if a null report is of the images that are checked."""
    for null in nulls:
        for name, other in match_sets(sets, null.sets, f"null report {null.name!r}").items():
            digest = images_digest(sets[name])
            if digest is not None and any(number.samples_digest == digest for number in null.sets[other].values()):
                raise InputError(
                    f"Null report {null.name!r} is of the images of {name} itself; give runs at other seeds."
                )
