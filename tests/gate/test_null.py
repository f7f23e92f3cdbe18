"""Null reports: what an unchanged model gives at other seeds is no reason to stop a model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gate_worlds import report, row
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fdr.errors import InputError
from fdr.gate import Baseline, GateOptions, baseline_of, judge, verdict_to_json

VALUES = st.lists(st.floats(0.5, 100), min_size=1, max_size=5)


def null(name: str, value: float, **more) -> Baseline:
    facts = more.pop("facts", {})
    return baseline_of([report(row(more.pop("metric", "fd"), value, **more), samples=f"{name}.npz", facts=facts)], name)


def nulls(*values: float, **more) -> list[Baseline]:
    return [null(f"n{index}.json", value, **more) for index, value in enumerate(values)]


MAIN = baseline_of([report(row(value=3.0))], "main.json")
AT_MOST = GateOptions.parse(["fd=3.0"])


def test_a_limit_that_the_unchanged_model_breaks_is_refused_with_the_smallest_that_it_keeps() -> None:
    with pytest.raises(InputError) as caught:
        judge([report(row(value=2.5))], AT_MOST, nulls=nulls(3.111))
    assert str(caught.value) == (
        "--max fd:inception=3 is a budget that the unchanged model already breaks: null report 'n0.json' has "
        "fd:inception 3.1110, and the limit is 3.0000. The smallest limit that the null reports keep is 3.2."
    )
    assert judge([report(row(value=2.5))], GateOptions.parse(["fd=3.2"]), nulls=nulls(3.111)).passes


def test_a_tolerance_that_the_unchanged_model_breaks_is_refused_with_the_smallest_that_it_keeps() -> None:
    with pytest.raises(
        InputError, match=r"A tolerance of 1 % for fd:inception is a budget.*that the null reports keep is 4\.1%; "
    ):
        judge([report(row(value=3.0))], GateOptions(), MAIN, nulls(2.9, 3.12))
    kept = GateOptions.parse(tolerances=["4.1%"])
    assert judge([report(row(value=3.0))], kept, MAIN, nulls(2.9, 3.12)).passes
    absolute = GateOptions.parse(tolerances=["fd=0.1"])
    with pytest.raises(InputError, match=r"A tolerance of 0\.1 for .* keep is fd:inception=0\.13"):
        judge([report(row(value=3.0))], absolute, MAIN, nulls(3.12))


@given(values=VALUES, before=st.floats(0.5, 100), lower=st.booleans())
def test_what_is_suggested_is_kept(values: list[float], before: float, lower: bool) -> None:
    metric = "fd" if lower else "high"
    more = {"metric": metric, "lower_is_better": lower}
    base = baseline_of([report(row(value=before, **more))], "main.json")
    given_nulls = nulls(*values, **more)
    try:
        judge([report(row(value=before, **more))], GateOptions.parse(tolerances=["0%"]), base, given_nulls)
    except InputError as error:
        smallest = str(error).split("null reports keep is ")[1].split(";")[0].rstrip(".")
        if not lower and float(smallest.rstrip("%")) >= 100:
            return  # a tolerance that lets everything pass is refused for another reason
        kept = GateOptions.parse(tolerances=[smallest])
        assert judge([report(row(value=before, **more))], kept, base, given_nulls).passes
    else:
        assert max(values) <= before if lower else min(values) >= before


def test_the_prediction_bound_is_that_of_a_normal_sample() -> None:
    values = [3.0, 3.1, 2.95, 3.05]
    verdict = judge([report(row(value=3.0))], GateOptions.parse(["fd=3.11"]), nulls=nulls(*values))
    (budget,) = verdict.nulls
    sample = np.array(values)
    expected = sample.mean() + stats.t.ppf(0.95, 3) * sample.std(ddof=1) * np.sqrt(1 + 1 / 4)
    assert budget.prediction == pytest.approx(expected, rel=1e-9)
    (warning,) = verdict.warnings
    assert "--max fd:inception=3.11 is narrow: 4 null reports keep it" in warning
    assert "a limit of 3.2 covers a further run with 95 % confidence" in warning
    assert judge([report()], GateOptions.parse(["fd=3.2"]), nulls=nulls(*values)).warnings == ()
    assert judge([report()], GateOptions.parse(["fd=3.11"]), nulls=nulls(3.1)).nulls[0].prediction is None


def test_a_further_run_keeps_to_the_bound_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    kept = 0
    for *values, further in rng.normal(3.0, 0.1, (400, 5)):
        (budget,) = judge([report()], GateOptions.parse(["fd=9"]), nulls=nulls(*values)).nulls
        kept += further <= budget.prediction
    assert 0.92 < kept / 400 < 0.98


def test_null_reports_are_made_in_the_same_way_and_at_other_seeds() -> None:
    with pytest.raises(InputError, match=r"fd:inception cannot be compared with null report 'n0\.json': n .the number"):
        judge([report()], AT_MOST, nulls=nulls(3.0, fields={"n": "5"}))
    allowed = GateOptions.parse(["fd=3.0"], allow=["n"])
    assert judge([report()], allowed, nulls=nulls(3.0, fields={"n": "5"})).passes
    same = nulls(2.9, 3.0, facts={"digest": "5" * 64})
    with pytest.raises(InputError, match=r"'n0\.json' and 'n1\.json' are of the same images"):
        judge([report()], AT_MOST, nulls=same)
    with pytest.raises(InputError, match=r"'n0\.json' is of the images of samples\.npz itself"):
        judge([report(facts={"digest": "5" * 64})], AT_MOST, nulls=same[:1])


def test_a_number_that_no_null_report_has_is_not_bounded() -> None:
    both = report(row(value=2.0), row("is", 9.0))
    verdict = judge([both], GateOptions.parse(["fd=3"], ["is=5"]), nulls=nulls(2.0))
    assert [budget.bound.key for budget in verdict.nulls] == ["fd:inception"]
    assert "no null report has is:inception" in " ".join(verdict.warnings)


def test_several_sets_are_matched_by_name() -> None:
    both = [report(row(value=1.0), samples="a"), report(row(value=5.0), samples="b")]
    other = baseline_of([report(row(value=1.1), samples="a"), report(row(value=5.1), samples="b")], "n.json")
    verdict = judge(both, GateOptions.parse(["fd=6"]), nulls=[other])
    assert [(budget.bound.samples, dict(budget.values)) for budget in verdict.nulls] == [
        ("a", {"n.json": 1.1}), ("b", {"n.json": 5.1})
    ]  # fmt: skip
    data = json.loads(verdict_to_json(verdict))["null"]
    assert data[1] == {
        "samples": "b", "key": "fd:inception", "rule": "max", "limit": 6.0, "values": {"n.json": 5.1}, "covers": None
    }  # fmt: skip
