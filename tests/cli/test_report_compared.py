"""Paired differences of `fdr compare SAMPLES --json` take the place of unpaired ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from gate_worlds import report, write
from report_worlds import number

from fdr.comparison import rank_reports
from fdr.errors import InputError
from fdr.pages import PageOptions, load_compared, number_table, render_page, table_to_markdown

SETS = {name: report(number("fd", value, stderr=0.1), samples=name) for name, value in
        (("a", 1.0), ("b", 1.2), ("c", 1.5))}  # fmt: skip
PAIRED = {("a", "b"): {"fd:inception": 0.05}, ("a", "c"): {"fd:inception": 0.2}, ("b", "c"): {"fd:inception": 0.02}}


def comparison(names: str = "abc", **more: Any) -> dict[str, Any]:
    """What `fdr compare` of the samples writes."""
    sets = {name: SETS[name] for name in names}
    rankings = [one.to_dict() for one in rank_reports(sets, 0.9, PAIRED)]
    return {"schema": "fdr-compare/1", "confidence": 0.9, "comparisons": [], "rankings": rankings} | more


def test_the_ranking_is_that_of_compare_at_the_page_s_confidence() -> None:
    assert number_table(SETS, 0.95, [comparison()]).rankings == rank_reports(SETS, 0.95, PAIRED)
    assert number_table(SETS, 0.95).rankings == rank_reports(SETS, 0.95)


def test_a_comparison_of_some_sets_replaces_their_differences_and_corrects_all_together() -> None:
    found = number_table(SETS, 0.95, [comparison("bc")]).rankings[0]
    assert found == rank_reports(SETS, 0.95, {("b", "c"): PAIRED["b", "c"]})[0]


def test_the_direction_of_a_pair_does_not_matter() -> None:
    data = comparison()
    for pair in data["rankings"][0]["pairs"]:
        pair |= {"a": pair["b"], "b": pair["a"], "difference": -pair["difference"]}
    found = number_table(SETS, 0.95, [data]).rankings[0].contrast("a", "b")
    assert found is not None and (found.kind, found.stderr) == ("paired", 0.05)
    assert found.difference == pytest.approx(0.2) and math.isinf(found.dof)


def test_it_reaches_the_page_and_the_command(fdr_command: Any, tmp_path: Path) -> None:
    write(tmp_path / "r.json", list(SETS.values()))
    (tmp_path / "paired.json").write_text(json.dumps(comparison()))
    got = fdr_command("report", "r.json", "paired.json", "--format", "md")
    assert got.code == 0 and "+0.200 ± 0.050, worse" in got.out and "+0.200 ± 0.14" not in got.out
    assert got.out == table_to_markdown(number_table(SETS, 0.95, [comparison()]))
    assert "(paired)" in render_page(SETS, options=PageOptions(compared=[comparison()]))
    assert "(paired)" not in render_page(SETS)


def test_a_comparison_of_other_sets_or_values_is_refused() -> None:
    with pytest.raises(InputError, match="has fd:inception of 'c', which the reports lack"):
        number_table({name: SETS[name] for name in "ab"}, 0.95, [comparison()])
    other = SETS | {"b": report(number("fd", 1.3), samples="b")}
    with pytest.raises(InputError, match=r"'a' and 'b' differ by 0\.2, and the reports 0\.3; give the reports of the"):
        number_table(other, 0.95, [comparison()])


def test_other_files_are_none_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert load_compared(path) is None
    for text in ("no json", "[]", '{"schema": "fdr-report/1"}'):
        path.write_text(text)
        assert load_compared(path) is None
    path.write_text(json.dumps(comparison()))
    assert load_compared(path) == comparison()
    for damage in ({"rankings": 3}, {"rankings": [{}]}, {"rankings": [{"key": "k", "ranks": [], "pairs": [{}]}]}):
        path.write_text(json.dumps(comparison() | damage))
        with pytest.raises(InputError, match=r"Damaged comparison .* write it again with fdr compare --json"):
            load_compared(path)
