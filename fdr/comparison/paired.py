"""The standard error of the difference between two sample sets that were measured against one reference.

`fdr.frechet.paired_stderr` has that of FDs and of weighted sums of FDs. The debiased FD has an influence function of
its own. It is estimated by that of FD, times the share by which the standard errors of the two numbers (of their own
influence function, or the jackknife) exceed those of FD.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fdr.comparison.significance import pairs_of
from fdr.frechet import Combination, Influence, paired_stderr
from fdr.metrics import METRICS, mean_of
from fdr.reports import Report, Result

if TYPE_CHECKING:
    import numpy as np

OF_FD = ("fd", "sfid", "fd_debiased")
"""Metrics whose influence function is that of FD."""
Place = tuple[str, str]
"""(encoder, output)"""


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
    reports: Mapping[str, Report],
    influences: Mapping[str, Mapping[Place, Influence]],
    scores: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> dict[tuple[str, str], dict[str, float]]:
    """The paired standard errors of every two sets, by their names and the key of the number, for `rank_reports`.

    `scores` are those of each prompt, float64 [P], of the numbers that are means over them, by set and key.
    """
    numbers = {name: combinations(report, influences[name]) for name, report in reports.items()}
    found: dict[tuple[str, str], dict[str, float]] = {}
    for a, b in pairs_of(list(reports)):
        found[a, b] = {} if scores is None else _by_prompt(scores[a], scores[b])
        for key in [key for key in numbers[a] if key in numbers[b]]:
            error = paired_stderr(numbers[a][key], numbers[b][key])
            if error is not None:
                found[a, b][key] = error * _scale(key, (reports[a], reports[b]), (numbers[a][key], numbers[b][key]))
    return found


def _by_prompt(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The standard error of the mean difference over the prompts that both sets have an image of."""
    found = {}
    for key in a.keys() & b.keys():
        differences = b[key] - a[key]
        known = differences[differences == differences]  # NaN where a prompt has no image
        if len(known) > 1:
            found[key] = float(known.std(ddof=1)) / math.sqrt(len(known))
    return found


def _scale(key: str, reports: Sequence[Report], numbers: Sequence[Combination]) -> float:
    """How much larger the own standard errors of debiased FDs are than those of their influences; 1 for other numbers.

    The correction has a spread of its own, which the influence of the raw FD leaves out.
    """
    rows = [row for report in reports for row in report if row.key == key and row.metric == "fd_debiased"]
    own = [row.stderr for row in rows if row.stderr is not None]
    below = math.hypot(*(number.stderr for number in numbers))
    return max(1.0, math.hypot(*own) / below) if len(own) == 2 and below else 1.0
