"""Several models, trained with several seeds and sampled with several seeds: how much each seed moves a number.

One-way random-effects analysis of variance, y_ij = m + b_i + w_ij, for a training seeds i with n_i sampling seeds j
each, N values in all:

    MSW = sum_ij (y_ij - mean_i)^2 / (N - a)                      within = sqrt(MSW)
    MSB = sum_i n_i (mean_i - mean)^2 / (a - 1)                   between = sqrt(max(0, (MSB - MSW) / n0))
    n0 = (N - sum_i n_i^2 / N) / (a - 1)                          F = MSB / MSW

The mean of a model is that of the means of its training seeds, with standard error sd(mean_i) / sqrt(a), whatever the
n_i are. Two models are compared by Welch's t-test on these means. "The FID Lottery" (arXiv 2606.20536) measured
between = .438 and within = .137 for an FID of about 35: most of the noise is that of training, which no number of
samples reduces.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev, variance
from typing import Any

from fdr._version import __version__
from fdr.comparison.comparability import signature_differences
from fdr.comparison.significance import CONFIDENCE, Contrast, Ranking, check_confidence, pairs_of, rank
from fdr.comparison.student import f_tail
from fdr.errors import InputError
from fdr.reports import Report, Result, format_number

SCHEMA = "fdr-panel/1"
Runs = Mapping[str, Sequence[float]]
"""The values of the sampling seeds, by training seed."""
Models = Mapping[str, Mapping[str, Sequence[Report]]]
"""The reports of the sampling seeds, by model and training seed."""


@dataclass(frozen=True)
class Components:
    """The spread of one number of one model."""

    runs: Runs
    mean: float
    """The mean of the means of the training seeds."""
    stderr: float | None
    """Standard error of the mean; None for one training seed."""
    between: float | None
    """Standard deviation between training seeds, without the noise of sampling; None if one of the two is unknown."""
    within: float | None
    """Standard deviation between sampling seeds of one training seed; None if no training seed has two."""
    f: float | None
    """MSB / MSW; None where it is not defined."""

    @property
    def num_runs(self) -> int:
        """Number of training seeds a."""
        return len(self.runs)

    @property
    def num_values(self) -> int:
        """Number of values N."""
        return sum(map(len, self.runs.values()))

    @property
    def p_value(self) -> float | None:
        """The probability of an F this large if training seeds made no difference."""
        return None if self.f is None else f_tail(self.f, self.num_runs - 1, self.num_values - self.num_runs)

    @property
    def total(self) -> float | None:
        """Standard deviation of one report of one training run; None for one training seed."""
        if self.between is not None and self.within is not None:
            return math.hypot(self.between, self.within)
        return stdev(map(fmean, self.runs.values())) if self.num_runs > 1 else None

    def share(self, spread: float | None) -> float | None:
        """The coefficient of variation: a standard deviation over |mean|."""
        return None if spread is None or not self.mean else spread / abs(self.mean)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "mean": self.mean,
            "stderr": self.stderr,
            "training_seeds": self.num_runs,
            "reports": self.num_values,
            "between": self.between,
            "within": self.within,
            "between_cov": self.share(self.between),
            "within_cov": self.share(self.within),
            "f": self.f,
            "p_value": self.p_value,
            "values": {name: list(values) for name, values in self.runs.items()},
        }


def components(runs: Runs) -> Components:
    """Mean and spread of the values by training seed. Raises `InputError` for a training seed without a value."""
    if not runs or not all(runs.values()):
        raise InputError("Every training seed of a panel needs at least one value.")
    means = {name: fmean(values) for name, values in runs.items()}
    a, counts = len(runs), [len(values) for values in runs.values()]
    total = sum(counts)
    stderr = stdev(means.values()) / math.sqrt(a) if a > 1 else None
    of_within = sum((y - means[name]) ** 2 for name, values in runs.items() for y in values)
    msw = of_within / (total - a) if total > a else None
    msb, between, f = None, None, None
    if a > 1:
        grand = sum(len(runs[name]) * mean for name, mean in means.items()) / total
        msb = sum(len(runs[name]) * (mean - grand) ** 2 for name, mean in means.items()) / (a - 1)
    if msb is not None and msw is not None:
        n0 = (total - sum(count**2 for count in counts) / total) / (a - 1)
        between, f = math.sqrt(max(0.0, (msb - msw) / n0)), msb / msw if msw else None
    return Components(runs, fmean(means.values()), stderr, between, None if msw is None else math.sqrt(msw), f)


def welch(a: Components, b: Components) -> tuple[float | None, float]:
    """Standard error and degrees of freedom of b.mean - a.mean (Welch 1947); None if a model has one training seed."""
    if a.num_runs < 2 or b.num_runs < 2:
        return None, math.inf
    parts = [variance(map(fmean, one.runs.values())) / one.num_runs for one in (a, b)]
    below = sum(part**2 / (one.num_runs - 1) for part, one in zip(parts, (a, b), strict=True))
    return math.sqrt(sum(parts)), sum(parts) ** 2 / below if below else math.inf


@dataclass(frozen=True)
class PanelNumber:
    """One number of all models of a panel."""

    key: str
    models: Mapping[str, Components]
    ranking: Ranking

    @property
    def single_run_resolves(self) -> float | None:
        """The smallest gap that one report of one training run against one of another model would show."""
        totals = [one.total for one in self.models.values() if one.total is not None]
        if not totals:
            return None
        spread = math.sqrt(fmean(total**2 for total in totals))
        return NormalDist().inv_cdf((1 + self.ranking.confidence) / 2) * math.sqrt(2) * spread

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.ranking.to_dict(),
            "models": {name: one.to_dict() for name, one in self.models.items()},
            "single_run_resolves": self.single_run_resolves,
        }


def panel_numbers(models: Models, confidence: float = CONFIDENCE) -> tuple[PanelNumber, ...]:
    """Every number that all reports have.

    Raises `InputError` if there is none, for reports that are not comparable, and for two of the same images.
    """
    check_confidence(confidence)
    _refuse_repeats(models)
    reports = [report for runs in models.values() for found in runs.values() for report in found]
    rows = [{row.key: row for row in report} for report in reports]
    keys = [key for key in rows[0] if all(key in one for one in rows)]
    if not keys:
        raise InputError(
            f"The reports of the panel have no number in common: the first has {', '.join(rows[0])}; measure all of "
            "them with the same encoders and metrics."
        )
    for key in keys:
        _refuse_incomparable([one[key] for one in rows], reports)
    return tuple(_number(key, models, confidence) for key in keys)


def _number(key: str, models: Models, confidence: float) -> PanelNumber:
    found = {
        model: components({name: [_row(report, key).value for report in reports] for name, reports in runs.items()})
        for model, runs in models.items()
    }
    contrasts = []
    for a, b in pairs_of(list(found)):
        stderr, dof = welch(found[a], found[b])
        contrasts.append(Contrast(a, b, found[b].mean - found[a].mean, stderr, dof, "training seeds"))
    first = next(report for runs in models.values() for reports in runs.values() for report in reports)
    means = {model: one.mean for model, one in found.items()}
    return PanelNumber(key, found, rank(key, means, contrasts, _row(first, key).lower_is_better, confidence))


def _row(report: Report, key: str) -> Result:
    return next(row for row in report if row.key == key)


def _refuse_repeats(models: Models) -> None:
    """Raise `InputError` if two reports are of the same images: their spread would be no spread of seeds."""
    seen: dict[str, str] = {}
    for model, runs in models.items():
        for name, reports in runs.items():
            for report in reports:
                digest, where = report.samples.get("digest"), f"{report.samples['source']} of {model}, {name}"
                if digest is not None and digest in seen:
                    raise InputError(
                        f"{seen[digest]}, and {where}, are the same images, so they are no two seeds; leave one out."
                    )
                if digest is not None:
                    seen[digest] = where


def _refuse_incomparable(rows: Sequence[Result], reports: Sequence[Report]) -> None:
    for row, report in zip(rows, reports, strict=True):
        found = [d for d in signature_differences(rows[0].signature, row.signature) if d.is_decisive]
        if found:
            differing = "; ".join(f"{d.field} ({d.meaning}) is {d.a} and {d.b}" for d in found)
            raise InputError(
                f"{row.key} of {reports[0].samples['source']} and {report.samples['source']} cannot be compared: "
                f"{differing}. Measure the whole panel in the same way."
            )


def panel_to_dict(numbers: Sequence[PanelNumber], confidence: float) -> dict[str, Any]:
    """The stable JSON form (schema fdr-panel/1)."""
    return {
        "schema": SCHEMA,
        "fdr_version": __version__,
        "confidence": confidence,
        "numbers": [number.to_dict() for number in numbers],
    }


def panel_notes(numbers: Sequence[PanelNumber]) -> Iterator[str]:
    """What a reader must know of the panel."""
    models = numbers[0].models
    for name, one in models.items():
        if one.num_runs < 2:
            yield (
                f"{name} has one training seed, so nothing is known of the spread between training seeds, which is "
                "usually the larger one, and there is no verdict on it"
            )
        if one.within is None:
            yield f"{name} has one report for each training seed, so its two spreads cannot be told apart"
    for number in numbers:
        smallest = number.single_run_resolves
        shares = [one.share(smallest) for one in number.models.values()]
        known = [share for share in shares if share is not None]
        if smallest is not None:
            percent = f" ({100 * fmean(known):.2g} %)" if known else ""
            yield (
                f"{number.key}: single reports, of one training run each, tell two models apart only above "
                f"{format_number(smallest)}{percent}"
            )
