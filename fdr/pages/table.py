"""The table of numbers that a page, a Markdown comment and a LaTeX table show: a row per number, a column per set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fdr.comparison import CONFIDENCE, Contrast, Ranking, rank_reports, t_quantile
from fdr.metrics import metric_info
from fdr.pages.compared import with_compared
from fdr.reports import Failure, Report, Result, is_inception, metric_label

FIRST = ("fdr_debiased_k", "fdr_k", "fdr_debiased", "fdr", "fd_debiased", "fd")
"""The metrics that come first, the best yardstick before the others; the rest keep the order of the reports, with all
rows of a metric together."""
GROUPS_OF_MEANS = ("held_out", "", "trained")
"""The order of the means of one metric: over held-out encoders, over all, over those that were trained on."""


@dataclass(frozen=True)
class Entry:
    """One number of one sample set: a result or a failure."""

    result: Result | None = None
    failure: Failure | None = None
    standing: str = ""
    """"best" if no comparable set is significantly better and one is worse, "apart" if it cannot be compared with the
    first set, else ""."""
    contrast: Contrast | None = None
    """Its difference from the first set; None for the first set, and where there is none."""
    verdict: str = ""
    """What `contrast` says: "better", "worse", "not told apart", "no verdict", or ""."""


@dataclass(frozen=True)
class NumberRow:
    """One number of all sets."""

    key: str
    label: str
    """The metric as people write it, such as "FID" or "FDr^6 held out"."""
    encoder: str
    """The encoder; for a mean the number of encoders; "" for a metric without encoder."""
    lower_is_better: bool
    group: str
    """"trained on" or "held out" if the report says which encoders the generator was trained on, else ""."""
    entries: tuple[Entry | None, ...]
    """By set; None if the set has no such number."""

    @property
    def arrow(self) -> str:
        return "↓" if self.lower_is_better else "↑"


@dataclass(frozen=True)
class NumberTable:
    """All numbers of several sample sets. The first set is the one that the others are compared with."""

    sets: Mapping[str, Report]
    rows: tuple[NumberRow, ...]
    rankings: tuple[Ranking, ...]
    confidence: float

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.sets)

    def columns(self) -> Iterator[tuple[str, Report, list[Entry]]]:
        """Each set with its entries."""
        for index, (name, report) in enumerate(self.sets.items()):
            entries = (row.entries[index] for row in self.rows)
            yield name, report, [entry for entry in entries if entry is not None]


def number_table(
    sets: Mapping[str, Report], confidence: float = CONFIDENCE, compared: Sequence[Mapping[str, Any]] = ()
) -> NumberTable:
    """The table of reports by the name of their set. Differences and ties are those of `fdr compare` of the reports,
    or of the samples where `compared` holds what `load_compared` read.

    Raises `InputError` if a comparison is of other sets.
    """
    rankings = rank_reports(sets, confidence)
    for data in compared:
        rankings = tuple(with_compared(rankings, data, sets))
    by_key = {ranking.key: ranking for ranking in rankings}
    rows = [_row(key, sets, by_key.get(key)) for key in _keys(sets)]
    order = list(dict.fromkeys([*FIRST, *(_base(row) for row in rows)]))
    rows.sort(key=lambda row: (order.index(_base(row)), _group_place(row)))
    return NumberTable(dict(sets), tuple(rows), rankings, confidence)


def bounds(result: Result, confidence: float) -> tuple[float, float] | None:
    """The interval of a value at this confidence, within its possible values; None without a standard error."""
    if result.stderr is None:
        return None
    reach = result.stderr * t_quantile((1 + confidence) / 2, math.inf)
    info = metric_info(result.metric)
    low, high = (-math.inf, math.inf) if info is None else (info.low, info.high)
    return max(low, result.value - reach), min(high, result.value + reach)


def trained_on(report: Report) -> frozenset[str] | None:
    """The encoders that the generator was trained on; None if the report does not say."""
    found = [name for row in report if row.metric.endswith(":trained") for name in row.encoders or ()]
    stated = report.run.get("trained_on")
    return frozenset(found) if found else None if not isinstance(stated, list) else frozenset(map(str, stated))


def group_of(encoder: str | None, report: Report) -> str:
    """ "trained on" or "held out"; "" if it is not known or does not apply."""
    trained = trained_on(report)
    if encoder is None or trained is None:
        return ""
    return "trained on" if encoder in trained else "held out"


def _keys(sets: Mapping[str, Report]) -> dict[str, None]:
    rows = (row for report in sets.values() for row in _all(report))
    return dict.fromkeys(row.key for row in rows)


def _all(report: Report) -> list[Result | Failure]:
    return [*report.results, *report.failed]


def _base(row: NumberRow) -> str:
    """The metric without its variant and encoder."""
    return row.key.partition(":")[0]


def _group_place(row: NumberRow) -> int:
    """The place of a mean among those of its metric; Python's sort keeps the order of the reports among equals."""
    group = row.key.partition(":")[2]
    return GROUPS_OF_MEANS.index(group) if _base(row) in FIRST and group in GROUPS_OF_MEANS else 0


def _row(key: str, sets: Mapping[str, Report], ranking: Ranking | None) -> NumberRow:
    found = [(name, report, _find(report, key)) for name, report in sets.items()]
    report, one = next((report, row) for _, report, row in found if row is not None)
    first = next(iter(sets))
    base = next((row for _, _, row in found if isinstance(row, Result)), None)
    entries = tuple(None if row is None else _entry(name, row, first, ranking, base) for name, _, row in found)
    encoders = (one.encoders or ()) if isinstance(one, Result) else ()
    encoder = one.encoder or (", ".join(encoders) if len(encoders) == 1 else f"{len(encoders)} encoders")
    return NumberRow(
        key,
        metric_label(one) if isinstance(one, Result) else _failed_label(one),
        encoder if one.encoder or encoders else "",
        one.lower_is_better,
        group_of(one.encoder, report),
        entries,
    )


def _failed_label(failure: Failure) -> str:
    info = metric_info(failure.metric)
    if info is None:
        return failure.metric
    return (info.inception_label if is_inception(failure.encoder) else "") or info.label


def _find(report: Report, key: str) -> Result | Failure | None:
    return next((row for row in _all(report) if row.key == key), None)


def _entry(name: str, row: Result | Failure, first: str, ranking: Ranking | None, base: Result | None) -> Entry:
    """The entry of a set; `base` is the result that it is compared with, of the first set that has one."""
    if isinstance(row, Failure):
        return Entry(failure=row)
    rank = None if ranking is None else next((rank for rank in ranking.ranks if rank.name == name), None)
    if ranking is None or rank is None:
        return Entry(row, standing="" if base is None or row is base else "apart")
    is_best = rank.best == 1 and any(other.best > 1 for other in ranking.ranks)
    contrast = None if name == first else ranking.contrast(first, name)
    verdict = "" if contrast is None else _verdict(contrast, ranking)
    return Entry(row, standing="best" if is_best else "", contrast=contrast, verdict=verdict)


def _verdict(contrast: Contrast, ranking: Ranking) -> str:
    if contrast.stderr is None:
        return "no verdict"
    if not contrast.is_significant(ranking.confidence):
        return "not told apart"
    return "better" if (contrast.difference < 0) == ranking.lower_is_better else "worse"
