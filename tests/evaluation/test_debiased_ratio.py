"""FDr of debiased FDs: a debiased numerator over a debiased denominator, or none."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from worlds import TinyEncoder, images, npz

import fdr
from fdr.evaluation import write_reference
from fdr.frechet import LeverageCurve, Moments, ValidationFD
from fdr.images import open_images
from fdr.metrics import Score, load_metrics, ratio_score
from fdr.references import NoiseFloor, find_reference, moments_digest
from fdr.reports import Report, parse_signature

ENCODERS = [TinyEncoder("one"), TinyEncoder("two", 5, "seed:22")]
SAMPLES = images(150, seed=1, side=8)
REAL, VALIDATION = images(200, side=8), images(150, seed=7, side=8) // 2

pytestmark = [
    pytest.mark.filterwarnings(r"default:\d+ of \d+ :fdr.errors.FdrWarning"),
    pytest.mark.filterwarnings("default:The samples hold equally many:fdr.errors.FdrWarning"),
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stats") / "real"
    write_reference(open_images(REAL), ENCODERS, folder, validation=open_images(VALIDATION), noise_floor=True)
    return folder


@pytest.fixture(scope="module")
def report(reference: Path) -> Report:
    return fdr.evaluate(SAMPLES, reference, ENCODERS, "fd,fd_debiased", trained_on="two")


def test_both_sides_of_the_ratio_are_debiased(report: Report, reference: Path) -> None:
    for encoder in ENCODERS:
        name = encoder.spec.name
        stated = Moments.load(reference / f"{name}.h5").attributes
        below, error = float(stated["val_fd_debiased"]), float(stated["val_fd_debiased_stderr"])
        fd, ratio = report["fd_debiased", name], report["fdr_debiased", name]
        assert ratio.value == pytest.approx(fd.value / below, rel=1e-12)
        assert ratio.stderr == pytest.approx(math.hypot(fd.stderr or 0, ratio.value * error) / below, rel=1e-12)
        assert (ratio.details["val_fd"], ratio.details["val_fd_stderr"]) == (below, error)
        assert parse_signature(ratio.signature).value("val") == f"{below:.6g}"
        raw = report["fdr", name]
        assert raw.details["val_fd"] == stated["val_fd"] and raw.details["val_fd"] != below
        assert parse_signature(raw.signature).value("val") == f"{float(stated['val_fd']):.6g}"
    assert Report.from_dict(report.to_dict()) == report


def test_means_are_of_the_debiased_ratios(report: Report) -> None:
    ratios = {row.encoder: row for row in report if row.metric == "fdr_debiased"}
    mean = report["fdr_debiased_k"]
    assert mean.value == pytest.approx((ratios["one"].value + ratios["two"].value) / 2, rel=1e-12)
    assert mean.stderr == pytest.approx(((ratios["one"].stderr or 0) + (ratios["two"].stderr or 0)) / 2, rel=1e-12)
    assert mean.details == {"fdr_debiased": {name: row.value for name, row in ratios.items()}}
    assert report["fdr_debiased_k:held_out"].encoders == ("one",)
    assert report["fdr_debiased_k:trained"].value == ratios["two"].value
    signed = parse_signature(mean.signature)
    assert (signed.metric, signed.value("k")) == ("fdr_debiased_k", "2")
    assert signed.value("ref") != parse_signature(report["fdr_k"].signature).value("ref"), "other denominators"


def test_the_noise_floor_stands_beside_fd(report: Report, reference: Path) -> None:
    floor = NoiseFloor.of(Moments.load(reference / "one.h5").attributes)
    for metric in ("fd", "fd_debiased"):
        assert f"noise floor of the reference: {floor}" in report[metric, "one"].notes
    assert not any("noise floor" in note for row in report if row.metric.startswith("fdr") for note in row.notes)


def with_attributes(reference: Path, tmp_path: Path, **changed: float | None) -> Path:
    """The reference of encoder "one", with other attributes; None leaves one out."""
    moments = Moments.load(reference / "one.h5")
    attributes = {**moments.attributes, **changed}
    known = {name: value for name, value in attributes.items() if value is not None}
    replace(moments, attributes=known).save(tmp_path / "s.h5")
    return tmp_path / "s.h5"


@pytest.mark.parametrize(("changed", "sentence"), [
    ({"val_fd_debiased": None}, "no debiased FDr: the validation FD of the reference is raw, and a debiased FD"),
    ({"val_fd_debiased": 0.5, "val_fd_debiased_stderr": 0.25}, "reference is 0.5 ± 0.25, which is consistent with 0"),
    ({"val_fd_debiased": -0.5, "val_fd_debiased_stderr": 0.01}, "which is consistent with 0"),
    ({"val_fd_debiased": None, "val_fd": None}, None),
])  # fmt: skip
def test_there_is_no_ratio_without_a_denominator_of_its_kind(
    reference: Path, tmp_path: Path, changed: dict[str, float | None], sentence: str | None
) -> None:
    found = fdr.evaluate(SAMPLES, with_attributes(reference, tmp_path, **changed), ENCODERS[0], "fd,fd_debiased")
    names = {row.metric for row in found}
    assert "fdr_debiased" not in names and ("fdr" in names) == ("val_fd" not in changed)
    notes = [note for note in found["fd_debiased"].notes if note.startswith("no debiased FDr")]
    assert len(notes) == (sentence is not None) and all(str(sentence) in note for note in notes)
    assert not any("debiased FDr" in note for note in found["fd"].notes)


def test_the_signature_changes_with_all_that_the_debiased_fd_depends_on(reference: Path) -> None:
    """Field by field: count and curve change the signature of the debiased FD, and leave that of FD as it is."""
    moments = Moments.load(reference / "one.h5")
    curve = moments.curve
    assert curve is not None and moments.count is not None
    h, kappa = curve.h.copy(), curve.kappa.copy()
    h[3] *= 1 + 1e-12
    kappa[3] *= 1 + 1e-12
    changed = {
        "same": moments,
        "count": replace(moments, count=moments.count + 1),
        "h": replace(moments, curve=LeverageCurve(h, curve.kappa)),
        "kappa": replace(moments, curve=LeverageCurve(curve.h, kappa)),
        "no curve": replace(moments, curve=None),
        "neither": replace(moments, curve=None, count=None),
    }
    signed: dict[str, set[str]] = {}
    for name, found in changed.items():
        report = fdr.evaluate(SAMPLES, found, ENCODERS[0], "fd,fd_debiased")
        signed.setdefault("fd", set()).add(report["fd"].signature)
        signed.setdefault("fd_debiased", set()).add(report["fd_debiased"].signature)
        kind = parse_signature(report["fd_debiased"].signature).value("rb")
        assert str(kind).split("-")[0] == {"no curve": "gaussian", "neither": "exact"}.get(name, "curve")
    assert (len(signed["fd"]), len(signed["fd_debiased"])) == (1, len(changed))
    assert {find_reference(found, ENCODERS[0]).digest for found in changed.values()} == {moments_digest(moments)}


def test_the_signature_of_a_debiased_mean_covers_the_curves(reference: Path, tmp_path: Path) -> None:
    signed = set()
    for name in ("with", "without"):
        parts = {}
        for encoder in ENCODERS:
            moments = Moments.load(reference / f"{encoder.spec.name}.h5")
            parts[encoder.spec.name] = tmp_path / f"{name}-{encoder.spec.name}.h5"
            replace(moments, curve=moments.curve if name == "with" else None).save(parts[encoder.spec.name])
        report = fdr.evaluate(SAMPLES, parts, ENCODERS, "fd_debiased")
        signed.add(report["fdr_debiased_k"].signature)
    assert len(signed) == 2


def test_a_reference_gives_both_denominators(reference: Path) -> None:
    found = find_reference(reference, ENCODERS[0])
    assert found.val_fd is not None and found.val_fd_debiased is not None
    assert found.val_fd.stderr is None and found.val_fd_debiased.stderr is not None
    assert (found.val_fd.source, found.val_fd_debiased.source) == ("exact, from one.h5", "debiased, from one.h5")


def test_what_is_above_zero() -> None:
    assert ValidationFD(1.0, None, "x", 0.49).is_above_zero and not ValidationFD(1.0, None, "x", 0.5).is_above_zero
    assert ValidationFD(0.01, 2, "x").is_above_zero and not ValidationFD(-1.0, None, "x", 0.1).is_above_zero


def test_errors_and_intervals_of_ratios() -> None:
    assert ratio_score(Score(4.0, 0.2), ValidationFD(2.0, None, "x")).stderr == pytest.approx(0.1, rel=1e-12)
    both = ratio_score(Score(4.0, 0.2), ValidationFD(2.0, None, "x", 0.1))
    assert both.stderr == pytest.approx(math.hypot(0.1, 0.1), rel=1e-12)
    assert ratio_score(Score(4.0), ValidationFD(2.0, None, "x", 0.1)).stderr is None
    assert ratio_score(Score(4.0, interval=(-1.0, 5.0)), ValidationFD(2.0, None, "x")).interval == (-0.5, 2.5)
    rounded = ratio_score(Score(4.0, 0.2), ValidationFD(2.0, 1, "x"))
    assert rounded.interval == pytest.approx((4 / 2.05, 4 / 1.95), rel=1e-12) and rounded.stderr == pytest.approx(0.1)


def test_the_error_of_a_ratio_agrees_with_a_simulation() -> None:
    """The delta method: for errors far below the values, the spread of the ratios of two normal variables."""
    draws = np.random.default_rng(0)
    above, below = draws.normal(4.0, 0.1, 200_000), draws.normal(2.0, 0.05, 200_000)
    found = ratio_score(Score(4.0, 0.1), ValidationFD(2.0, None, "x", 0.05)).stderr
    assert found == pytest.approx((above / below).std(), rel=0.02)


def test_names() -> None:
    assert list(load_metrics("fdr_debiased,fdr_debiased_k:held_out,is")) == ["fd_debiased", "is"]


@pytest.mark.parametrize(("labels", "is_noticed"), [(np.arange(150) % 10, True), (np.arange(150) // 40, False)])
def test_samples_of_equally_many_images_of_each_class_are_noticed(
    reference: Path, tmp_path: Path, labels: np.ndarray, is_noticed: bool
) -> None:
    samples = npz(tmp_path / "samples.npz", SAMPLES, arr_1=labels)
    texts = fdr.evaluate(samples, reference, ENCODERS[:1], "fd_debiased").warnings
    assert any("equally many images of each class" in text for text in texts) == is_noticed
