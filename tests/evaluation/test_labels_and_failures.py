"""What a metric may declare beside features: labels, a training set; and what is left when one of several fails."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generator_worlds import Classes, generator
from PIL import Image
from thread_ranks import on_ranks
from worlds import TinyEncoder, images, npz

import fdr
from fdr.cli import main
from fdr.errors import InputError, RunError
from fdr.evaluation import Evaluator, evaluate
from fdr.features import ExtractionOptions
from fdr.gate import GateOptions, judge
from fdr.generators import GeneratorSource
from fdr.images import ImageOptions, open_images
from fdr.metrics import METRICS, CollectedFeatures, Context, Labelled, Metric, Score
from fdr.metrics.registry import MetricInfo
from fdr.reports import Report, load_reports, parse_signature
from fdr.runtime import SOLO, Group

NUM_CLASSES = 3
seen: dict[str, Any] = {}


def features_of(array: np.ndarray) -> np.ndarray:
    return TinyEncoder()(torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255)["features"].numpy()


def remember(samples: Labelled, reference: Labelled, context: Context) -> Score:
    seen.update(samples=samples, reference=reference)
    return Score(float(samples.labels.sum()))


def distance_to_training(samples: np.ndarray, reference: np.ndarray, context: Context) -> Score:
    seen.update(training=context.training)
    return Score(float(np.abs(samples.mean(0) - context.training.mean(0)).sum()))


def fails(samples: np.ndarray, reference: np.ndarray, context: Context) -> Score:
    raise InputError("This metric never works; leave it out.")


def infinite(samples: np.ndarray, reference: np.ndarray, context: Context) -> Score:
    return Score(1.0, details={"part": float("nan")})


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = types.ModuleType("fdr.metrics.made_up")
    module.LABELS = Metric(remember, CollectedFeatures, labels=("samples", "reference"))  # type: ignore[attr-defined]
    module.TRAINING = Metric(  # type: ignore[attr-defined]
        distance_to_training, CollectedFeatures, needs_training_set=True
    )
    module.FAILS = Metric(fails, CollectedFeatures)  # type: ignore[attr-defined]
    module.INFINITE = Metric(infinite, CollectedFeatures)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fdr.metrics.made_up", module)
    for name in ("labels", "training", "fails", "infinite"):
        info = MetricInfo(name.title(), f"fdr.metrics.made_up:{name.upper()}")
        monkeypatch.setitem(METRICS, name, info)
    seen.clear()
    yield


def class_folders(path: Path, array: np.ndarray, labels: np.ndarray, bad: tuple[int, ...] = ()) -> Path:
    for index, (image, label) in enumerate(zip(array, labels, strict=True)):
        place = path / f"class {'abc'[label]}" / f"{index:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)
        if index in bad:
            place.write_bytes(b"no image")
    return path


def expected_pairs(array: np.ndarray, labels: np.ndarray, bad: tuple[int, ...] = ()) -> set[tuple[bytes, int]]:
    rows = features_of(array)
    return {(rows[i].round(3).tobytes(), int(labels[i])) for i in range(len(rows)) if i not in bad}


def found_pairs(side: Labelled) -> set[tuple[bytes, int]]:
    return {(row.round(3).tobytes(), int(c)) for row, c in zip(side.collected, side.labels, strict=True)}


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("count", [None, 30])
@pytest.mark.filterwarnings("ignore:.*shards of the feature cache")
def test_labels_stay_with_their_images_through_bad_ones_ranks_subsets_and_a_warm_cache(
    tmp_path: Path, size: int, count: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fdr.features.extraction.SHARD_SIZE", 8)
    array, labels = images(40, seed=1), np.arange(40) % NUM_CLASSES
    bad = (3, 17, 38)
    samples = class_folders(tmp_path / "samples", array, labels, bad)
    real = npz(tmp_path / "real.npz", images(20), arr_1=np.arange(20) % NUM_CLASSES)

    def run(group: Group) -> Report:
        options = ImageOptions(on_bad="skip", max_bad=0.2, count=count, seed=5)
        return evaluate(
            samples, real, TinyEncoder(), "labels", image_options=options, cache=tmp_path / f"c{size}", batch_size=3,
            group=group,
        )  # fmt: skip

    whole = expected_pairs(array, labels, bad)
    for _ in ("cold", "warm"):
        seen.clear()
        report = on_ranks(size, run)[0]
        pairs = found_pairs(seen["samples"])
        assert pairs == whole if count is None else pairs < whole
        assert len(pairs) == report.samples["count"] == (count or 40) - len(report.samples["skipped"])
        assert found_pairs(seen["reference"]) == expected_pairs(images(20), np.arange(20) % NUM_CLASSES)
    assert seen["samples"].class_names == ("class a", "class b", "class c")
    assert seen["reference"].class_names is None
    assert report.samples["labels_from"] == "class folders"
    assert report.reference is not None and report.reference["labels_from"] == "arr_1"


@pytest.mark.filterwarnings("default:The samples are 4 x 4 pixels:fdr.errors.FdrWarning")
def test_a_generator_gives_the_labels_that_it_was_asked_for(tmp_path: Path) -> None:
    source = GeneratorSource(generator(Classes), 12, seed=3, labels="random", batch_size=4)
    real = npz(tmp_path / "real.npz", images(20), arr_1=np.arange(20) % NUM_CLASSES)
    evaluate(source, real, TinyEncoder(), "labels")
    assert seen["samples"].labels.tolist() == source.labels_at(0, 12).tolist()  # type: ignore[union-attr]


def test_the_classes_of_the_reference_are_in_the_signature_of_what_used_them(tmp_path: Path) -> None:
    samples = npz(tmp_path / "s.npz", images(20, seed=1), arr_1=np.arange(20) % 2)
    found = []
    for labels in (np.arange(20) % 2, np.arange(20) // 10):
        real = npz(tmp_path / "r.npz", images(20), arr_1=labels)
        report = evaluate(samples, real, TinyEncoder(), "labels,fd")
        assert "lab" not in parse_signature(report["fd"].signature).fields
        found.append(parse_signature(report["labels"].signature).fields["lab"])
    assert len(set(found)) == 2 and all(len(digest) == 8 for digest in found)


@pytest.mark.parametrize("missing", ["samples", "reference"])
def test_without_labels_nothing_is_measured_and_the_sentence_names_the_set(tmp_path: Path, missing: str) -> None:
    labels = {"arr_1": np.arange(20) % 2}
    samples = npz(tmp_path / "s.npz", images(20, seed=1), **({} if missing == "samples" else labels))
    real = npz(tmp_path / "r.npz", images(20), **({} if missing == "reference" else labels))
    encoder = TinyEncoder()
    name = {"samples": r"every sample, and s\.npz", "reference": r"every reference image, and r\.npz"}[missing]
    with pytest.raises(InputError, match=f"'labels' needs the class of {name} has no labels; give .* arr_1"):
        evaluate(samples, real, encoder, "fd,labels")
    assert encoder.num_seen == 0


# A training set


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path, Path]:
    return tuple(npz(tmp_path / f"{n}.npz", images(20 + s, seed=s)) for s, n in enumerate("srt"))  # type: ignore


def test_a_training_set_is_measured_and_in_the_signature_of_the_metrics_that_used_it(
    tmp_path: Path, sets: tuple[Path, Path, Path]
) -> None:
    samples, real, training = sets
    encoder = TinyEncoder()
    report = evaluate(samples, real, encoder, "fd,training", training_set=training, cache=tmp_path / "c")
    np.testing.assert_allclose(seen["training"], features_of(images(22, seed=2)), rtol=1e-5)
    assert report.training_set is not None and report.training_set["name"] == "t.npz"
    digest = open_images(training).digest
    assert report.training_set["digest"] == digest and report.training_set["count"] == 22
    assert parse_signature(report["training"].signature).fields["train"] == f"t.npz:{str(digest)[:8]}"
    assert "train" not in parse_signature(report["fd"].signature).fields
    assert Report.from_dict(report.to_dict()).to_dict() == report.to_dict()
    again = TinyEncoder()
    evaluate(samples, real, again, "fd,training", training_set=training, cache=tmp_path / "c")
    assert encoder.num_seen == 20 + 21 + 22 and again.num_seen == 0, "the cache keeps its features as well"


def test_a_training_set_is_asked_for_and_must_be_images(tmp_path: Path, sets: tuple[Path, Path, Path]) -> None:
    samples, real, _ = sets
    with pytest.raises(InputError, match="'training' compares with the images that the model was trained on"):
        evaluate(samples, real, TinyEncoder(), "training")
    np.savez(tmp_path / "m.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(InputError, match="is statistics, and metrics need its images"):
        evaluate(samples, real, TinyEncoder(), "training", training_set=tmp_path / "m.npz")
    assert evaluate(samples, real, TinyEncoder(), "fd", training_set="not read").training_set is None


# A metric fails


@pytest.mark.filterwarnings("default:.*could not be computed:fdr.errors.FdrWarning")
def test_numbers_that_finished_are_reported_and_the_others_are_named(sets: tuple[Path, Path, Path]) -> None:
    samples, real, _ = sets
    with pytest.warns(fdr.errors.FdrWarning, match="fails:tiny could not be computed: This metric never works"):
        report = evaluate(samples, real, TinyEncoder(), "fails,fd,infinite")
    assert [result.metric for result in report] == ["fd"]
    assert [(one.key, one.sentence[:26]) for one in report.failed] == [
        ("fails:tiny", "This metric never works; l"), ("infinite:tiny", "infinite:tiny came out as "),
    ]  # fmt: skip
    with pytest.raises(InputError, match="fails:tiny could not be computed: This metric never works"):
        report["fails"]
    assert Report.from_dict(json.loads(report.to_json())).failed == report.failed
    assert "fails:tiny of s.npz failed: This metric" in report.to_markdown()
    assert "Failed" not in report.to_csv()


def test_what_cannot_be_collected_fails_alone(sets: tuple[Path, Path, Path], tmp_path: Path) -> None:
    few = npz(tmp_path / "few.npz", images(6, seed=4))
    evaluator = Evaluator(
        TinyEncoder(), sets[1], "fd,is", image_options=ImageOptions(), encoder_options=fdr.encoders.EncoderOptions(),
        extraction_options=ExtractionOptions(),
    )  # fmt: skip
    report = evaluator.evaluate(few)
    assert [r.key for r in report] == ["fd:tiny"] and [f.key for f in report.failed] == ["is:tiny"]
    assert "needs at least 10 images" in report.failed[0].sentence
    with pytest.raises(InputError, match="needs at least 10 images"):
        evaluate(few, sets[1], TinyEncoder(), "is")  # nothing else is lost, so it is an error as ever


def test_a_derived_number_fails_with_its_source(
    sets: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fdr.evaluation import write_reference

    two = [TinyEncoder("one"), TinyEncoder("two", 5, "seed:22")]
    write_reference(open_images(sets[1]), two, tmp_path / "stats", validation=open_images(sets[2]))

    def fd_of_one(samples: Any, reference: Any, context: Context) -> Score:
        if len(samples.mu) == 5:
            raise RunError("There is not enough memory.")
        return Score(2.0)

    module = sys.modules["fdr.metrics.made_up"]
    module.FD = Metric(fd_of_one)  # type: ignore[attr-defined]
    info = MetricInfo("FD", "fdr.metrics.made_up:FD", is_distance=True, ratio="fdr")
    monkeypatch.setitem(METRICS, "fd", info)
    with pytest.warns(fdr.errors.FdrWarning):
        report = evaluate(sets[0], tmp_path / "stats", two)
    assert [r.key for r in report] == ["fd:one", "fdr:one"]
    assert {f.key: f.sentence for f in report.failed} == {
        "fd:two": "There is not enough memory.",
        "fdr:two": "It is computed from fd:two, which failed.",
        "fdr_k": "It is computed from fdr:two, which failed.",
    }


def test_every_rank_gets_the_failure(sets: tuple[Path, Path, Path]) -> None:
    def run(group: Group) -> Report:
        evaluator = Evaluator(
            TinyEncoder(), sets[1], "fails,fd", image_options=ImageOptions(),
            encoder_options=fdr.encoders.EncoderOptions(), extraction_options=ExtractionOptions(group=group),
        )  # fmt: skip
        return evaluator.evaluate(sets[0])

    for report in on_ranks(2, run):
        assert [r.key for r in report] == ["fd:tiny"] and [f.key for f in report.failed] == ["fails:tiny"]
    assert run(SOLO)["fd"].value > 0


def test_the_gate_takes_a_failed_number_as_not_measured(sets: tuple[Path, Path, Path]) -> None:
    with pytest.warns(fdr.errors.FdrWarning):
        report = evaluate(sets[0], sets[1], TinyEncoder(), "fails,fd")
    verdict = judge([report], GateOptions.parse(["fails=3", "fd=1000"]))
    assert (verdict.result, verdict.exit_code) == ("incomplete", 2)
    assert len(verdict.checks) == 1 and "not measured (This metric never works" in verdict.missing[0].if_missing
    assert judge([report], GateOptions.parse(["fails=3", "fd=1000"], allow_missing=True)).exit_code == 0
    unlimited = judge([report], GateOptions.parse(["fd=1000"]))
    assert unlimited.exit_code == 0 and any("fails:tiny could not be computed" in text for text in unlimited.warnings)


def test_the_command_reports_the_rest_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples, real = npz(tmp_path / "s.npz", images(20, seed=1)), npz(tmp_path / "r.npz", images(20))
    out = tmp_path / "out.json"
    with pytest.raises(SystemExit) as ended:
        main(
            ["eval", str(samples), "--ref", str(real), "--reps", "random", "--metrics", "fd,fails", "--json", str(out)]
        )
    assert ended.value.code == 1
    shown = capsys.readouterr()
    assert "fdr: error: fails:random of s.npz could not be computed: This metric never works" in shown.err
    assert "failed" in shown.out and "Fails ↓" in shown.out
    assert [one.key for one in load_reports(out)[0].failed] == ["fails:random"]


def test_sample_sets_before_an_error_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples, real = npz(tmp_path / "s.npz", images(20, seed=1)), npz(tmp_path / "r.npz", images(20))
    torn = tmp_path / "torn"
    class_folders(torn, images(4), np.zeros(4, int), bad=(1,))
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(samples), str(torn), "--ref", str(real), "--reps", "random"])
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert "s.npz" in shown.out and "cannot be used" in shown.err


def test_a_report_with_a_failure_is_checked(sets: tuple[Path, Path, Path]) -> None:
    with pytest.warns(fdr.errors.FdrWarning):
        data = evaluate(sets[0], sets[1], TinyEncoder(), "fails,fd").to_dict()
    for change, sentence in (
        ({"sentence": 3}, "sentence of failed number 1"), ({"metric": "fd"}, "among the numbers that failed"),
        ({"signature": "x"}, "a signature as fdr writes it"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            Report.from_dict({**data, "failed": [{**data["failed"][0], **change}]})
