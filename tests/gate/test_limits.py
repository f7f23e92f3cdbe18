"""Limits and tolerances from text: names with colons are looked up, never split; near misses are errors that help."""

from __future__ import annotations

import pytest
from gate_worlds import row
from hypothesis import given
from hypothesis import strategies as st

from fdr.errors import InputError
from fdr.gate.limits import (
    Limit,
    Tolerance,
    check_tolerance,
    find_limited,
    is_named,
    named,
    parse_limit,
    parse_tolerance,
    tolerance_for,
)

ROWS = (
    row(), row(encoder="inception:clean"), row(encoder="timm:a.b_c"), row("fdr", 4.0), row("fdr_k", 4.0, None),
    row("fdr_k:held_out", 4.0, None),
    row("is", 200.0), row("is:adm", 190.0),
)  # fmt: skip


@pytest.mark.parametrize("number", ROWS, ids=lambda number: number.key)
def test_the_full_name_means_one_number(number) -> None:
    assert named(ROWS, number.key) == [number]


@pytest.mark.parametrize("name, count", [("fd", 3), ("fdr_k", 1), ("is", 1), ("is:adm", 1), ("fdr", 1)])
def test_a_metric_means_all_its_numbers(name: str, count: int) -> None:
    assert {found.metric for found in named(ROWS, name)} == {name}
    assert len(named(ROWS, name)) == count


def test_two_readings_of_a_name_are_an_error() -> None:
    with pytest.raises(InputError, match="'is:adm' may mean is of adm, is:adm of inception"):
        named([row("is", encoder="adm"), row("is:adm")], "is:adm")


@pytest.mark.parametrize(
    "name, hint",
    [
        ("fd:incption", "did you mean 'fd:inception'"),
        ("fd:dinov2", "fd:inception"),
        ("zzzz", "known: fd:inception, "),
        ("ppl", "it is not offered yet"),
        ("PPL:inception", "it is not offered yet"),
        ("fid", "it is the metric fd of the encoder inception"),
    ],
)
def test_unknown_names_get_near_matches(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"Unknown number '{name}'.*{hint}"):
        named(ROWS, name)


@given(name=st.text(min_size=1).filter(str.strip), bound=st.floats(allow_nan=False, allow_infinity=False))
def test_limits_round_trip(name: str, bound: float) -> None:
    assert parse_limit(f"{name}={bound!r}", "max") == Limit(name.strip(), bound, "max")


@pytest.mark.parametrize("text", ["", "fd", "fd=", "=3", "fd=three", "fd=nan", "fd=inf", "fd:3"])
def test_other_texts_are_no_limits(text: str) -> None:
    with pytest.raises(InputError, match=r"--max .* is not NAME=NUMBER"):
        parse_limit(text, "max")


def test_a_limit_needs_one_number_on_its_bad_side() -> None:
    assert find_limited(ROWS, parse_limit("fd:inception=3", "max")).key == "fd:inception"
    assert find_limited(ROWS, parse_limit("is=3", "min")).key == "is:inception"
    with pytest.raises(InputError, match=r"may mean fd:inception, fd:inception:clean, fd:timm:a.b_c; name one"):
        find_limited(ROWS, parse_limit("fd=3", "max"))
    with pytest.raises(InputError, match=r"higher is better\); write --min is=3"):
        find_limited(ROWS, parse_limit("is=3", "max"))
    with pytest.raises(InputError, match=r"lower is better\); write --max fdr_k=4"):
        find_limited(ROWS, parse_limit("fdr_k=4", "min"))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1%", Tolerance(None, 0.01, True)),
        ("0%", Tolerance(None, 0.0, True)),
        ("fd=2.5%", Tolerance("fd", 0.025, True)),
        ("fd:random=0.05", Tolerance("fd:random", 0.05, False)),
        ("fd:torchscript:/a=b.pt=1 %", Tolerance("fd:torchscript:/a=b.pt", 0.01, True)),
    ],
)
def test_tolerances(text: str, expected: Tolerance) -> None:
    assert parse_tolerance(text) == expected


@pytest.mark.parametrize("text, sentence", [
    ("0.05", r"absolute.*fd:inception=0\.05.*0\.05%"), ("-1%", "0 or more"), ("fd=", "is not AMOUNT"),
    ("=1%", "is not AMOUNT"), ("nan%", "is not AMOUNT"), ("one%", "is not AMOUNT"), ("fd=-0.1", "0 or more"),
])  # fmt: skip
def test_other_texts_are_no_tolerances(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parse_tolerance(text)


def test_the_most_specific_tolerance_holds_and_the_last_of_equals() -> None:
    default = Tolerance(None, 0.01, True)
    given = [parse_tolerance(text) for text in ("5%", "fd=2%", "fd:inception=0.1", "fd=3%")]
    assert str(tolerance_for(ROWS[0], given, default)) == "0.1"
    assert str(tolerance_for(ROWS[1], given, default)) == "3 %"
    assert str(tolerance_for(ROWS[3], given, default)) == "5 %"
    assert tolerance_for(ROWS[0], [], default) is default


@given(st.floats(-1e6, 1e6), st.floats(0, 10))
def test_an_allowance_is_never_negative(baseline: float, amount: float) -> None:
    assert Tolerance(None, amount, True).allowance(baseline) == pytest.approx(amount * abs(baseline))
    assert Tolerance(None, amount, False).allowance(baseline) == amount


def test_names_of_limits_and_tolerances_are_found_in_any_case() -> None:
    rows = [row("fd", encoder="inception"), row("fd", encoder="timm:ResNet50"), row("is", lower_is_better=False)]
    assert [found.key for found in named(rows, "FD:Inception")] == ["fd:inception"]
    assert find_limited(rows, parse_limit("fd:TIMM:resnet50=3", "max")).encoder == "timm:ResNet50"
    assert is_named(rows, "IS") and not is_named(rows, "FDX")
    assert tolerance_for(rows[0], [parse_tolerance("FD:INCEPTION=2%")], parse_tolerance("1%")).amount == 0.02
    apart = [row("fd", encoder="net"), row("fd", encoder="Net")]
    assert [found.encoder for found in named(apart, "fd:Net")] == ["Net"]


@pytest.mark.parametrize(
    ("text", "side", "metric", "is_allowed"),
    [
        ("fd=0", "max", "fd", True),
        ("fd=-0.001", "max", "fd", False),
        ("precision=1", "min", "precision", True),
        ("precision=1.001", "min", "precision", False),
        ("is=1", "min", "is", True),
        ("is=0.999", "min", "is", False),
    ],
)
def test_a_limit_may_be_the_best_or_worst_possible_value(text: str, side: str, metric: str, is_allowed: bool) -> None:
    rows = [row(metric, lower_is_better=metric == "fd")]
    if is_allowed:
        assert find_limited(rows, parse_limit(text, side)) is rows[0]  # type: ignore[arg-type]
    else:
        with pytest.raises(InputError, match=r"would (always|never) hold"):
            find_limited(rows, parse_limit(text, side))  # type: ignore[arg-type]


@pytest.mark.parametrize(("before", "amount", "is_allowed"), [(2.0, 0.99, True), (2.0, 1.0, False), (1.0, 0.5, True)])
def test_a_tolerance_down_to_the_worst_possible_value_is_refused(
    before: float, amount: float, is_allowed: bool
) -> None:
    """The Inception Score is at least 1; a baseline of 1 cannot get worse, whatever the tolerance."""
    score, tolerance = row("is", lower_is_better=False), Tolerance("is", amount, False)
    if is_allowed:
        check_tolerance(score, tolerance, before)
    else:
        with pytest.raises(InputError, match="so it would always pass"):
            check_tolerance(score, tolerance, before)
    check_tolerance(row("fd"), Tolerance("fd", 100.0, True), before)  # FD has no worst value
