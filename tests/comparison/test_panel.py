"""The panel: analysis of variance against SciPy and closed forms, Welch's test, and what cannot be said."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from gate_worlds import report, row
from scipy import stats

from fdr.comparison import components, panel_notes, panel_numbers
from fdr.comparison.panel import Models, welch
from fdr.errors import InputError

BALANCED = {"a": [3.0, 3.2, 3.1], "b": [3.5, 3.4, 3.6], "c": [2.8, 2.9, 3.3]}
UNBALANCED = {"a": [3.0, 3.2], "b": [3.5], "c": [2.8, 2.9, 3.3, 3.1]}


def models(**runs: dict[str, Sequence[float]]) -> Models:
    return {
        model: {
            name: [report(row(value=value), samples=f"{model}{name}{index}") for index, value in enumerate(values)]
            for name, values in seeds.items()
        }
        for model, seeds in runs.items()
    }


def test_a_balanced_design_is_the_textbook_formula() -> None:
    found, values = components(BALANCED), np.array(list(BALANCED.values()))
    within = values.var(axis=1, ddof=1).mean()
    between = values.mean(axis=1).var(ddof=1) - within / 3
    assert found.within == pytest.approx(math.sqrt(within)) and found.between == pytest.approx(math.sqrt(between))
    assert found.mean == pytest.approx(values.mean())
    assert found.stderr == pytest.approx(values.mean(axis=1).std(ddof=1) / math.sqrt(3))
    assert (found.num_runs, found.num_values) == (3, 9)
    assert found.share(found.between) == pytest.approx(math.sqrt(between) / values.mean())
    assert found.total == pytest.approx(math.sqrt(within + between))


@pytest.mark.parametrize("runs", [BALANCED, UNBALANCED])
def test_the_f_test_is_that_of_scipy(runs: dict[str, list[float]]) -> None:
    found, expected = components(runs), stats.f_oneway(*runs.values())
    assert found.f == pytest.approx(expected.statistic, rel=1e-12)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)


def test_an_unbalanced_design_equates_mean_squares_with_their_expectations() -> None:
    """E[MSB] = within² + n0 between², by the definition of n0 as a trace (Searle, Casella and McCulloch 1992)."""
    found = components(UNBALANCED)
    y = np.concatenate([np.array(values) for values in UNBALANCED.values()])
    owner = np.repeat(np.eye(3), [2, 1, 4], axis=0)  # [N, a]
    mean_of_run = owner @ np.linalg.pinv(owner)
    mean_of_all = np.full((7, 7), 1 / 7)
    msw = y @ (np.eye(7) - mean_of_run) @ y / (7 - 3)
    msb = y @ (mean_of_run - mean_of_all) @ y / (3 - 1)
    n0 = np.trace((mean_of_run - mean_of_all) @ owner @ owner.T) / (3 - 1)
    assert found.within == pytest.approx(math.sqrt(msw), rel=1e-12)
    assert found.between == pytest.approx(math.sqrt((msb - msw) / n0), rel=1e-12)


def test_spreads_that_were_put_in_come_out_again() -> None:
    """Those of The FID Lottery, in 400 training seeds of unequal numbers of samplings."""
    rng = np.random.default_rng(0)
    runs = {
        str(seed): (34.7 + rng.normal(0, 0.438) + rng.normal(0, 0.137, 2 + seed % 3)).tolist() for seed in range(400)
    }
    found = components(runs)
    assert found.between == pytest.approx(0.438, rel=0.08) and found.within == pytest.approx(0.137, rel=0.08)
    assert found.share(found.between) == pytest.approx(0.0126, rel=0.08)


def test_no_difference_between_training_seeds_is_zero_and_never_negative() -> None:
    found = components({"a": [1.0, 3.0], "b": [1.1, 2.9]})
    assert found.between == 0.0 and found.within is not None
    assert found.p_value == pytest.approx(1.0)
    assert components({"a": [1.0, 1.0], "b": [2.0, 2.0]}).f is None, "no noise of sampling at all"


def test_what_a_design_cannot_tell_is_none() -> None:
    one = components({"a": [1.0, 2.0]})
    assert (one.between, one.stderr, one.total, one.p_value) == (None, None, None, None)
    assert one.within == pytest.approx(math.sqrt(0.5))
    single = components({"a": [1.0], "b": [2.0]})
    assert (single.between, single.within) == (None, None) and single.total == pytest.approx(math.sqrt(0.5))
    with pytest.raises(InputError, match="Every training seed of a panel needs at least one value"):
        components({"a": []})


def test_models_are_compared_by_welchs_test_of_the_means_of_their_training_seeds() -> None:
    a, b = components(BALANCED), components({"x": [4.0, 4.2], "y": [4.4], "z": [3.9, 4.1, 4.3], "w": [4.0]})
    stderr, dof = welch(a, b)
    means = [[np.mean(values) for values in one.runs.values()] for one in (b, a)]
    expected = stats.ttest_ind(*means, equal_var=False)
    assert stderr is not None
    assert (b.mean - a.mean) / stderr == pytest.approx(expected.statistic, rel=1e-12)
    assert dof == pytest.approx(expected.df, rel=1e-12)
    (number,) = panel_numbers(models(a=a.runs, b=b.runs))
    (contrast,) = number.ranking.contrasts
    assert contrast.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert contrast.resolves(0.95) == pytest.approx(stderr * stats.t.ppf(0.975, dof), rel=1e-9)
    assert contrast.is_significant(0.95) == (expected.pvalue < 0.05)


def test_a_gap_below_what_the_panel_resolves_is_inconclusive() -> None:
    near = {name: [value + 0.05 for value in values] for name, values in BALANCED.items()}
    far = {name: [value + 2.0 for value in values] for name, values in BALANCED.items()}
    (number,) = panel_numbers(models(base=BALANCED, near=near, far=far))
    assert [(rank.name, str(rank)) for rank in number.ranking.ranks] == [("base", "1–2"), ("near", "1–2"), ("far", "3")]
    smallest = number.ranking.contrasts[0].resolves(0.95)
    assert smallest is not None and 0.05 < smallest < 2.0
    total = number.models["base"].total
    assert total is not None and number.single_run_resolves == pytest.approx(1.959964 * math.sqrt(2) * total)


def test_models_of_one_population_are_told_apart_no_more_often_than_the_confidence_allows() -> None:
    rng, wrong = np.random.default_rng(1), 0
    for _ in range(400):
        a, b = (
            components({str(i): (rng.normal(0, 0.4) + rng.normal(0, 0.1, 2)).tolist() for i in range(4)})
            for _ in range(2)
        )
        stderr, dof = welch(a, b)
        wrong += bool(2 * stats.t.sf(abs(b.mean - a.mean) / (stderr or 1.0), dof) < 0.05)
    assert 0.02 < wrong / 400 < 0.07


def test_notes_say_what_is_missing() -> None:
    notes = list(panel_notes(panel_numbers(models(a={"0": [3.0, 3.1]}, b={"0": [3.0], "1": [3.2]}))))
    assert notes[0].startswith("a has one training seed, so nothing is known of the spread between training seeds")
    assert notes[1].startswith("b has one report for each training seed")
    assert notes[2].startswith(
        "fd:inception: single reports, of one training run each, tell two models apart only above"
    )
    assert next(panel_notes(panel_numbers(models(a=BALANCED)))).startswith("fd:inception: single reports")


def test_the_panel_is_measured_in_one_way_and_has_no_set_twice() -> None:
    odd = {"a": {"0": [report(), report(row(fields={"n": "5"}), samples="b")]}}
    with pytest.raises(
        InputError, match=r"fd:inception of samples\.npz and b cannot be compared: n .the number of imag"
    ):
        panel_numbers(odd)
    same = [report(facts={"digest": "5" * 64}, samples=name) for name in ("x", "y")]
    with pytest.raises(InputError, match=r"x of a, 0, and y of b, 1, are the same images, so they are no two seeds"):
        panel_numbers({"a": {"0": same[:1]}, "b": {"1": same[1:]}})
    with pytest.raises(InputError, match=r"have no number in common: the first has fd:inception"):
        panel_numbers({"a": {"0": [report(), report(row("is", 9.0), samples="b")]}})
    both = [report(row(), row("is", 9.0), samples="x"), report(row("is", 9.5), samples="y")]
    assert [number.key for number in panel_numbers({"a": {"0": both}})] == ["is:inception"]


def test_json_has_every_value() -> None:
    (number,) = panel_numbers(models(a=BALANCED, b=UNBALANCED), 0.9)
    data = number.to_dict()
    assert data["key"] == "fd:inception" and data["confidence"] == 0.9
    assert data["models"]["b"]["values"] == UNBALANCED
    assert data["models"]["a"]["between_cov"] == pytest.approx(
        data["models"]["a"]["between"] / data["models"]["a"]["mean"]
    )
