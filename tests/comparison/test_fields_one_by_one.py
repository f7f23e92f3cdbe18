"""Every field of a signature decides whether two numbers compare; and when two values of one number contradict."""

from __future__ import annotations

import pytest
from gate_worlds import report, row, signature

from fdr.comparison import compare_reports, contradict, match_sets, signature_differences
from fdr.comparison.comparability import MEANINGS
from fdr.comparison.effects import Effect, usual_effect
from fdr.errors import InputError
from fdr.metrics import METRICS, load_metrics
from fdr.metrics.registry import MetricInfo

INFORMATIVE = ("v", "ae", "z")
DECISIVE = [field for field in MEANINGS if field not in (*INFORMATIVE, "enc", "metric")]
"""Every field that may be added decides, unless it is listed above. A name alone is no difference ("enc")."""


@pytest.mark.parametrize("metric", METRICS)
def test_every_setting_of_a_metric_has_a_meaning(metric: str) -> None:
    assert set(load_metrics(metric)[metric].settings) <= set(MEANINGS)


@pytest.mark.parametrize("field", [*DECISIVE, *INFORMATIVE])
def test_a_field_that_differs_is_named_and_decides(field: str) -> None:
    a, b = signature("fd", **{field: "one"}), signature("fd", **{field: "two"})
    (found,) = signature_differences(a, b)
    assert (found.field, found.a, found.b, found.is_decisive) == (field, "one", "two", field in DECISIVE)
    pair = (
        compare_reports(report(row(fields={field: "one"})), report(row(fields={field: "two"})))
        if field != "n"
        else None
    )
    assert pair is None or pair.is_comparable is (field in INFORMATIVE)


def test_the_number_of_images_informs_where_the_metric_does_not_depend_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "sized", MetricInfo("sized", is_size_free=True))
    (free,) = signature_differences(signature("sized"), signature("sized", n="7"))
    (biased,) = signature_differences(signature("fd"), signature("fd", n="7"))
    assert (free.is_decisive, biased.is_decisive) == (False, True)


@pytest.mark.parametrize("field", ["w", "rs", "dt", "cm"])
def test_a_part_of_the_spec_stands_for_its_hash(field: str) -> None:
    found = signature_differences(signature("fd"), signature("fd", s="00000000", **{field: "two"}))
    assert [difference.field for difference in found] == [field]
    found = signature_differences(signature("fd"), signature("fd", s="00000000", q="two"))
    assert {difference.field for difference in found} == {"s", "q"}


@pytest.mark.parametrize(
    ("a", "b", "is_decisive"),
    [
        ("one:04e0a81f", "two:04e0a81f", False),
        ("one:04e0a81f", "one:04e0a810", True),
        ("one:04e0a81f", "04e0a81f", True),
        ("one:04e0", "two:04e0", True),  # too short for a digest: the end of a name such as imagenet256:jit
        ("imagenet256:jit", "imagenet512:jit", True),
    ],
)
def test_references_are_the_same_by_their_digest_alone(a: str, b: str, is_decisive: bool) -> None:
    (found,) = signature_differences(signature("fd", ref=a), signature("fd", ref=b))
    assert (found.field, found.is_decisive) == ("ref", is_decisive)


@pytest.mark.parametrize(
    ("fields", "a", "b", "is_contradiction"),
    [
        ({}, 100.0, 101.0, False),  # 1 % of the larger, in float32
        ({}, 100.0, 102.0, True),
        ({}, 102.0, 100.0, True),
        ({"dt": "float32"}, -100.0, -102.0, True),
        ({"dt": "bfloat16"}, 100.0, 111.0, False),  # 10 % in shorter types
        ({"dt": "bfloat16"}, 100.0, 112.0, True),
        ({}, 0.0, 1e-6, False),  # rounding near 0
        ({}, 0.0, 2e-6, True),
        ({"w": "unknown"}, 100.0, 200.0, False),
        ({"ae": "sd-vae"}, 100.0, 200.0, False),
    ],
)
def test_how_far_two_values_of_one_number_may_be_apart(fields, a: float, b: float, is_contradiction: bool) -> None:
    assert contradict(row(value=a, fields=fields), b) is is_contradiction


def test_a_dtype_that_is_not_stated_is_float32_and_weights_that_are_not_stated_are_unknown() -> None:
    stated = row(value=100.0)
    short = type(stated)(**{**vars(stated), "signature": stated.signature.replace("|dt:float32", "")})
    assert contradict(short, 102.0) and not contradict(short, 101.0)
    unknown = type(stated)(**{**vars(stated), "signature": stated.signature.replace("|w:aaaaaaaa", "")})
    assert not contradict(unknown, 200.0)


@pytest.mark.parametrize("metric", ["precision", "recall", "precision:adm"])
def test_two_images_may_change_sides_of_the_smaller_set(metric: str) -> None:
    small = row(metric, 0.5, fields={"n": "40"}, reference_count=100)
    assert not contradict(small, 0.549) and contradict(small, 0.551)
    few = row(metric, 0.5, fields={"n": "100"}, reference_count=20)
    assert not contradict(few, 0.599) and contradict(few, 0.601)
    assert contradict(row("fd", 0.5, fields={"n": "40"}, reference_count=40), 0.51)


def same_images(value: float, **facts: object):
    return report(row(value=value), facts={"digest": "d" * 64} | facts)


def test_a_contradiction_needs_the_same_pixels_and_equal_signatures() -> None:
    assert compare_reports(same_images(3.0), same_images(6.0)).pairs[0].is_contradiction
    assert not compare_reports(same_images(3.0), same_images(3.0)).pairs[0].is_contradiction
    assert not compare_reports(same_images(3.0), same_images(6.0, digest="e" * 64)).pairs[0].is_contradiction
    assert not compare_reports(report(row(value=3.0)), report(row(value=6.0))).pairs[0].is_contradiction
    made = compare_reports(same_images(3.0, made_by="x"), same_images(6.0, made_by="x"))
    assert made.are_same_samples and not made.pairs[0].is_contradiction  # a generator may differ slightly elsewhere
    changed = report(row(value=6.0, fields={"v": "9"}), facts={"digest": "d" * 64})
    assert not compare_reports(same_images(3.0), changed).pairs[0].is_contradiction


def test_change_is_b_less_a_and_relative_to_a() -> None:
    (pair,) = compare_reports(report(row(value=-4.0, stderr=0.3)), report(row(value=-1.0, stderr=0.4))).pairs
    assert (pair.change, pair.relative_change, pair.noise) == (3.0, 0.75, pytest.approx(0.5))
    (pair,) = compare_reports(report(row(value=0.0)), report(row(value=2.0))).pairs
    assert pair.relative_change is None and pair.noise is None


def test_a_lone_metric_is_paired_only_if_it_is_alone_on_both_sides() -> None:
    one, two = report(row(encoder="a")), report(row(encoder="b"), row(encoder="c"))
    assert not compare_reports(one, two).pairs and not compare_reports(two, one).pairs
    (pair,) = compare_reports(one, report(row(encoder="b"))).pairs
    assert (pair.a.key, pair.b.key) == ("fd:a", "fd:b")


def test_sets_are_matched_by_name_unless_there_is_one_on_each_side() -> None:
    assert match_sets(["a"], ["b"], "x") == {"a": "b"}
    assert match_sets(["a"], ["b", "a"], "x") == {"a": "a"}
    for ours, theirs in ((["a"], ["b", "c"]), (["a", "b"], ["a"])):
        with pytest.raises(InputError, match="Unknown sample set in x"):
            match_sets(ours, theirs, "x")


def effect(encoder: str, before: str = "u8", after: str = "none", field: str = "q") -> Effect:
    return Effect(field, before, after, encoder, 0.25, 0.0, 1.0, "photos")


def test_a_reversed_effect_undoes_the_change() -> None:
    back = effect("a").reversed()
    assert (back.before, back.after) == ("none", "u8")
    assert (back.median, back.low, back.high) == (pytest.approx(-0.2), -0.5, 0.0)  # 1 / 1.25, 1 / 2 and 1 / 1, less 1


def test_exact_effects_come_before_others_and_the_own_encoder_first() -> None:
    table = (effect("a"), effect("b", "none", "u8"), effect("c", "x", "y"), effect("b", field="n"))
    assert [(e.encoder, e.before) for e in usual_effect("q", "u8", "none", "b", table)] == [("b", "u8"), ("a", "u8")]
    assert [e.encoder for e in usual_effect("q", "p", "r", "c", table)] == ["c", "a", "b"]
    assert usual_effect("crop", "p", "r", "c", table) == ()


def test_a_size_may_follow_a_label_and_nothing_else() -> None:
    bilinear = effect("a", "bilinear", "bicubic", "rs")
    assert bilinear.covers("bilinear-299", "bicubic") and not bilinear.covers("bilinear2", "bicubic")
    assert not bilinear.covers("bicubic", "bilinear")


@pytest.mark.parametrize("key", ["model", "weights", "resize", "size", "mean", "dtype", "output", "crop"])
def test_every_setting_of_two_specs_that_differs_is_named(key: str) -> None:
    specs = [{"name": h, "hash": h, "weights_source": h, key: h, "same": 1} for h in ("x1", "x2")]
    a = report(row(), run={"encoders": {"inception": specs[0]}})
    b = report(row(fields={"s": "00000000"}), run={"encoders": {"inception": specs[1]}})
    (found,) = compare_reports(a, b).pairs[0].differences
    assert found.meaning == f"settings of the encoder: {key} x1 and x2"
