"""FDr^k of the encoders that the generator was trained on, and of the held-out ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from generator_worlds import Plain, seeded
from worlds import TinyEncoder, folder, images

import fdr
from fdr.cli._render import report_table
from fdr.errors import InputError
from fdr.evaluation import write_reference
from fdr.evaluation.held_out import encoder_groups, encoders_trained_on, named_encoders
from fdr.gate import GateOptions, judge
from fdr.generators import GeneratorSource, load_generator, sample_set, save_generator, write_samples
from fdr.images import open_images
from fdr.reports import Report, parse_signature

SAMPLES = images(50, seed=1)
ENCODERS = [TinyEncoder("one"), TinyEncoder("two", 5, "seed:22"), TinyEncoder("three", 7, "seed:333")]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stats") / "real"
    validation = open_images(images(40, seed=7))
    write_reference(open_images(images(60)), ENCODERS, folder, validation=validation)
    return folder


def means(report: Report) -> dict[str, tuple[str, ...] | None]:
    return {row.metric: row.encoders for row in report if row.metric.startswith("fdr_k")}


def test_both_groups_have_the_mean_of_their_own_ratios(reference: Path) -> None:
    report = fdr.evaluate(SAMPLES, reference, ENCODERS, trained_on="two")
    assert means(report) == {
        "fdr_k": ("one", "two", "three"), "fdr_k:trained": ("two",), "fdr_k:held_out": ("one", "three")
    }  # fmt: skip
    ratio = {row.encoder: row.value for row in report if row.metric == "fdr"}
    assert report["fdr_k:trained"].value == pytest.approx(ratio["two"], rel=1e-15)
    assert report["fdr_k:held_out"].value == pytest.approx((ratio["one"] + ratio["three"]) / 2, rel=1e-15)
    assert report["fdr_k:held_out"].details == {"fdr": {"one": ratio["one"], "three": ratio["three"]}}
    assert report["fdr_k:held_out"].k == 2 and report.run["trained_on"] == ["two"]
    assert Report.from_dict(report.to_dict()) == report
    signed = parse_signature(report["fdr_k:held_out"].signature)
    assert (signed.metric, signed.value("k")) == ("fdr_k:held_out", "2")
    assert [part.split("@")[0] for part in str(signed.value("enc")).split("+")] == ["one", "three"]
    _, rows = report_table([report])
    assert [row[1] for row in rows[3:]] == [
        "FDr^3 (mean of 3)", "FDr^1 trained on (mean of 1)", "FDr^2 held out (mean of 2)"
    ]  # fmt: skip


def test_nothing_is_split_where_nothing_says_what_was_trained_on(reference: Path) -> None:
    report = fdr.evaluate(SAMPLES, reference, ENCODERS)
    assert list(means(report)) == ["fdr_k"] and "trained_on" not in report.run
    split = fdr.evaluate(SAMPLES, reference, ENCODERS, trained_on=["one"])
    assert split["fdr_k"] == report["fdr_k"], "the split changes no other number"


@pytest.mark.parametrize(("names", "found"), [
    (["one", "two", "three"], ["fdr_k", "fdr_k:trained"]),
    ("random", ["fdr_k", "fdr_k:held_out"]),
])  # fmt: skip
def test_a_group_without_encoders_has_no_row(reference: Path, names: Any, found: list[str]) -> None:
    assert list(means(fdr.evaluate(SAMPLES, reference, ENCODERS, trained_on=names))) == found


def test_a_misspelt_name_is_an_error_before_anything_is_measured(reference: Path) -> None:
    seen = [encoder.num_seen for encoder in ENCODERS]
    with pytest.raises(InputError, match=r"Unknown encoder 'incepton'; did you mean 'inception'"):
        fdr.evaluate(SAMPLES, reference, ENCODERS, trained_on="one,incepton")
    assert [encoder.num_seen for encoder in ENCODERS] == seen


def test_names_are_those_of_bundles_and_of_encoders_of_ones_own() -> None:
    assert named_encoders("mine, fdr6", ["mine"]) == (
        "mine", *("inception:fdloss", "convnext", "dinov2", "mae", "siglip", "clip")
    )  # fmt: skip
    assert named_encoders(["mine", "mine"], ["mine"]) == ("mine",)
    with pytest.raises(InputError, match="No encoder was named"):
        named_encoders(" ,", [])


def test_limits_name_a_group(reference: Path) -> None:
    report = fdr.evaluate(SAMPLES, reference, ENCODERS, trained_on="two")
    value = report["fdr_k:held_out"].value
    for bound, result in ((value * 10, "pass"), (value / 10, "fail")):
        options = GateOptions.parse([f"fdr_k:held_out={bound!r}"], [], [], [], "value", False)
        assert judge([report], options, None).result == result


def specs(**weights: str) -> dict[str, Any]:
    return {name.replace("_", ":"): replace(ENCODERS[0].spec, name=name, weights=of) for name, of in weights.items()}


def test_the_same_weights_with_another_resize_are_not_held_out() -> None:
    inception = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
    measured = specs(inception=inception, inception_clean=inception, mine="unknown", other="unknown")
    assert dict(encoder_groups(measured, ["inception:fdloss"])) == {
        "trained": ("inception", "inception:clean"), "held_out": ("mine", "other")
    }  # fmt: skip
    assert dict(encoder_groups(measured, ["mine"]))["trained"] == ("mine",), (
        "two unknown digests are not the same weights"
    )
    assert dict(encoder_groups(specs(a="seed:1", b="seed:2", c="seed:1"), ["a"])) == {
        "trained": ("a", "c"),
        "held_out": ("b",),
    }


def source(made_by: Any, trained_on: Any = None) -> Any:
    return SimpleNamespace(made_by=made_by, trained_on=trained_on)


@pytest.mark.parametrize(("made_by", "given", "found"), [
    (None, None, None),
    ({"seed": 0}, None, None),
    ({"trained_on": ["a"]}, None, ("a",)),
    ({"trained_on": ["a"]}, ("b",), ("b",)),
    (None, ("b",), ("b",)),
    ({"trained_on": []}, None, ()),
])  # fmt: skip
def test_the_user_overrides_what_the_samples_say(made_by: Any, given: Sequence[str] | None, found: Any) -> None:
    assert encoders_trained_on(source(made_by), given) == found
    if made_by is None:
        assert encoders_trained_on(source(None, ("c",)), given) == given or ("c",)


@pytest.mark.filterwarnings("ignore:The samples are 8 x 8 pixels:fdr.errors.FdrWarning")
@pytest.mark.parametrize("name", ["a.npz", "pngs"])
def test_files_of_samples_say_what_their_generator_was_trained_on(tmp_path: Path, reference: Path, name: str) -> None:
    torch.save(seeded().state_dict(), tmp_path / "w.pt")
    made = load_generator(tmp_path / "w.pt", "generator_worlds:Plain")
    made.trained_on = ("two",)
    write_samples(sample_set(GeneratorSource(made, 50), tmp_path / name))
    assert open_images(tmp_path / name).trained_on == ("two",)
    report = fdr.evaluate(tmp_path / name, reference, ENCODERS)
    assert means(report)["fdr_k:held_out"] == ("one", "three") and report.run["trained_on"] == ["two"]
    other = fdr.evaluate(tmp_path / name, reference, ENCODERS, trained_on="one")
    assert other.run["trained_on"] == ["one"]


@pytest.mark.parametrize("text", ["{", "3", '{"trained_on": ["a"]}', '{"generator": "g", "trained_on": [3]}', "{}"])
def test_a_statement_that_is_none_is_left_alone(tmp_path: Path, text: str) -> None:
    folder(tmp_path / "a", images(3))
    (tmp_path / "a" / "samples.json").write_text(text)
    assert open_images(tmp_path / "a").trained_on is None


def test_a_run_folder_keeps_what_its_generator_was_trained_on(tmp_path: Path) -> None:
    torch.save(seeded().state_dict(), tmp_path / "w.pt")
    made = load_generator(tmp_path / "w.pt", "generator_worlds:Plain")
    save_generator(tmp_path / "run", made)
    assert "trained_on" not in json.loads((tmp_path / "run" / "generator.json").read_text())
    for trained_on in (("a", "b"), ()):
        made.trained_on = trained_on
        save_generator(tmp_path / "run", made)
        assert load_generator(tmp_path / "run", trust=True).trained_on == trained_on
    index = json.loads((tmp_path / "run" / "generator.json").read_text())
    for odd in ("inception", [3], {"a": 1}):
        (tmp_path / "run" / "generator.json").write_text(json.dumps({**index, "trained_on": odd}))
        with pytest.raises(InputError, match=r"is not what fdr writes .*trained_on"):
            load_generator(tmp_path / "run", trust=True)


@pytest.mark.filterwarnings("default:The samples hardly vary:fdr.errors.FdrWarning")
def test_reports_of_a_generator_say_what_it_was_trained_on(reference: Path) -> None:
    torch.manual_seed(0)
    generator = load_generator(Plain(side=16), noise_shape=(8,))
    made = [fdr.evaluate(generator, reference, ENCODERS, num_images=20)]
    assert "trained_on" not in made[0].samples["made_by"] and list(means(made[0])) == ["fdr_k"]
    generator.trained_on = ("one", "gone")
    made.append(fdr.evaluate(generator, reference, ENCODERS, num_images=20))
    assert made[1].samples["made_by"]["trained_on"] == made[1].run["trained_on"] == ["one", "gone"]
    assert means(made[1])["fdr_k:held_out"] == ("two", "three")
    assert made[0]["fdr_k"].value == made[1]["fdr_k"].value
    assert made[0].samples["digest"] == made[1].samples["digest"], "provenance is no part of the samples"
