"""The gate's laws: one-sided, three outcomes, nothing compared that is not comparable, nothing silently unchecked."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from gate_worlds import report, row
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fdr.errors import InputError
from fdr.gate import GateOptions, baseline_of, check_replaceable, judge
from fdr.gate.limits import Limit, Tolerance, parse_limit, parse_tolerance


def limits(*texts: str, side: str = "max", **more) -> GateOptions:
    return GateOptions(tuple(parse_limit(text, side) for text in texts), **more)  # type: ignore[arg-type]


def tolerant(*texts: str, **more) -> GateOptions:
    return GateOptions(tolerances=tuple(parse_tolerance(text) for text in texts), **more)


FINITE = st.floats(-1e9, 1e9)
Z95 = 1.6448536269514722
"""The 95 % quantile of the normal distribution."""
LOW, HIGH = {"metric": "lower", "lower_is_better": True}, {"metric": "higher", "lower_is_better": False}
"""Metrics that fdr does not know, so that any value is possible."""


@given(value=FINITE, limit=FINITE)
def test_without_uncertainty_the_value_decides(value: float, limit: float) -> None:
    (check,) = judge([report(row(value=value, **LOW))], limits(f"lower={limit!r}")).checks
    assert check.outcome == ("pass" if value <= limit else "fail")
    assert (check.excess > 0) == (check.outcome == "fail")


@given(value=FINITE, limit=FINITE, spread=st.floats(0, 1e9))
def test_a_higher_is_better_number_is_the_mirror_image(value: float, limit: float, spread: float) -> None:
    (lower,) = judge([report(row(value=value, stderr=spread, **LOW))], limits(f"lower={limit!r}")).checks
    mirrored = judge([report(row(value=-value, stderr=spread, **HIGH))], limits(f"higher={-limit!r}", side="min"))
    assert mirrored.checks[0].outcome == lower.outcome
    assert mirrored.checks[0].excess == lower.excess


@pytest.mark.parametrize(
    "value, expected",
    [(2.8, "pass"), (2.89, "pass"), (2.95, "inconclusive"), (3.05, "inconclusive"), (3.11, "fail")],
)
def test_a_limit_inside_the_uncertainty_is_inconclusive(value: float, expected: str) -> None:
    verdict = judge([report(row(value=value, stderr=0.1 / Z95))], limits("fd=3.0"))
    assert verdict.result == expected
    interval = row("fdr", value=value, interval=(value - 0.1, value + 0.1))
    assert judge([report(interval)], limits("fdr=3.0")).result == expected


@pytest.mark.parametrize("value, mode, passes", [
    (2.95, "value", True), (2.95, "pass", True), (2.95, "fail", False),
    (3.05, "value", False), (3.05, "pass", True), (3.05, "fail", False),
    (3.2, "pass", False), (2.8, "fail", True),
])  # fmt: skip
def test_an_inconclusive_outcome_counts_as_asked(value: float, mode: str, passes: bool) -> None:
    assert judge([report(row(value=value, stderr=0.1))], limits("fd=3", inconclusive=mode)).passes == passes


def test_one_failure_is_enough() -> None:
    both = report(row(value=3.05, stderr=0.1), row(encoder="dinov2", value=9.0))
    verdict = judge([both], limits("fd:inception=3", "fd:dinov2=5", inconclusive="pass"))
    assert (verdict.result, verdict.passes) == ("fail", False)


@pytest.mark.parametrize(
    "value, tolerance, expected",
    [(3.02, "1%", "pass"), (3.04, "1%", "fail"), (1.0, "0%", "pass"), (3.04, "fd=0.05", "pass"),
     (3.06, "fd=0.05", "fail"), (3.1, "fd:inception=5%", "pass")],
)  # fmt: skip
def test_a_baseline_is_one_sided_with_a_tolerance(value: float, tolerance: str, expected: str) -> None:
    before = baseline_of([report(row(value=3.0))], "main.json")
    assert judge([report(row(value=value))], tolerant(tolerance), before).result == expected


def test_the_default_tolerance_is_one_percent_in_the_metrics_direction() -> None:
    before = baseline_of([report(row(value=3.0), row("is", value=200.0))], "main.json")
    verdict = judge([report(row(value=3.02), row("is", value=198.1))], GateOptions(), before)
    assert verdict.result == "pass"
    assert [check.limit for check in verdict.checks] == pytest.approx([3.03, 198.0])
    assert judge([report(row(value=3.0), row("is", value=197.9))], GateOptions(), before).result == "fail"


def test_a_negative_baseline_is_loosened_not_tightened() -> None:
    before = baseline_of([report(row(value=-1.0))], "main.json")
    assert judge([report(row(value=-0.95))], tolerant("10%"), before).result == "pass"


@given(value=FINITE, spread=st.floats(1e-3, 1e6), limit=FINITE, confidence=st.sampled_from([0.6, 0.9, 0.99]))
def test_a_number_passes_or_fails_beyond_the_confidence(
    value: float, spread: float, limit: float, confidence: float
) -> None:
    """The outcome is that of the one-sided test of SciPy's normal distribution."""
    asked = limits(f"lower={limit!r}", confidence=confidence)
    (check,) = judge([report(row(value=value, stderr=spread, **LOW))], asked).checks
    below, above = stats.norm.sf((limit - value) / spread), stats.norm.sf((value - limit) / spread)
    if min(abs(below - 1 + confidence), abs(above - 1 + confidence)) > 1e-9:
        expected = "pass" if below < 1 - confidence else "fail" if above < 1 - confidence else "inconclusive"
        assert check.outcome == expected


def test_an_interval_is_widened_by_the_standard_error() -> None:
    (check,) = judge([report(row("fdr", value=3.0, stderr=0.5, interval=(2.9, 3.2)))], limits("fdr=9")).checks
    assert check.range == pytest.approx((2.9 - 0.5 * Z95, 3.2 + 0.5 * Z95))


def test_an_inconclusive_number_may_have_an_exit_code_of_its_own() -> None:
    unsure, sure, failed = row(value=2.95, stderr=0.1), row("fdr", 2.0), row("is", 100.0)
    asked = limits("fd=3", "fdr=3", inconclusive="exit-3")
    verdict = judge([report(unsure, sure)], asked)
    assert (verdict.result, verdict.exit_code, verdict.passes) == ("inconclusive", 3, False)
    assert not any(map(verdict.stops, verdict.checks)), "nothing failed"
    assert judge([report(row(value=2.0, stderr=0.1), sure)], asked).exit_code == 0
    both = replace(asked, limits=(*asked.limits, parse_limit("is=200", "min")))
    assert judge([report(unsure, sure, failed)], both).exit_code == 1, "a failure is said first"
    more = baseline_of([report(unsure, row("is", 9.0))], "main.json")
    assert judge([report(unsure, sure)], asked, more).exit_code == 2, "then what is missing"


def test_noise_against_a_baseline_is_that_of_the_difference() -> None:
    before = baseline_of([report(row("is", value=200.0, stderr=3.0))], "main.json")

    def check(value: float, tolerance: str = "0%"):
        return judge([report(row("is", value=value, stderr=4.0))], tolerant(tolerance), before).checks[0]

    assert check(195.0).stderr == 5.0, "3 and 4 in quadrature"
    assert check(195.0).range == pytest.approx((195 - 5 * Z95, 195 + 5 * Z95))
    assert [check(value).outcome for value in (208.3, 200.0, 191.8, 191.7)] == [
        "pass", "inconclusive", "inconclusive", "fail"
    ]  # fmt: skip
    assert check(198.3, "5%").outcome == "pass" and check(198.2, "5%").outcome == "inconclusive"
    before = baseline_of([report(row("is", value=200.0))], "main.json")
    assert check(195.0).stderr == 4.0, "as far as it is known"


@given(value=FINITE, spread=st.none() | st.floats(0, 1e9), lower=st.booleans())
def test_an_unchanged_number_passes_its_baseline(value: float, spread: float | None, lower: bool) -> None:
    number = row("fd" if lower else "is", value=value, stderr=spread, interval=(value - 1, value + 1))
    same = report(number, facts={"digest": "5" * 64})
    verdict = judge([same], tolerant("0%"), baseline_of([same], "main.json"))
    assert (verdict.result, verdict.checks[0].stderr) == ("pass", None), "the same images are without noise"
    other = judge([report(number)], tolerant("0%"), baseline_of([report(number)], "main.json"))
    assert other.passes and other.result == ("inconclusive" if spread and value + spread != value else other.result)


def test_rounded_denominators_drop_out_against_a_baseline() -> None:
    rounded = baseline_of([report(row("fdr", value=4.0, interval=(3.5, 4.6)))], "main.json")
    assert judge([report(row("fdr", value=4.1, interval=(3.6, 4.7)))], tolerant("1%"), rounded).result == "fail"


def test_numbers_with_other_signatures_are_refused_and_every_field_is_named() -> None:
    before = baseline_of([report(row(), row("fdr"))], "main.json")
    now = report(row(fields={"n": "5000"}), row("fdr", fields={"n": "5000", "q": "none"}))
    with pytest.raises(InputError) as caught:
        judge([now], GateOptions(), before)
    message = str(caught.value)
    assert "n (the number of images) is 5000 here and 50000 in the baseline, for fd:inception, fdr:inception" in message
    assert "q (the quantisation of the images) is none here and u8 in the baseline, for fdr:inception" in message
    assert "--allow n --allow q" in message
    with pytest.raises(InputError, match=r"q .the quantisation"):
        judge([now], GateOptions(allow=("n",)), before)
    verdict = judge([now], GateOptions(allow=("n", "q")), before)
    assert [[d.field for d in check.bound.allowed] for check in verdict.checks] == [["n"], ["q", "n"]]


def test_another_version_is_a_warning_and_a_renamed_reference_too() -> None:
    before = baseline_of([report(row(fields={"v": "0.0.9", "ref": "mine:04e0a81f"}))], "main.json")
    verdict = judge([report()], GateOptions(), before)
    assert verdict.result == "pass"
    assert set(verdict.warnings) == {
        "samples.npz: v (the version of fdr) is 0.1.0 here and 0.0.9 in baseline 'main.json'; still comparable, unless "
        "the changelog says under Numbers that this number moved.",
        "samples.npz: ref (the reference) is imagenet256:04e0a81f here and mine:04e0a81f in baseline 'main.json'; the "
        "content is the same.",
    }


def test_nothing_is_silently_unchecked() -> None:
    with pytest.raises(InputError, match="There is nothing to check"):
        judge([report()], GateOptions())
    with pytest.raises(InputError, match="has none of fd:inception"):
        judge([report()], GateOptions(), baseline_of([report(row("is"))], "main.json"))
    before = baseline_of([report(row(), row(encoder="dinov2"))], "main.json")
    verdict = judge([report(row(), row("fdr"))], GateOptions(), before)
    assert [missing.if_missing for missing in verdict.missing] == [
        "fd:dinov2 of samples.npz was not measured, and baseline 'main.json' has it (3)"
    ]
    assert (verdict.result, verdict.exit_code, verdict.passes) == ("incomplete", 2, False)
    assert [number.key for _, number in verdict.unchecked] == ["fdr:inception"]
    with pytest.raises(InputError, match="Unknown number 'fdr:inception'"):
        judge([report(row(), row("fdr"))], tolerant("fdr:inception=1%"), before)


def test_every_sample_set_is_checked() -> None:
    reports = [report(row(value=2.0)), report(row(value=4.0)), report(row(value=2.5), samples="b.npz")]
    verdict = judge(reports, limits("fd=3"))
    assert [(check.bound.samples, check.outcome) for check in verdict.checks] == [
        ("samples.npz", "pass"), ("samples.npz (2)", "fail"), ("b.npz", "pass")
    ]  # fmt: skip
    assert verdict.result == "fail"


def test_a_limit_holds_for_every_set_and_one_that_lacks_its_number_is_missing() -> None:
    reports = [report(row(value=2.0)), report(row(value=70.0, encoder="dinov2"), samples="b.npz")]
    asked = limits("fd:inception=3", "fd:dinov2=80")
    verdict = judge(reports, asked)
    assert [(m.samples, m.key, m.rule) for m in verdict.missing] == [
        ("samples.npz", "fd:dinov2", "max"), ("b.npz", "fd:inception", "max")
    ]  # fmt: skip
    assert (verdict.result, verdict.exit_code) == ("incomplete", 2)
    allowed = judge(reports, replace(asked, allow_missing=True))
    assert (allowed.result, allowed.exit_code, len(allowed.missing)) == ("pass", 0, 2)
    worse = judge([reports[0], report(row(value=90.0, encoder="dinov2"), samples="b.npz")], asked)
    assert (worse.result, worse.exit_code) == ("fail", 1), "what fails is said first"
    verdict = worse
    assert [(c.bound.samples, c.result.key, c.outcome) for c in verdict.checks] == [
        ("samples.npz", "fd:inception", "pass"), ("b.npz", "fd:dinov2", "fail")
    ]  # fmt: skip


def test_a_tolerance_holds_for_the_sets_that_have_its_number() -> None:
    reports = [report(row(value=2.0)), report(row(value=90.0, encoder="dinov2"), samples="b.npz")]
    verdict = judge(reports, tolerant("fd:dinov2=5%", "fd:inception=0.1"), baseline_of(reports, "main.json"))
    assert [str(check.bound.tolerance) for check in verdict.checks] == ["0.1", "5 %"]


def test_sets_are_matched_by_name_and_single_ones_without() -> None:
    several = baseline_of([report(row(value=1.0), samples="a"), report(row(value=5.0), samples="b")], "main.json")
    one = judge([report(row(value=4.9), samples="b")], GateOptions(), several)
    assert (one.result, [(m.samples, m.key, m.rule) for m in one.missing]) == (
        "incomplete", [("a", "fd:inception", "baseline")]
    )  # fmt: skip
    assert judge([report(row(value=4.9), samples="b")], GateOptions(allow_missing=True), several).result == "pass"
    single = baseline_of([report(row(value=5.0), samples="run-17.npz")], "main.json")
    assert judge([report(row(value=4.9), samples="run-18.npz")], GateOptions(), single).result == "pass"
    with pytest.raises(InputError, match=r"Unknown sample set in baseline 'main.json' 'c'; known: a, b"):
        judge([report(samples="c")], GateOptions(), several)


def test_a_baseline_is_replaced_only_by_numbers_made_in_the_same_way() -> None:
    before = baseline_of([report(samples="a"), report(samples="b")], "main.json")
    check_replaceable({"a": [row()], "b": [row(value=9.0)], "new": [row()]}, before)
    other = row(fields={"n": "10"})
    with pytest.raises(InputError, match=r"n .the number of images. is 10 here"):
        check_replaceable({"a": [row()], "b": [other]}, before)
    check_replaceable({"a": [row()], "b": [other], "new": [other]}, before, allow=("n",))


def test_a_baseline_does_not_lose_numbers() -> None:
    before = baseline_of([report(row(), row(encoder="dinov2"), samples="a"), report(samples="b")], "main.json")
    with pytest.raises(InputError, match=r"has fd:dinov2 of a, fd:inception of b, which was not measured.*--force"):
        check_replaceable({"a": [row()]}, before)
    renamed = baseline_of([report(samples="run-1")], "main.json")
    check_replaceable({"run-2": [row(), row(encoder="dinov2")]}, renamed)


@pytest.mark.parametrize("value, stderr", [(math.nan, None), (math.inf, None), (3.0, math.nan), (3.0, -1.0)])
def test_a_number_that_is_none_is_never_judged(value: float, stderr: float | None) -> None:
    with pytest.raises(InputError, match=r"fd:inception of samples.npz is .*expected finite numbers"):
        judge([report(row(value=value, stderr=stderr))], limits("fd=3"))


@pytest.mark.parametrize("text, side, sentence", [
    ("fd=-1", "max", "--max fd=-1 would never hold: FD is 0 or more"),
    ("is=-5", "min", "--min is=-5 would always hold: IS is 1 or more"),
    ("precision=75", "min", "--min precision=75 would never hold: Precision is 0 to 1"),
    ("precision=-0.1", "min", "would always hold"),
])  # fmt: skip
def test_a_limit_that_says_nothing_is_refused(text: str, side: str, sentence: str) -> None:
    rows = (row(), row("is", 200.0), row("precision", 0.7, lower_is_better=False))
    with pytest.raises(InputError, match=sentence):
        judge([report(*rows)], limits(text, side=side))


@pytest.mark.parametrize("make", [
    lambda: Limit("fd", math.nan, "max"), lambda: Limit("fd", math.inf, "min"), lambda: Tolerance(None, math.nan, True),
    lambda: Tolerance("fd", -0.1, False), lambda: GateOptions(inconclusive="psas"),
    lambda: GateOptions(confidence=0.5), lambda: GateOptions(confidence=1.0),
])  # fmt: skip
def test_options_made_in_python_are_checked_too(make) -> None:
    with pytest.raises(InputError, match=r"expected a finite number|did you mean 'pass'|A confidence lies between"):
        make()


def test_a_metric_of_the_baseline_that_is_not_offered_is_explained() -> None:
    before = baseline_of([report(row(), row("ppl", 0.1, lower_is_better=True))], "main.json")
    (missing,) = judge([report()], GateOptions(), before).missing
    assert missing.if_missing.endswith("baseline 'main.json' has it (0.1); ppl is not offered yet")


def test_a_tolerance_under_which_everything_passes_is_refused() -> None:
    before = baseline_of([report(row("precision", 0.7, lower_is_better=False))], "main.json")
    worst = report(row("precision", 0.0, lower_is_better=False))
    for tolerance in ("100%", "precision=0.8"):
        with pytest.raises(InputError, match=r"lets precision:inception fall from 0.7 to .*it would always pass"):
            judge([worst], tolerant(tolerance), before)
    assert judge([worst], tolerant("99%"), before).result == "fail"


def test_a_tolerance_may_name_a_number_that_is_allowed_to_be_missing() -> None:
    before = baseline_of([report(row(), row(encoder="dinov2"))], "main.json")
    asked = tolerant("fd:dinov2=5%", "fd=2%", allow_missing=True)
    assert judge([report()], asked, before).result == "pass"


def test_the_same_images_cannot_have_two_values() -> None:
    """A baseline that is a whole report knows its images."""
    facts = {"digest": "5" * 64}
    before = baseline_of([report(row(value=6.0), facts=facts)], "main.json")
    with pytest.raises(InputError, match=r"is 3 here and 6 in baseline 'main\.json', of the same images, reference"):
        judge([report(row(value=3.0), facts=facts)], GateOptions(), before)
    assert judge([report(row(value=6.03), facts=facts)], GateOptions(), before).result == "pass", "another machine"
    assert judge([report(row(value=3.0), facts={"digest": "6" * 64})], GateOptions(), before).result == "pass"
    other = report(row(value=3.0, fields={"v": "0.2.0"}), facts=facts)
    assert judge([other], GateOptions(), before).result == "pass", "another version may have moved the number"


def test_what_makes_a_report_doubtful_is_told() -> None:
    doubtful = report(warnings=("samples and reference are the same images",))
    assert judge([doubtful], limits("fd=4")).warnings == ("samples.npz: samples and reference are the same images",)
