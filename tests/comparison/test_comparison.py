"""Comparability: which fields differ, what they mean, what they usually do to a number."""

from __future__ import annotations

from pathlib import Path

import pytest
from gate_worlds import report, row, signature
from hypothesis import given
from hypothesis import strategies as st

from fdr.comparison import check_fields, compare_reports, explanations, load_effects, signature_differences
from fdr.comparison.comparability import MEANINGS
from fdr.comparison.effects import usual_effect
from fdr.errors import InputError, RunError

TABLE = """
[[effect]]
field = "rs"
from = "tf1-bilinear"
to = "bicubic-antialias"
encoder = "squeezenet"
median = 0.25
low = 0.20
high = 0.25
measured_on = "900 photos"
note = "see the page"
sides = "both"
[[effect]]
field = "n"
from = "50000"
to = "5000"
encoder = "inception"
median = 0.1
low = 0.1
high = 0.1
measured_on = "drawings"
"""


@pytest.fixture
def effects(tmp_path: Path):
    (tmp_path / "footguns.toml").write_text(TABLE)
    return load_effects(tmp_path / "footguns.toml")


def fields(a: str, b: str) -> list[str]:
    return [difference.field for difference in signature_differences(a, b)]


@given(st.sampled_from(["w", "rs", "out", "dt", "q", "n", "ref"]), st.text("abc12", min_size=1, max_size=5))
def test_one_changed_field_is_found_from_both_sides(field: str, value: str) -> None:
    a, b = signature("fd"), signature("fd", **{field: value})
    assert fields(a, a) == []
    assert fields(a, b) == fields(b, a) == [field]
    (difference,) = signature_differences(a, b)
    assert difference.is_decisive and difference.b == value and difference.meaning == MEANINGS[field]


def test_the_spec_hash_speaks_only_when_nothing_else_of_the_encoder_does() -> None:
    assert fields(signature("fd"), signature("fd", s="00000000")) == ["s"]
    assert fields(signature("fd"), signature("fd", s="00000000", rs="bicubic-299")) == ["rs"]
    assert fields(signature("fd"), signature("fd", s="00000000", n="10")) == ["s", "n"]


def test_a_default_that_is_left_out_differs_from_nothing_but_other_values() -> None:
    assert fields(signature("fd"), signature("fd", crop="none", alpha="drop", cm="default")) == []
    (crop,) = signature_differences(signature("fd"), signature("fd", crop="adm-256"))
    assert (crop.field, crop.a, crop.b) == ("crop", "none", "adm-256")


def test_version_and_name_of_one_content_inform_only() -> None:
    found = signature_differences(signature("fd"), signature("fd", v="0.2.0", ref="other:04e0a81f", q="none"))
    assert [(d.field, d.is_decisive) for d in found] == [("q", True), ("ref", False), ("v", False)]
    (ref,) = signature_differences(signature("fd"), signature("fd", ref="imagenet256:ffffffff"))
    assert ref.is_decisive


def test_one_encoder_under_two_names_is_comparable() -> None:
    (enc,) = signature_differences(signature("fd", "random"), signature("fd", "random:0"))
    assert (enc.field, enc.is_decisive) == ("enc", False)
    found = signature_differences(signature("fd", "random"), signature("fd", "random:1", s="00000000"))
    assert [(d.field, d.is_decisive) for d in found] == [("enc", True)]


def test_an_unknown_field_is_decisive() -> None:
    (found,) = signature_differences(signature("fd"), signature("fd", zz="1"))
    assert found.is_decisive and (found.a, found.b) == ("not stated", "1") and "does not know" in found.meaning


def test_the_number_of_encoders_is_a_field() -> None:
    found = signature_differences("fdr_k:6|enc:a@1|n:5|v:1", "fdr_k:5|enc:a@1|n:5|v:1")
    assert [d.field for d in found] == ["k"]


def test_fields_to_allow_are_checked() -> None:
    assert check_fields(["n", "n", "v"]) == ("n", "v")
    with pytest.raises(InputError, match=r"Unknown field of a signature 'reff'; did you mean 'ref'.*n \(the number of"):
        check_fields(["reff"])


def test_rows_are_paired_by_metric_and_encoder_and_a_lone_pair_by_metric() -> None:
    a = report(row(), row("is", 200.0), row("fdr", 4.0))
    b = report(
        row(encoder="inception:clean", value=3.3, fields={"rs": "pil"}), row("is", 201.0), row("fdr_k", 1.0, None)
    )
    found = compare_reports(a, b)
    assert {(p.a.key, p.b.key) for p in found.pairs} == {
        ("is:inception", "is:inception"), ("fd:inception", "fd:inception:clean")
    }  # fmt: skip
    assert ([r.key for r in found.only_a], [r.key for r in found.only_b]) == (["fdr:inception"], ["fdr_k"])
    assert not found.is_comparable
    two = report(row(encoder="dinov2"), row(encoder="mae"))
    assert compare_reports(report(), two).pairs == ()
    assert not compare_reports(report(), two).is_comparable


def test_a_differing_spec_hash_is_explained_by_the_specs_of_the_reports() -> None:
    specs = [{"hash": h, "mean": [m], "std": [1.0], "weights_source": h} for h, m in (("1", 0.5), ("2", 0.0))]
    a = report(row(), run={"encoders": {"inception": specs[0]}})
    b = report(row(fields={"s": "00000000"}), run={"encoders": {"inception": specs[1]}})
    (difference,) = compare_reports(a, b).pairs[0].differences
    assert difference.meaning == "settings of the encoder: mean [0.5] and [0.0]"


@pytest.mark.parametrize("run", [{}, {"encoders": 3}, {"encoders": {"inception": []}}, "x"])
def test_a_report_without_specs_leaves_the_field_as_it_is(run) -> None:
    (difference,) = compare_reports(report(run=run), report(row(fields={"s": "00000000"}))).pairs[0].differences
    assert difference.meaning == MEANINGS["s"]


def test_usual_effects_are_told_in_the_direction_asked(effects) -> None:
    a, b = row(fields={"rs": "tf1-bilinear-299"}), row(fields={"rs": "bicubic-antialias-299"})
    forward = "\n".join(explanations(compare_reports(report(a), report(b)), effects))
    moved = "(both sides) moved FD of squeezenet by"
    assert f"tf1-bilinear -> bicubic-antialias {moved} +25.0 % (+20.0 to +25.0 %) on 900 photos" in forward
    assert "see the page" in forward
    back = "\n".join(explanations(compare_reports(report(b), report(a)), effects))
    assert "bicubic-antialias -> tf1-bilinear (both sides) moved FD of squeezenet by -20.0 % (-20.0 to -16.7 %)" in back


def test_other_values_of_a_measured_field_and_unmeasured_fields(effects) -> None:
    lines = "\n".join(explanations(compare_reports(report(), report(row(fields={"n": "7", "q": "none"}))), effects))
    assert "measured of other values: 50000 -> 5000 moved FD of inception by +10.0 % on drawings" in lines
    assert lines.count("has not been measured") == 1
    assert [e.encoder for e in usual_effect("n", "1", "2", "inception", effects)] == ["inception"]


def test_a_missing_table_is_no_effect_and_a_damaged_one_an_error(tmp_path: Path) -> None:
    assert load_effects(tmp_path / "nothing.toml") == ()
    for text in ("x = [", "[[effect]]\nfield = 'n'\n", "effect = 3\n"):
        (tmp_path / "bad.toml").write_text(text)
        with pytest.raises(RunError, match="is damaged"):
            load_effects(tmp_path / "bad.toml")


def test_the_table_that_ships_speaks_of_fields_of_signatures() -> None:
    effects = load_effects()
    assert {"rs", "crop", "q", "dt", "n"} <= {effect.field for effect in effects}
    assert {effect.field for effect in effects} <= {*MEANINGS, "jpeg", "pillow"}
    assert all(effect.low <= effect.median <= effect.high for effect in effects)
    found = usual_effect("rs", "tf1-bilinear-299", "bicubic-antialias-299", "inception", effects)
    assert found and all(effect.covers("tf1-bilinear-299", "bicubic-antialias-299") for effect in found)
