"""Tables of classes: one set alone, and several sets side by side with their differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
from gate_worlds import report, row
from report_worlds import model, number

from fdr.pages import number_table
from fdr.pages.class_tables import FEW_IMAGES, ClassTable, class_tables
from fdr.reports import Report

CLASSES = {
    "cat": {"fd": 7.0, "stderr": 0.5, "n": 500},
    "dog": {"fd": 4.0, "stderr": 0.1, "n": 500},
    "eel": {"fd": 9.0, "stderr": 0.2, "n": 500},
}


def changed(**values: float | None) -> dict[str, dict[str, Any]]:
    return {key: part | ({"fd": values[key]} if key in values else {}) for key, part in CLASSES.items()}


def one(classes: dict[str, Any], metric: str = "fd_per_class", **more: Any) -> Report:
    return report(number(metric, 5.0, details={"classes": classes}, **more))


def tables(**sets: Report) -> list[ClassTable]:
    return class_tables(number_table(sets))


def texts(table: ClassTable, column: int) -> list[str]:
    return [cells[column].text for cells in table.rows]


def test_several_sets_are_one_table_with_the_class_that_became_worst_first() -> None:
    (table,) = tables(a=one(CLASSES), b=one(changed(cat=7.5, dog=6.0, eel=1.0)))
    assert table.headers == ("class", "a", "b", "b − a")
    assert texts(table, 0) == ["dog", "cat", "eel"]
    assert texts(table, 1)[0] == "4.000 ± 0.10" and texts(table, 2)[0] == "6.000 ± 0.10"
    assert [cells[3].sort for cells in table.rows] == pytest.approx([2.0, 0.5, -8.0])


def test_a_difference_has_a_sign_and_the_root_of_the_summed_variances() -> None:
    (table,) = tables(a=one(CLASSES), b=one(changed(cat=7.5, eel=1.0)))
    assert texts(table, 3) == [
        f"+0.500 ± {math.hypot(0.5, 0.5):.2f}",
        "+0 ± 0.14",
        f"−8.00 ± {math.hypot(0.2, 0.2):.2f}",
    ]
    assert "noise of two sets as independent" in table.caption


def test_where_higher_is_better_the_largest_drop_comes_first() -> None:
    parts = {key: {"accuracy": value, "n": 500} for key, value in (("cat", 0.5), ("dog", 0.9))}
    lower = {key: {"accuracy": value, "n": 500} for key, value in (("cat", 0.6), ("dog", 0.2))}
    sets = {
        name: report(row("cas_linear", 0.5, lower_is_better=False, details={"classes": found}))
        for name, found in (("a", parts), ("b", lower))
    }
    (table,) = tables(**sets)
    assert texts(table, 0) == ["dog", "cat"] and texts(table, 3) == ["−0.700", "+0.100"]
    assert "independent" not in table.caption


def test_the_worst_of_three_sets_orders_the_classes() -> None:
    (table,) = tables(a=one(CLASSES), b=one(changed(dog=5.0)), c=one(changed(eel=12.0)))
    assert table.headers == ("class", "a", "b", "b − a", "c", "c − a")
    assert texts(table, 0) == ["eel", "dog", "cat"]


def test_classes_with_few_images_in_either_set_are_marked() -> None:
    few = {**CLASSES, "cat": {"fd": 6.0, "stderr": 0.5, "n": FEW_IMAGES - 1}}
    (table,) = tables(a=one(CLASSES), b=one(few))
    marks = {cells[0].text: [cell.is_small for cell in cells[1:]] for cells in table.rows}
    assert marks["cat"] == [False, True, True] and marks["dog"] == [False, False, False]
    assert f"* fewer than {FEW_IMAGES} images" in table.caption


def test_a_class_that_a_set_lacks_has_no_difference_and_comes_last() -> None:
    (table,) = tables(a=one(changed(eel=None)), b=one({key: CLASSES[key] for key in ("dog", "eel")}))
    assert texts(table, 0)[0] == "dog" and set(texts(table, 0)[1:]) == {"cat", "eel"}
    assert texts(table, 3)[1:] == ["", ""]


def test_a_set_that_cannot_be_compared_has_values_and_no_differences() -> None:
    other = one(changed(cat=8.0), fields={"rs": "bicubic-299"})
    (table,) = tables(a=one(CLASSES), b=other)
    assert table.headers == ("class", "a", "b") and texts(table, 0) == ["eel", "cat", "dog"]
    assert "Not comparable with a, so without differences: b." in table.caption


def test_of_many_classes_the_worst_and_the_best_changes_are_shown() -> None:
    first = {f"c{index:03d}": {"fd": 5.0, "n": 500} for index in range(300)}
    second = {f"c{index:03d}": {"fd": 5.0 + index - 150, "n": 500} for index in range(299)}
    (table,) = tables(a=one(first), b=one(second))
    names = texts(table, 0)
    assert len(names) == 40 and names[0] == "c298" and names[-1] == "c000"
    assert "The 20 worst and the 20 best changes of 299 classes." in table.caption


def test_a_number_that_one_set_has_is_a_table_of_its_own() -> None:
    found = tables(a=model("a", 1.0), b=report(number("fd", 2.0)))
    assert [table.title for table in found] == ["FID per class of inception, a"]
    assert found[0].headers == ("class", "fd", "n", "reference n")
    assert tables(a=model("a", 1.0))[0].title == "FID per class of inception"
