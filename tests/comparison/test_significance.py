"""p-values, Holm's correction, rankings with ties: against SciPy, against the definitions, and by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from gate_worlds import report, row
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fdr.comparison import CONFIDENCE, Contrast, f_tail, holm, p_value, rank, rank_reports, t_quantile, t_tail
from fdr.comparison.ranked_reports import ranking_notes, verdict_of
from fdr.comparison.significance import check_confidence, pairs_of
from fdr.errors import InputError

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@pytest.mark.parametrize("dof", [1, 1.5, 2, 3.7, 10, 55, 1000, 1e5, math.inf])
def test_student_is_that_of_scipy(dof: float) -> None:
    for t in (0.0, 0.01, 0.5, 1.0, 2.0, 5.0):
        assert t_tail(t, dof) == pytest.approx(2 * stats.t.sf(t, dof), rel=1e-9)
        assert t_tail(-t, dof) == t_tail(t, dof)
    for share in (0.01, 0.3, 0.5, 0.9, 0.975, 0.99999):
        assert t_quantile(share, dof) == pytest.approx(stats.t.ppf(share, dof), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("above, below", list(itertools.product([1, 2, 5.5, 40], [1, 3, 17.2, 900])))
def test_fisher_is_that_of_scipy(above: float, below: float) -> None:
    for f in (0.0, 0.01, 0.5, 1.0, 3.0, 40.0):
        assert f_tail(f, above, below) == pytest.approx(stats.f.sf(f, above, below), rel=1e-9)


def test_p_values_are_those_of_scipy() -> None:
    assert p_value(1.3, 0.5) == pytest.approx(2 * stats.norm.sf(2.6), rel=1e-12)
    assert p_value(-1.3, 0.5, dof=4.2) == pytest.approx(2 * stats.t.sf(2.6, 4.2), rel=1e-9)
    assert (p_value(0.0, 0.0), p_value(0.1, 0.0), p_value(0.0, 1.0)) == (1.0, 0.0, 1.0)


def by_definition(p_values: list[float], alpha: float) -> list[bool]:
    """Holm (1979): reject in rising order while p_(i) <= alpha / (m - i); stop at the first that is not."""
    rejected = [False] * len(p_values)
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > alpha / (len(p_values) - place):
            break
        rejected[index] = True
    return rejected


def statsmodels_holm(p_values: list[float]) -> np.ndarray:
    """`multipletests(method="holm")` of statsmodels, written out: its formula for the corrected p-values."""
    values = np.array(p_values)
    order = np.argsort(values, kind="stable")
    corrected = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    found = np.empty(len(values))
    found[order] = np.minimum(corrected, 1)
    return found


@given(p_values=P_VALUES)
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(statsmodels_holm(p_values), abs=1e-15)


@given(p_values=P_VALUES, alpha=st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_what_the_definition_rejects(p_values: list[float], alpha: float) -> None:
    adjusted = holm(p_values)
    if min(abs(value - alpha) for value in adjusted) > 1e-12:
        assert [value <= alpha for value in adjusted] == by_definition(p_values, alpha)


def test_holm_of_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def contrasts(values: dict[str, float], stderr: float | None) -> list[Contrast]:
    return [Contrast(a, b, values[b] - values[a], stderr) for a, b in pairs_of(list(values))]


def test_a_ranking_has_ties_as_intervals() -> None:
    values = {"a": 3.0, "b": 3.05, "c": 3.6, "d": 3.3}
    found = rank("fd", values, contrasts(values, 0.07), True, 0.95)
    assert [(r.name, str(r), r.ties) for r in found.ranks] == [
        ("a", "1–2", ("b",)), ("b", "1–2", ("a",)), ("d", "3", ()), ("c", "4", ())
    ]  # fmt: skip
    negative = {name: -value for name, value in values.items()}
    mirrored = rank("is", negative, contrasts(negative, 0.07), False, 0.95)
    assert [(r.name, str(r)) for r in mirrored.ranks] == [(r.name, str(r)) for r in found.ranks]
    assert found.contrast("c", "a") == found.contrast("a", "c").__class__(
        "c", "a", -0.6000000000000001, 0.07, adjusted=found.contrasts[1].adjusted
    )


def test_a_difference_without_standard_error_is_a_tie_and_still_counts() -> None:
    values = {"a": 1.0, "b": 2.0, "c": 3.0}
    unknown = rank("fd", values, contrasts(values, None), True, 0.95)
    assert [str(r) for r in unknown.ranks] == ["1–3"] * 3 and not unknown.has_noise
    pairs = [Contrast("a", "b", 1.0, 0.4), Contrast("a", "c", 2.0, None), Contrast("b", "c", 1.0, None)]
    assert rank("fd", values, pairs, True, 0.95).contrasts[0].adjusted == pytest.approx(3 * p_value(1.0, 0.4))


@pytest.mark.parametrize("confidence", [0.0, 0.5, 1.0, 95.0])
def test_a_confidence_is_a_share_above_one_half(confidence: float) -> None:
    with pytest.raises(InputError, match=r"between 0\.5 and 1, as 0\.95 does"):
        check_confidence(confidence)


def test_equal_sets_are_told_apart_no_more_often_than_the_confidence_allows() -> None:
    """Four sets of one population, 2,000 times: at least one false verdict in about 5 % or fewer."""
    rng, wrong = np.random.default_rng(0), 0
    for draw in rng.standard_normal((2000, 4)):
        values = dict(zip("abcd", draw.tolist(), strict=True))
        found = rank("fd", values, contrasts(values, math.sqrt(2)), True, 0.95)
        wrong += any(contrast.is_significant(0.95) for contrast in found.contrasts)
    assert 0.02 < wrong / 2000 < 0.06


def test_the_noise_of_reports_adds_in_quadrature() -> None:
    a, b = report(row(value=3.0, stderr=0.3)), report(row(value=5.0, stderr=0.4))
    (found,) = rank_reports({"x": a, "y": b})
    (contrast,) = found.contrasts
    assert (found.key, found.confidence, contrast.stderr) == ("fd:inception", CONFIDENCE, 0.5)
    assert contrast.p_value == contrast.adjusted == pytest.approx(2 * stats.norm.sf(4))
    text = verdict_of(contrast, found)
    assert text == "fd:inception: b − a = 2.0000 ± 0.50 (unpaired), p = 6.3e-05: a is better at 95 % confidence"
    assert "conservative" in next(ranking_notes((found,)))


def test_a_paired_error_takes_the_place_of_both() -> None:
    reports = {"x": report(row(value=3.0, stderr=0.3)), "y": report(row(value=3.2, stderr=0.4))}
    (found,) = rank_reports(reports, paired={("x", "y"): {"fd:inception": 0.05}})
    assert (found.contrasts[0].stderr, found.contrasts[0].kind) == (0.05, "paired")
    assert found.contrasts[0].is_significant(0.95) and not list(ranking_notes((found,)))


def test_systematic_errors_of_sets_of_different_size_do_not_cancel() -> None:
    def error(of_a: object, of_b: object) -> float | None:
        rows = [row(stderr=0.3, details={"systematic": of_a}), row(stderr=0.4, details={"systematic": of_b})]
        (found,) = rank_reports({name: report(one, samples=name) for name, one in zip("ab", rows, strict=True)})
        return found.contrasts[0].stderr

    assert error(2.0, 2.0) == pytest.approx(0.5), "of one size and kind"
    assert error(1.0, 13.0) == pytest.approx(math.hypot(0.5, 12.0))
    assert error(None, 13.0) == pytest.approx(0.5)


def test_only_comparable_numbers_are_ranked() -> None:
    a, other = report(row(stderr=0.1), row("is", 9.0)), report(row(stderr=0.1, fields={"n": "5"}))
    assert rank_reports({"a": a, "b": other}) == ()
    same = report(row(value=3.001, stderr=0.1), facts={"digest": "5" * 64})
    again = report(row(stderr=0.1), facts={"digest": "5" * 64})
    (found,) = rank_reports({"a": same, "b": again})
    assert (found.contrasts[0].kind, found.contrasts[0].stderr) == ("same images", None)
    assert verdict_of(found.contrasts[0], found).endswith("no verdict, since both were measured on the same images")
    contradiction = report(row(value=9.0, stderr=0.1), facts={"digest": "5" * 64})
    assert rank_reports({"a": again, "b": contradiction}) == ()


def test_numbers_without_noise_are_named() -> None:
    (found,) = rank_reports({"a": report(row(stderr=0.1)), "b": report(row(value=4.0))})
    assert verdict_of(found.contrasts[0], found) == (
        "fd:inception: b − a = 1.0000: no verdict, since a standard error is missing"
    )
    assert list(ranking_notes((found,))) == ["no verdict for fd:inception: the numbers have no standard error"]
