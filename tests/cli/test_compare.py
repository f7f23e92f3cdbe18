"""`fdr compare`: exit 0 comparable, 1 not, 2 wrong use; what differs is named."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from gate_worlds import report, row, write

from fdr.metrics import METRICS
from fdr.metrics.registry import MetricInfo
from fdr.reports import Failure


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return write(tmp_path / "a.json", report(row(), row("is", 200.0, stderr=3.0)))


def test_comparable(fdr_command, a: Path, tmp_path: Path) -> None:
    b = write(tmp_path / "b.json", report(row(value=3.3), row("is", 220.0, stderr=4.0), samples="other.npz"))
    got = fdr_command("compare", a, b)
    assert (got.code, got.err) == (0, "")
    assert "+10.00 %" in got.out and got.out.count(" yes") == 2
    assert "is:inception: b − a = 20.000 ± 5.0 (unpaired), p = 6.3e-05: b is better at 95 % confidence" in got.out


def test_notes_of_the_numbers_are_shown(fdr_command, tmp_path: Path) -> None:
    paths = [
        write(tmp_path / f"{name}.json", report(row(notes=("500 samples for 2048 dimensions",)), samples=name))
        for name in "ab"
    ]
    assert "note: b: inception: 500 samples for 2048 dimensions\n" in fdr_command("compare", *paths).out


def test_not_comparable_names_the_field(fdr_command, a: Path, tmp_path: Path) -> None:
    b = write(
        tmp_path / "b.json",
        report(row(fields={"n": "5000", "v": "9"}), row("fdr", 2.0, fields={"n": "5000", "v": "9"})),
    )
    got = fdr_command("compare", a, b)
    assert got.code == 1
    assert "not comparable: n (the number of images) is 50000 in a, 5000 in b: fd:inception" in got.out
    assert "note: v (the version of fdr) is 0.1.0 in a, 9 in b" in got.out
    assert "only in a: is:inception" in got.out and "only in b: fdr:inception" in got.out


def test_json(fdr_command, a: Path, tmp_path: Path) -> None:
    b = write(tmp_path / "b.json", report(row(value=3.3, fields={"q": "none"})))
    got = fdr_command("compare", a, b, "--json", "-")
    data = json.loads(got.out)
    assert got.code == 1 and data["schema"] == "fdr-compare/1"
    (comparison,) = data["comparisons"]
    (pair,) = comparison["pairs"]
    assert pair["relative_change"] == pytest.approx(0.1) and not pair["comparable"]
    assert [(d["field"], d["a"], d["b"], d["decisive"]) for d in pair["differences"]] == [("q", "u8", "none", True)]


def test_several_are_each_compared_with_the_first(fdr_command, a: Path, tmp_path: Path) -> None:
    b = write(tmp_path / "b.json", report(row(value=3.1)))
    c = write(tmp_path / "c.json", report(row(fields={"w": "bbbbbbbb"})))
    got = fdr_command("compare", a, b, c)
    assert got.code == 1 and got.out.count(f"a  samples.npz ({a})") == 2
    assert "w (the weights of the encoder) is aaaaaaaa in a, bbbbbbbb in b" in got.out


def test_sets_are_matched_by_name(fdr_command, tmp_path: Path) -> None:
    x = write(tmp_path / "x.json", [report(samples="one"), report(row(value=9.0), samples="two")])
    y = write(tmp_path / "y.json", [report(row(value=9.0), samples="two"), report(samples="one")])
    got = fdr_command("compare", x, y, "--json", "-")
    assert [pair["change"] for c in json.loads(got.out)["comparisons"] for pair in c["pairs"]] == [0.0, 0.0]


@pytest.mark.parametrize("other, sentence", [
    ("nothing.json", "The report .* does not exist"), ("text.json", "is not JSON"), ("array.json", "Not a report"),
    ("sign.json", "signature of fd:inception is '.'"), ("named.json", "Unknown sample set in .*named.json"),
])  # fmt: skip
def test_wrong_use(fdr_command, tmp_path: Path, a: Path, other: str, sentence: str) -> None:
    (tmp_path / "text.json").write_text("x")
    (tmp_path / "array.json").write_text("[1]")
    (tmp_path / "sign.json").write_text(a.read_text().replace(row().signature, "?"))
    write(tmp_path / "named.json", [report(samples="p"), report(samples="q")])
    got = fdr_command("compare", a, tmp_path / other)
    assert (got.code, got.out) == (2, "") and "Traceback" not in got.err
    assert re.search(sentence, got.err), got.err


@pytest.mark.parametrize("value, fields, is_sound", [
    (6.0, {}, False), (3.05, {}, False), (3.02, {}, True), (3.2, {"dt": "bfloat16"}, True), (6.0, {"v": "9"}, True),
])  # fmt: skip
def test_one_number_of_the_same_images_has_one_value(
    fdr_command, tmp_path: Path, value: float, fields: dict[str, str], is_sound: bool
) -> None:
    """Other hardware may round, and another version may move the number; nothing else is the same image twice."""
    known, before = {"digest": "5" * 64}, {key: text for key, text in fields.items() if key != "v"}
    a = write(tmp_path / "a.json", report(row(value=3.0, fields=before), facts=known))
    b = write(tmp_path / "b.json", report(row(value=value, fields=fields), facts=known))
    got = fdr_command("compare", a, b)
    assert got.code == (0 if is_sound else 1), got.out
    sentence = "of the same images, reference and settings; one of the two was changed or is faulty: measure again"
    assert (sentence in got.out) != is_sound
    data = json.loads(fdr_command("compare", a, b, "--json", "-").out)["comparisons"][0]["pairs"][0]
    assert (data["contradiction"], data["comparable"]) == (not is_sound, is_sound)


@pytest.mark.parametrize("fields, facts", [
    ({"w": "unknown"}, {}), ({"ae": "mine:12345678"}, {}), ({}, {"made_by": {"kind": "generator"}}),
])  # fmt: skip
def test_what_is_not_known_to_be_the_same_may_differ(
    fdr_command, tmp_path: Path, fields: dict[str, str], facts: dict[str, object]
) -> None:
    """Weights that nobody can name, what an autoencoder decodes, and what a generator makes on other hardware."""
    known = {"digest": "5" * 64, **facts}
    paths = [
        write(tmp_path / f"{value:g}.json", report(row(value=value, fields=fields), facts=known))
        for value in (3.0, 6.0)
    ]
    assert fdr_command("compare", *paths).code == 0


def test_a_share_may_differ_by_two_images(fdr_command, tmp_path: Path) -> None:
    known = {"digest": "5" * 64}
    paths = [
        write(
            tmp_path / f"{count}.json",
            report(row("precision", count / 50, lower_is_better=False, fields={"n": "50"}), facts=known),
        )
        for count in (40, 42, 43)
    ]
    assert fdr_command("compare", *paths[:2]).code == 0
    assert fdr_command("compare", paths[0], paths[2]).code == 1


@pytest.mark.parametrize("command", [["show"], ["compare", "a.json"], ["check", "--max", "fd=9"]])
def test_a_tampered_report_is_refused_by_every_command(
    fdr_command, a: Path, tmp_path: Path, command: list[str]
) -> None:
    path = tmp_path / "b.json"
    path.write_text(a.read_text().replace('"lower_is_better": true', '"lower_is_better": false'))
    got = fdr_command(*command, path)
    assert (got.code, got.out) == (2, "")
    assert "The report contradicts itself: lower_is_better of fd:inception is false" in got.err and "b.json" in got.err


def test_a_difference_within_the_noise_says_what_the_pair_resolves(fdr_command, tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{v}.json", report(row(value=v, stderr=0.1))) for v in (3.0, 3.2)]
    got = fdr_command("compare", *paths)
    assert got.code == 0
    assert "p = 0.16: inconclusive at 95 % confidence (this pair resolves differences above 0.27718)" in got.out
    assert "note: unpaired: the two numbers are taken as independent" in got.out
    assert "b − a = 0.20000 ± 0.14 (unpaired), p = 0.16: a is better at 80 % confidence" in (
        fdr_command("compare", *paths, "--confidence", "0.8").out
    )


def test_several_sets_are_ranked_with_their_ties(fdr_command, tmp_path: Path) -> None:
    values = {"a": 3.0, "b": 3.05, "c": 3.6}
    paths = [write(tmp_path / f"{n}.json", report(row(value=v, stderr=0.05), samples=n)) for n, v in values.items()]
    got = fdr_command("compare", *paths)
    lines = [line.split() for line in got.out.splitlines()]
    assert ["1–2", "a", "a", f"({paths[0]})", "3.0000", "b"] in lines
    assert ["3", "c", "c", f"({paths[2]})", "3.6000"] in lines
    assert any(line[:3] == ["c", "−", "b"] and line[-3:] == ["b", "is", "better"] for line in lines)
    (ranking,) = json.loads(fdr_command("compare", *paths, "--json", "-").out)["rankings"]
    assert [rank["rank"] for rank in ranking["ranks"]] == [[1, 2], [1, 2], [3, 3]]
    first = ranking["pairs"][0]
    assert first["stderr"] == pytest.approx(0.05 * 2**0.5) and first["kind"] == "unpaired"
    assert first["holm_p_value"] >= first["p_value"] and not first["significant"]


def test_the_sets_of_one_file_are_compared_with_each_other(fdr_command, a: Path, tmp_path: Path) -> None:
    both = write(tmp_path / "both.json", [report(samples="one"), report(row(value=9.0), samples="two")])
    got = fdr_command("compare", both)
    assert got.code == 0 and f"a  one ({both})" in got.out and f"b  two ({both})" in got.out
    alone = fdr_command("compare", a)
    assert alone.code == 2 and "has one sample set, and a comparison needs two" in alone.err


def test_debiased_numbers_of_sets_of_different_size_compare(
    fdr_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "sized", MetricInfo("sized", is_size_free=True))
    for metric, code in (("fd", 1), ("sized", 0)):
        paths = [
            write(tmp_path / f"{n}.json", report(row(metric, 3.0, lower_is_better=True, fields={"n": n})))
            for n in ("50", "40")
        ]
        got = fdr_command("compare", *paths)
        assert got.code == code, got.out
        assert ("fd_debiased has no such bias" in got.out) == (code == 1)


def test_a_number_that_could_not_be_computed_is_said(fdr_command, a: Path, tmp_path: Path) -> None:
    failed = Failure("is", "inception", "There are too few images.", row("is").signature)
    b = write(tmp_path / "b.json", replace(report(row(value=3.3), samples="b"), failed=(failed,)))
    got = fdr_command("compare", a, b)
    assert got.code == 1 and "is:inception of b could not be computed: There are too few images." in got.err
    assert "only in a: is:inception" in got.out
