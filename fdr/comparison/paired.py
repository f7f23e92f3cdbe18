"""The standard error of the difference between two sample sets that were measured against one reference.

An FD moves by about IF_a / N when sample a is added, and by IF_r / M with reference image r
(`fdr.frechet.fd_influence`). Both sets share the reference images, so their influences are subtracted row by row before
they are squared, and most of that noise cancels:

    V1 = var(IF_a of set 1) / N_1 + var(IF_a of set 2) / N_2 + var(IF_r of set 1 - IF_r of set 2) / M

V2, the part that remains where both distributions are equal, has a share (1/M)^2 / (1/N + 1/M)^2 that comes from the
reference alone. It cancels too, so that V2 of the difference is the sum of the V2 of both sets without that share. As
for one set, V1 counts V2 twice in addition, and the standard error is sqrt(max(V1 - V2, V2)).

The debiased FD has an influence function of its own. It is estimated by that of FD, times the share by which the
standard errors of the two numbers (of their own influence function, or the jackknife) exceed those of FD.

The two sample sets are taken as independent. If they share noise (one seed, two models), the true error is smaller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fdr.comparison.significance import pairs_of
from fdr.frechet import Influence, stderr_from
from fdr.metrics import METRICS, mean_of
from fdr.reports import Report, Result

OF_FD = ("fd", "sfid", "fd_debiased")
"""Metrics whose influence function is that of FD."""
Place = tuple[str, str]
"""(encoder, output)"""


@dataclass(frozen=True)
class Combination:
    """A number as a weighted sum of FDs: its influences, with the weights taken in."""

    samples: np.ndarray
    """The influences of the samples, or of a random part of them."""
    reference: np.ndarray | None
    """The influences of the reference images, or of a random part of them that depends on the reference alone; None
    where their features are not known, so that the reference is taken as exact."""
    second_order: float
    """V2"""
    count: int
    """Number N of samples."""
    reference_count: int
    """Number M of reference images."""

    @classmethod
    def of(
        cls, parts: Sequence[tuple[float, Influence]], count: int | None = None, reference_count: int | None = None
    ) -> Combination | None:
        """The sum of weights times influences of the same images; None if these have not the same number everywhere.

        The counts are by default the numbers of influences.
        """
        if len({(len(one.samples), None if one.reference is None else len(one.reference)) for _, one in parts}) != 1:
            return None
        samples = sum(weight * one.samples for weight, one in parts)
        known = [(weight, one.reference) for weight, one in parts if one.reference is not None]
        spread = sum(abs(weight) * math.sqrt(one.second_order) for weight, one in parts)
        reference = np.asarray(sum(weight * values for weight, values in known)) if known else None
        of_reference = 0 if reference is None else reference_count or len(reference)
        return cls(np.asarray(samples), reference, spread**2, count or len(parts[0][1].samples), of_reference)

    @property
    def stderr(self) -> float:
        """The standard error of the number itself."""
        first = float(np.var(self.samples)) / self.count
        if self.reference is not None:
            first += float(np.var(self.reference)) / self.reference_count
        return stderr_from(first, self.second_order)

    @property
    def own_second_order(self) -> float:
        """V2 without the share that comes from the reference alone."""
        if self.reference is None:
            return self.second_order
        own, shared = 1 / self.count, 1 / self.reference_count
        return self.second_order * (1 - (shared / (own + shared)) ** 2)


def paired_stderr(a: Combination, b: Combination) -> float | None:
    """The standard error of the difference; None if the two were measured against different reference images."""
    first = float(np.var(a.samples)) / a.count + float(np.var(b.samples)) / b.count
    if a.reference is not None and b.reference is not None:
        if (len(a.reference), a.reference_count) != (len(b.reference), b.reference_count):
            return None
        first += float(np.var(a.reference - b.reference)) / a.reference_count
    elif a.reference is not None or b.reference is not None:
        return None
    return stderr_from(first, a.own_second_order + b.own_second_order)


def combinations(report: Report, influences: Mapping[Place, Influence]) -> dict[str, Combination]:
    """The numbers of a report that are FDs, ratios of FDs, or means of ratios, by their key."""
    rows = {row.key: row for row in report}
    found = {}
    for row in report:
        parts = [(weight, influences.get(place)) for weight, place in _parts(row, rows)]
        known = [(weight, influence) for weight, influence in parts if influence is not None]
        is_complete = known and len(known) == len(parts)
        names = row.encoders or (row.encoder,)  # a mean has no reference of its own
        below = next((one.reference_count for one in report if one.encoder in names and one.reference_count), None)
        combination = Combination.of(known, row.count, below) if is_complete else None
        if combination is not None:
            found[row.key] = combination
    return found


def _parts(row: Result, rows: Mapping[str, Result]) -> list[tuple[float, Place]]:
    """The FDs that a number consists of, with their weights; empty for any other number."""
    if row.encoder is not None:
        place = row.encoder, str(row.output)
        if row.metric in OF_FD:
            return [(1.0, place)]
        below = row.details.get("val_fd")
        return [(1 / below, place)] if _ratio_of(row.metric) and below else []
    source = mean_of(row.metric)
    found = [_parts(rows[key], rows) for key in (f"{source}:{name}" for name in row.encoders or ()) if key in rows]
    if not found or len(found) != len(row.encoders or ()) or not all(found):
        return []
    return [(weight / len(found), place) for ((weight, place),) in found]


def _ratio_of(metric: str) -> bool:
    """True for a metric that is one of `OF_FD` over its value for the validation set."""
    return any(METRICS[name].ratio == metric for name in OF_FD if name in METRICS)


def paired_errors(
    reports: Mapping[str, Report], influences: Mapping[str, Mapping[Place, Influence]]
) -> dict[tuple[str, str], dict[str, float]]:
    """The paired standard errors of every two sets, by their names and the key of the number, for `rank_reports`."""
    numbers = {name: combinations(report, influences[name]) for name, report in reports.items()}
    found: dict[tuple[str, str], dict[str, float]] = {}
    for a, b in pairs_of(list(reports)):
        found[a, b] = {}
        for key in [key for key in numbers[a] if key in numbers[b]]:
            error = paired_stderr(numbers[a][key], numbers[b][key])
            if error is not None:
                found[a, b][key] = error * _scale(key, (reports[a], reports[b]), (numbers[a][key], numbers[b][key]))
    return found


def _scale(key: str, reports: Sequence[Report], numbers: Sequence[Combination]) -> float:
    """How much larger the own standard errors of debiased FDs are than those of their influences; 1 for other numbers.

    The correction has a spread of its own, which the influence of the raw FD leaves out.
    """
    rows = [row for report in reports for row in report if row.key == key and row.metric == "fd_debiased"]
    own = [row.stderr for row in rows if row.stderr is not None]
    below = math.hypot(*(number.stderr for number in numbers))
    return max(1.0, math.hypot(*own) / below) if len(own) == 2 and below else 1.0
