"""The table of numbers behind the page, the Markdown comment and the LaTeX table: order, ties, groups, escapes."""

from __future__ import annotations

import pytest
from gate_worlds import report, row
from report_worlds import failed, model, number

from fdr.comparison import rank_reports
from fdr.pages import number_table, table_to_latex, table_to_markdown, without_paths
from fdr.pages.formats import latex_text, markdown_text
from fdr.pages.paths import without_folders
from fdr.pages.table import bounds
from fdr.pages.words import notes, verdict
from fdr.reports import Report


def two(scale: float = 0.8) -> dict[str, Report]:
    return {"base": model("base", 1.0), "new": model("new", scale)}


def test_all_rows_of_a_metric_stand_together() -> None:
    mixed = [number("kid", 1.0), number("precision", 0.5), number("fd", 3.0), number("kid", 2.0, "clip")]
    mixed.append(number("precision", 0.5, "clip"))
    keys = [row.key for row in number_table({"a": report(*mixed)}).rows]
    assert keys == ["fd:inception", "kid:inception", "kid:clip", "precision:inception", "precision:clip"]


def test_ratios_come_first_and_debiased_values_before_raw_ones() -> None:
    keys = [one.key for one in number_table({"a": model("a", 1.0)}).rows]
    assert keys[:4] == ["fdr:inception", "fdr:dinov2", "fdr:clip", "fd_debiased:inception"]
    assert keys[4:] == ["fd:inception", "fd:dinov2", "fd:clip", "fd_per_class:inception"]


def test_encoders_are_trained_on_or_held_out_as_the_report_says() -> None:
    groups = {one.encoder: one.group for one in number_table({"a": model("a", 1.0)}).rows}
    assert groups == {"inception": "trained on", "dinov2": "held out", "clip": "held out"}
    assert number_table({"a": report()}).rows[0].group == ""


def test_differences_ties_and_verdicts_are_those_of_compare() -> None:
    table = number_table(two())
    rankings = {ranking.key: ranking for ranking in rank_reports(two())}
    for one in table.rows:
        contrast = rankings[one.key].contrast("base", "new")
        assert one.entries[1].contrast == contrast and one.entries[0].contrast is None
        assert one.entries[1].verdict == "better" and one.entries[1].standing == "best"
        assert one.entries[0].standing == ""


def test_a_difference_within_the_noise_is_no_verdict_and_has_no_best_value() -> None:
    table = number_table(two(1.001))
    assert {entry.verdict for one in table.rows for entry in one.entries[1:]} == {"not told apart"}
    assert {entry.standing for one in table.rows for entry in one.entries} == {""}
    assert verdict(table)[0].kind == "same"


def test_a_higher_confidence_needs_a_larger_difference() -> None:
    sets = {"a": report(number("fd", 1.0)), "b": report(number("fd", 0.93))}
    assert number_table(sets, 0.9).rows[0].entries[1].verdict == "better"
    assert number_table(sets, 0.999).rows[0].entries[1].verdict == "not told apart"


def test_where_higher_is_better_the_higher_value_wins() -> None:
    sets = {"a": report(number("is", 10.0)), "b": report(number("is", 12.0))}
    assert number_table(sets).rows[0].entries[1].verdict == "better"


def test_what_was_measured_in_another_way_is_apart_and_the_notes_say_why() -> None:
    sets = {"a": report(number("fd", 1.0)), "b": report(number("fd", 0.5, fields={"rs": "bicubic-299"}))}
    table = number_table(sets)
    assert table.rows[0].entries[1].standing == "apart" and table.rows[0].entries[1].verdict == ""
    assert any("rs (the resize" in note for note in notes(table))
    assert "no number can be compared" in verdict(table)[0].text


def test_an_interval_stays_within_the_possible_values() -> None:
    low, high = bounds(row("precision", 0.99, stderr=0.02, lower_is_better=False), 0.95)
    assert low == pytest.approx(0.99 - 1.959964 * 0.02) and high == 1.0
    assert bounds(row(), 0.95) is None


def test_a_failure_has_a_row_a_sentence_and_a_place_in_the_verdict() -> None:
    one = Report(report().samples, report().reference, (row(),), failed=(failed(),))
    table = number_table({"a": one})
    assert [entry.failure is not None for line in table.rows for entry in line.entries] == [False, True]
    assert "kid:inception of a" in verdict(table)[-1].text
    assert "| failed |" in table_to_markdown(table) and "failed" in table_to_latex(table)


def test_a_single_ratio_is_put_into_words() -> None:
    text = verdict(number_table({"a": report(number("fdr", 2.0))}))[0].text
    assert "FDr of inception is 2.0000 ± 0.040 for a" in text and "2.00 times as far" in text


def test_a_note_of_many_numbers_is_listed_once() -> None:
    rows = [number("fd", 1.0, f"e{index}", notes=("few images",)) for index in range(6)]
    found = [note for note in notes(number_table({"a": report(*rows)})) if "few images" in note]
    assert found == ["few images (e0 of a, e1 of a, e2 of a and 3 others)"]


# Markdown and LaTeX


def test_markdown_escapes_names_and_marks_the_best() -> None:
    text = table_to_markdown(number_table({"a|b<x>": report(number("fd", 2.0)), "c": report(number("fd", 1.0))}))
    assert r"| number | encoder | a\|b\<x\> | c |" in text
    assert "| FID ↓ | inception | 2.0000 ± 0.040 | **1.0000 ± 0.020**<br>−1.00 ± 0.045, better |" in text
    assert f"- `{report(number('fd', 2.0)).results[0].signature}`" in text


def test_latex_has_a_row_for_each_set_and_the_signatures_as_comments() -> None:
    text = table_to_latex(number_table({"a_1": report(number("fd", 2.0)), "b&c": report(number("fd", 1.0))}))
    assert r"a\_1 & 2.0000 {\scriptsize$\pm$ 0.040} \\" in text
    assert r"b\&c & \textbf{1.0000} {\scriptsize$\pm$ 0.020} \\" in text
    assert f"% {report().results[0].signature}" in text and r"FID $\downarrow$" in text


def test_latex_of_many_numbers_has_a_row_for_each_of_them() -> None:
    text = table_to_latex(number_table({"a": report(*(number("fd", 1.0, f"e{index}") for index in range(9)))}))
    assert r"number & encoder & a \\" in text and text.count(r"FD $\downarrow$") == 9


@pytest.mark.parametrize("text", ["a\nb", "a  b"])
def test_texts_stay_on_one_line(text: str) -> None:
    assert markdown_text(text) == latex_text(text) == "a b"


def test_a_backslash_in_latex() -> None:
    assert latex_text("a\\b{}") == r"a\textbackslash{}b\{\}"


# Paths


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/ada/runs/a.npz", "a.npz"),
        ("/home/ada/my runs/a.npz", "a.npz"),
        ("~/runs/a.npz", "a.npz"),
        (r"C:\Users\ada\a.npz", "a.npz"),
        ("out/a.npz", "out/a.npz"),
        ("https://example.org/a/b.npz", "https://example.org/a/b.npz"),
        ("cannot read '/home/ada/x y/a.png': gone", "cannot read 'a.png': gone"),
        ("cannot read /home/ada/a.png; go on", "cannot read a.png; go on"),
        ("a (/home/ada/one.json)", "a (one.json)"),
        ("/home/ada/a.h5, /home/ada/b.h5", "a.h5, b.h5"),
        ("1/2 of the images", "1/2 of the images"),
        ("and/or", "and/or"),
    ],
)
def test_folders_are_taken_out_of_paths(text: str, left: str) -> None:
    assert without_folders(text) == left
    assert without_folders({"x": [text]}) == {"x": [left]}


def test_sets_that_differ_by_their_folder_only_keep_apart() -> None:
    sets = {"a (/x/1/out.json)": report(), "a (/x/2/out.json)": report()}
    assert list(without_paths(sets)) == ["a (out.json)", "a (out.json) (2)"]
