"""Whether differences mean something: p-values, Holm's correction, rankings with their ties; standard library only.

A difference d with standard error s has the two-sided p-value P(|T| > |d| / s), of a normal T or of Student's t.
Several differences are corrected together by Holm's step-down method (Holm 1979), which keeps the probability of one
false verdict or more below 1 - confidence. A set's rank is then an interval: from 1 + the number of sets that are
significantly better, to the number of sets that are not significantly worse. All these intervals hold together with
the same confidence (Mogstad, Romano, Shaikh and Wilhelm 2024).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fdr.comparison.student import t_quantile, t_tail
from fdr.errors import InputError

CONFIDENCE = 0.95
"""The confidence of a verdict, if the user names none."""


def check_confidence(confidence: float) -> float:
    """The confidence itself. Raises `InputError` unless it lies between 0.5 and 1, both excluded."""
    if not 0.5 < confidence < 1:
        raise InputError(f"A confidence lies between 0.5 and 1, as 0.95 does; got {confidence:g}.")
    return confidence


def p_value(difference: float, stderr: float, dof: float = math.inf) -> float:
    """The two-sided p-value of a difference; 1 for no difference, 0 for a difference without any noise."""
    if not stderr:
        return 0.0 if difference else 1.0
    return t_tail(difference / stderr, dof)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: of m values in rising order, the running maximum of (m - i) p_i, at most 1."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True)
class Contrast:
    """The difference of one number between two sets."""

    a: str
    b: str
    difference: float
    """b minus a."""
    stderr: float | None
    """The standard error of the difference; None where it is not known, and then there is no p-value."""
    dof: float = math.inf
    """Degrees of freedom of the standard error; infinite for the normal distribution."""
    kind: str = "unpaired"
    """"paired" where noise that both numbers share has been cancelled, "same images" where both measure one set."""
    adjusted: float | None = None
    """The p-value after Holm's correction over all pairs of sets of this number."""

    @property
    def p_value(self) -> float | None:
        """The two-sided p-value of this pair alone."""
        return None if self.stderr is None else p_value(self.difference, self.stderr, self.dof)

    def resolves(self, confidence: float) -> float | None:
        """The smallest difference of this pair alone that would be significant."""
        return None if self.stderr is None else self.stderr * t_quantile((1 + confidence) / 2, self.dof)

    def is_significant(self, confidence: float) -> bool:
        """True if the difference is significant after Holm's correction."""
        return self.adjusted is not None and self.adjusted < 1 - confidence

    def to_dict(self, confidence: float) -> dict[str, Any]:
        """For JSON."""
        return {
            "a": self.a,
            "b": self.b,
            "difference": self.difference,
            "stderr": self.stderr,
            "dof": None if math.isinf(self.dof) else self.dof,
            "kind": self.kind,
            "p_value": self.p_value,
            "holm_p_value": self.adjusted,
            "resolves": self.resolves(confidence),
            "significant": self.is_significant(confidence),
        }


def with_holm(contrasts: Sequence[Contrast]) -> tuple[Contrast, ...]:
    """The contrasts with their adjusted p-values; one without standard error is left as it is, and counts."""
    values = [1.0 if contrast.p_value is None else contrast.p_value for contrast in contrasts]
    return tuple(
        contrast if contrast.stderr is None else replace(contrast, adjusted=adjusted)
        for contrast, adjusted in zip(contrasts, holm(values), strict=True)
    )


@dataclass(frozen=True)
class Rank:
    """The place of one set among several, as an interval."""

    name: str
    value: float
    best: int
    worst: int
    ties: tuple[str, ...]
    """The sets that it does not significantly differ from."""

    def __str__(self) -> str:
        return str(self.best) if self.best == self.worst else f"{self.best}–{self.worst}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"name": self.name, "value": self.value, "rank": [self.best, self.worst], "ties": list(self.ties)}


@dataclass(frozen=True)
class Ranking:
    """One number of several sets: the differences of all pairs, corrected together, and the ranks, best value first."""

    key: str
    lower_is_better: bool
    confidence: float
    contrasts: tuple[Contrast, ...]
    ranks: tuple[Rank, ...]

    def contrast(self, a: str, b: str) -> Contrast | None:
        """The contrast of `b` minus `a`, whichever way round the pair is stored; None if there is none."""
        for found in self.contrasts:
            if (found.a, found.b) == (a, b):
                return found
            if (found.b, found.a) == (a, b):
                return replace(found, a=a, b=b, difference=-found.difference)
        return None

    @property
    def names(self) -> tuple[str, ...]:
        """The sets, in the order in which they were given."""
        return tuple(dict.fromkeys(name for found in self.contrasts for name in (found.a, found.b)))

    @property
    def has_noise(self) -> bool:
        """True if at least one difference has a standard error."""
        return any(contrast.stderr is not None for contrast in self.contrasts)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "key": self.key,
            "lower_is_better": self.lower_is_better,
            "confidence": self.confidence,
            "pairs": [contrast.to_dict(self.confidence) for contrast in self.contrasts],
            "ranks": [rank.to_dict() for rank in self.ranks],
        }


def rank(
    key: str, values: Mapping[str, float], contrasts: Sequence[Contrast], lower_is_better: bool, confidence: float
) -> Ranking:
    """Rank sets by their `values`. `contrasts` has each pair of them once, without Holm's correction yet."""
    check_confidence(confidence)
    corrected = with_holm(contrasts)
    worse: dict[str, set[str]] = {name: set() for name in values}
    ties: dict[str, set[str]] = {name: set() for name in values}
    for found in corrected:
        if not found.is_significant(confidence):
            ties[found.a].add(found.b)
            ties[found.b].add(found.a)
        else:
            is_b_better = (found.difference < 0) == lower_is_better
            winner, loser = (found.b, found.a) if is_b_better else (found.a, found.b)
            worse[winner].add(loser)
    ranks = [
        Rank(
            name,
            values[name],
            1 + sum(name in losers for losers in worse.values()),
            len(values) - len(worse[name]),
            tuple(other for other in values if other in ties[name]),
        )
        for name in sorted(values, key=lambda name: values[name] if lower_is_better else -values[name])
    ]
    return Ranking(key, lower_is_better, confidence, corrected, tuple(ranks))


def pairs_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """Every pair of names once, in order."""
    return list(itertools.combinations(names, 2))
