"""The gate: numbers against limits and against a baseline, one-sided by the metric's direction.

Each number passes, fails or is inconclusive (`fdr.gate.checks`). A number that is requested and was not measured is
missing, which stops the gate unless that is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from fdr.comparison import (
    CONFIDENCE,
    Difference,
    check_confidence,
    check_fields,
    contradict,
    images_digest,
    match_sets,
    signature_differences,
)
from fdr.errors import InputError, unknown
from fdr.gate.baseline import Baseline, BaselineValue
from fdr.gate.checks import Bound, Check, metric_of
from fdr.gate.hacking import hacking_warnings
from fdr.gate.limits import (
    Limit,
    Row,
    Tolerance,
    check_tolerance,
    find_limited,
    is_named,
    named,
    parse_limit,
    parse_tolerance,
    tolerance_for,
)
from fdr.gate.null import NullBudget, null_budgets, refuse_own_images
from fdr.reports import Report, Result, sets_by_name, unique_names
from fdr.runtime import is_number

JudgedAs = Literal["value", "pass", "fail", "exit-3"]
EXIT_INCONCLUSIVE = 3
"""The exit code of an inconclusive check, if that is asked for."""
DEFAULT_TOLERANCE = Tolerance(None, 0.01, True)


@dataclass(frozen=True)
class GateOptions:
    """What the gate checks."""

    limits: tuple[Limit, ...] = ()
    tolerances: tuple[Tolerance, ...] = ()
    """How far numbers may be from the baseline; 1 % if there is no tolerance for a number."""
    allow: tuple[str, ...] = ()
    """Fields of the signature that may differ between a number and its baseline."""
    inconclusive: JudgedAs = "value"
    """How to judge a number whose uncertainty range contains the limit; "value" compares the value itself, and "exit-3"
    lets it neither pass nor fail: the exit code is then 3."""
    confidence: float = CONFIDENCE
    """The one-sided confidence with which a number must be within its limit to pass, or beyond it to fail."""
    allow_missing: bool = False
    """Let the gate pass although numbers of the limits or of the baseline were not measured."""

    def __post_init__(self) -> None:
        check_confidence(self.confidence)
        if self.inconclusive not in get_args(JudgedAs):
            raise unknown("way to judge an inconclusive number", str(self.inconclusive), get_args(JudgedAs))

    @classmethod
    def parse(
        cls,
        maxima: Sequence[str] = (),
        minima: Sequence[str] = (),
        tolerances: Sequence[str] = (),
        allow: Sequence[str] = (),
        inconclusive: JudgedAs = "value",
        allow_missing: bool = False,
        confidence: float = CONFIDENCE,
    ) -> GateOptions:
        """Make options from texts of the command line: "fd:inception=3.0", "fd=1%", "n". Raises `InputError`."""
        limits = [parse_limit(text, "max") for text in maxima] + [parse_limit(text, "min") for text in minima]
        parsed = tuple(map(parse_tolerance, tolerances))
        return cls(tuple(limits), parsed, check_fields(allow), inconclusive, confidence, allow_missing)


@dataclass(frozen=True)
class Verdict:
    """All checks of all sample sets."""

    checks: tuple[Check, ...]
    options: GateOptions
    missing: tuple[Bound, ...] = ()
    """Bounds whose numbers were not measured."""
    unchecked: tuple[tuple[str, Result], ...] = ()
    """(sample set, number) for each number without a limit or baseline value."""
    warnings: tuple[str, ...] = ()
    nulls: tuple[NullBudget, ...] = ()
    """The checks beside what the unchanged model gives at other seeds, as far as null reports were given."""

    @property
    def result(self) -> Literal["pass", "fail", "inconclusive", "incomplete"]:
        """The worst outcome; "incomplete" if nothing fails but a number is missing that must not be."""
        outcomes = {check.outcome for check in self.checks}
        if "fail" in outcomes:
            return "fail"
        if self.missing and not self.options.allow_missing:
            return "incomplete"
        return "inconclusive" if "inconclusive" in outcomes else "pass"

    @property
    def exit_code(self) -> int:
        """0 if the gate passes, 1 if a number stops it, 2 if only a missing number stops it, 3 if it is undecided."""
        if any(self.stops(check) for check in self.checks):
            return 1
        if self.missing and not self.options.allow_missing:
            return 2
        is_undecided = self.options.inconclusive == "exit-3" and self.result == "inconclusive"
        return EXIT_INCONCLUSIVE if is_undecided else 0

    @property
    def passes(self) -> bool:
        """True if the exit code is 0."""
        return self.exit_code == 0

    def stops(self, check: Check) -> bool:
        """True if this check by itself stops the gate."""
        if check.outcome != "inconclusive":
            return check.outcome == "fail"
        return self.options.inconclusive == "fail" or (self.options.inconclusive == "value" and check.excess > 0)


@dataclass(frozen=True)
class Plan:
    """The bounds of one sample set, matched to numbers that may not be measured yet."""

    bounds: tuple[Bound, ...]
    missing: tuple[Bound, ...]
    """Bounds that match no number."""
    warnings: tuple[str, ...]
    nulls: tuple[NullBudget, ...] = ()

    @property
    def compared(self) -> set[str]:
        """The numbers that are compared with the baseline."""
        return {bound.key for bound in self.bounds if bound.baseline is not None}


def plan_gate(
    sets: Mapping[str, Sequence[Row]],
    options: GateOptions,
    baseline: Baseline | None = None,
    nulls: Sequence[Baseline] = (),
) -> dict[str, Plan]:
    """Match limits and baseline values to numbers. It needs no values, so it can run before anything is measured.

    A limit holds for every sample set. Sets that only the baseline has get a plan as well. `nulls` are numbers of the
    unchanged model at other seeds. Raises `InputError` if a limit names no number of any set or bounds its good side,
    if a number cannot be compared with its baseline, if a null breaks a limit or a tolerance, and if nothing would be
    checked at all.
    """
    if not options.limits and baseline is None:
        raise InputError(
            "There is nothing to check: give --max, --min or --baseline, or keep them in [tool.fdr.check] of "
            "pyproject.toml or [check] of fdr.toml."
        )
    for limit in options.limits:
        named([row for rows in sets.values() for row in rows], limit.name)
    where, old = ("", {}) if baseline is None else (baseline.name, baseline.sets)
    matched = match_sets(sets, old, f"baseline {where!r}") if baseline is not None else {}
    plans = {
        name: _plan_set(name, rows, options, old[matched[name]] if matched else {}, where)
        for name, rows in sets.items()
    }
    compared = [row for name, rows in sets.items() for row in rows if row.key in plans[name].compared]
    for name in [name for name in old if name not in matched.values()]:
        plans[unique_names([*plans, name])[-1]] = _plan_set(name, (), replace(options, limits=()), old[name], where)
    missing = {name for plan in plans.values() for bound in plan.missing for name in (bound.key, metric_of(bound.key))}
    for tolerance in options.tolerances:
        if tolerance.name is not None and compared and tolerance.name not in missing:
            named(compared, tolerance.name)
    if not options.limits and not compared:
        measured = ", ".join(dict.fromkeys(row.key for rows in sets.values() for row in rows))
        raise InputError(f"Nothing could be checked: baseline {where!r} has none of {measured}.")
    if nulls:
        bounds = {name: plans[name].bounds for name in sets}
        budgets = null_budgets(sets, bounds, nulls, options.allow, options.confidence)
        plans |= {
            name: _with_nulls(plans[name], [one for one in budgets if one.bound.samples == name]) for name in sets
        }
    return plans


def _with_nulls(plan: Plan, budgets: Sequence[NullBudget]) -> Plan:
    bounded = {budget.bound.key for budget in budgets}
    bare = dict.fromkeys(bound.key for bound in plan.bounds if bound.key not in bounded)
    warnings = [budget.warning for budget in budgets if budget.warning is not None]
    warnings += [f"no null report has {', '.join(bare)}, so nothing is known of its spread."] if bare else []
    return replace(plan, nulls=tuple(budgets), warnings=(*plan.warnings, *warnings))


def check_replaceable(sets: Mapping[str, Sequence[Row]], old: Baseline, allow: Sequence[str] = ()) -> None:
    """Raise `InputError` if a number of `old` would be lost, or replaced by one that is not comparable with it."""
    only = len(sets) == len(old.sets) == 1
    left = {name: set(values) for name, values in old.sets.items()}
    for name, rows in sets.items():
        before = next(iter(old.sets)) if only else name
        values = old.sets.get(before, {})
        _refuse(name, _differences([row for row in rows if row.key in values], values), allow, old.name)
        left.get(before, set()).difference_update(row.key for row in rows)
    dropped = [f"{key} of {name}" for name, keys in left.items() for key in sorted(keys)]
    if dropped:
        raise InputError(
            f"Baseline {old.name!r} has {', '.join(dropped)}, which was not measured here and would be dropped; "
            "measure it as well, or give --force."
        )


def _differences(rows: Sequence[Row], values: Mapping[str, BaselineValue]) -> dict[str, tuple[Difference, ...]]:
    return {row.key: signature_differences(row.signature, values[row.key].signature) for row in rows}


def _plan_set(
    name: str, rows: Sequence[Row], options: GateOptions, values: Mapping[str, BaselineValue], where: str
) -> Plan:
    bounds, missing = [], []
    for limit in options.limits:
        if is_named(rows, limit.name):
            bounds.append(Bound(name, find_limited(rows, limit).key, limit.side, limit.bound))
        else:
            missing.append(Bound(name, limit.name, limit.side, limit.bound))
    differences = _differences([row for row in rows if row.key in values], values)
    _refuse(name, differences, options.allow, where)
    by_key = {row.key: row for row in rows}
    absent = [Bound(name, key, "baseline", old.value, old, where) for key, old in values.items() if key not in by_key]
    for key, found in differences.items():
        old = values[key]
        tolerance = tolerance_for(by_key[key], options.tolerances, DEFAULT_TOLERANCE)
        check_tolerance(by_key[key], tolerance, old.value)
        allowed = tuple(difference for difference in found if difference.is_decisive)
        bounds.append(Bound(name, key, "baseline", old.value, old, where, tolerance, allowed))
    warnings = dict.fromkeys(_plan_warnings(name, differences, where))
    return Plan(tuple(bounds), (*absent, *missing), tuple(warnings))


def _refuse(name: str, differences: Mapping[str, Sequence[Difference]], allow: Sequence[str], where: str) -> None:
    """Raise `InputError` that names every field which makes numbers incomparable, and these numbers."""
    concerned: dict[tuple[str, str, str, str], list[str]] = {}
    for key, found in differences.items():
        for d in found:
            if d.is_decisive and d.field not in allow:
                concerned.setdefault((d.field, d.meaning, d.a, d.b), []).append(key)
    if not concerned:
        return
    parts = [
        f"{field} ({meaning}) is {a} here and {b} in the baseline, for {', '.join(keys)}"
        for (field, meaning, a, b), keys in concerned.items()
    ]
    fields = " ".join(f"--allow {field}" for field in dict.fromkeys(field for field, *_ in concerned))
    raise InputError(
        f"{name} cannot be compared with baseline {where!r}: {'; '.join(parts)}. Measure in the same way, replace "
        f"the baseline (--update-baseline --force), or compare all the same with {fields}."
    )


def _plan_warnings(name: str, differences: Mapping[str, Sequence[Difference]], where: str) -> Iterator[str]:
    for d in (d for found in differences.values() for d in found if not d.is_decisive):
        if d.field == "v":
            consequence = "still comparable, unless the changelog says under Numbers that this number moved"
        else:
            consequence = "the content is the same"
        yield f"{name}: {d.field} ({d.meaning}) is {d.a} here and {d.b} in baseline {where!r}; {consequence}."


def judge(
    reports: Sequence[Report], options: GateOptions, baseline: Baseline | None = None, nulls: Sequence[Baseline] = ()
) -> Verdict:
    """Check every sample set against all limits and baseline values. Raises what `plan_gate` raises."""
    sets = sets_by_name(reports)
    refuse_own_images(sets, nulls)
    for name, report in sets.items():
        _check_numbers(name, report)
    plans = plan_gate({name: (*report, *report.failed) for name, report in sets.items()}, options, baseline, nulls)
    plans = {name: _without_failed(plan, sets[name]) if name in sets else plan for name, plan in plans.items()}
    checks = [
        Check(bound, result, options.confidence, _is_same_images(bound, report))
        for name, report in sets.items()
        for result in report
        for bound in plans[name].bounds
        if bound.key == result.key
    ]
    for check in checks:
        _refuse_contradiction(check)
    judged = {(check.bound.samples, check.result.key) for check in checks}
    return Verdict(
        tuple(checks),
        options,
        tuple(bound for plan in plans.values() for bound in plan.missing),
        tuple((n, r) for n, report in sets.items() for r in report if (n, r.key) not in judged),
        tuple(warning for plan in plans.values() for warning in plan.warnings)
        + tuple(hacking_warnings(checks))
        + tuple(f"{name}: {text}" for name, report in sets.items() for text in _warnings(report)),
        tuple(budget for plan in plans.values() for budget in plan.nulls),
    )


def _without_failed(plan: Plan, report: Report) -> Plan:
    """The plan with bounds of numbers that could not be computed among the missing ones."""
    failed = {failure.key: failure.sentence for failure in report.failed}
    missing = [replace(bound, failure=failed[bound.key]) for bound in plan.bounds if bound.key in failed]
    bounds = tuple(bound for bound in plan.bounds if bound.key not in failed)
    return replace(plan, bounds=bounds, missing=(*plan.missing, *missing))


def _warnings(report: Report) -> Iterator[str]:
    yield from report.warnings
    for failure in report.failed:
        yield f"{failure.key} could not be computed: {failure.sentence}"


def _check_numbers(name: str, report: Report) -> None:
    """Check the numbers of a report that was made in Python; a report from a file was checked when it was read."""
    for row in report:
        numbers = (row.value, *(row.interval or ()), 0.0 if row.stderr is None else row.stderr)
        if not all(map(is_number, numbers)) or (row.stderr or 0.0) < 0:
            raise InputError(
                f"{row.key} of {name} is {row.value}, with stderr {row.stderr} and interval {row.interval}; expected "
                "finite numbers, and a stderr of 0 or more: measure again."
            )


def _is_same_images(bound: Bound, report: Report) -> bool:
    """True if the baseline is known to be of the images of the report."""
    before = bound.baseline
    return before is not None and before.samples_digest is not None and before.samples_digest == images_digest(report)


def _refuse_contradiction(check: Check) -> None:
    before = check.bound.baseline
    if before is None or not check.is_same_images:
        return
    if before.signature == check.result.signature and contradict(check.result, before.value):
        raise InputError(
            f"{check.result.key} of {check.bound.samples} is {check.result.value:g} here and {before.value:g} in "
            f"baseline {check.bound.baseline_name!r}, of the same images, reference and settings; one of the two was "
            "changed or is faulty: measure again."
        )
