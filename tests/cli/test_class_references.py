"""What references hold of classes: how `fdr stats --labels` writes it, its files, and metrics that read it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from thread_ranks import on_ranks
from worlds import TinyEncoder, images, npz

from fdr.errors import InputError
from fdr.evaluation import evaluate, measure, write_reference, write_reference_file
from fdr.evaluation.labels import CollectedClasses
from fdr.features import Extraction, ExtractionOptions
from fdr.frechet import ClassMoments, ClassSums, LabelledMoments, Moments
from fdr.images import open_images
from fdr.metrics import Need
from fdr.metrics.conditional_fd import classes_setting
from fdr.references import ConvertOptions, convert, open_statistics

ENCODER = TinyEncoder()


def _labelled_npz(path: Path, count: int, seed: int) -> Path:
    return npz(path, images(count, seed=seed), arr_1=np.arange(count) % 4)


@pytest.mark.parametrize("suffix", ["h5", "npz"])
def test_statistics_with_labels_serve_as_the_reference(tmp_path: Path, fdr_command, suffix: str) -> None:
    real, samples = _labelled_npz(tmp_path / "real.npz", 60, 0), _labelled_npz(tmp_path / "samples.npz", 40, 1)
    file, bare = tmp_path / f"stats.{suffix}", tmp_path / "bare.h5"
    base = ["stats", real, "--reps", "random", "--no-cache", "-o"]
    got = fdr_command(*base, file, "--labels")
    assert got.code == 0 and "classes: 4, from arr_1" in got.out, got.err
    shown = json.loads(fdr_command("show", file, "--json", "-").out)
    assert shown["classes"] == "4 of 15 images each (0, 1, 2, 3)" and shown["labels_from"] == "arr_1"
    common = ["--reps", "random", "--no-cache", "--metrics", "fd_conditional,fd_joint", "--json", "-"]
    first, second = (json.loads(fdr_command("eval", samples, "--ref", ref, *common).out) for ref in (real, file))
    for a, b in zip(first["results"], second["results"], strict=True):
        assert b["value"] == pytest.approx(a["value"], rel=1e-6, abs=1e-9)
    assert fdr_command(*base, bare).code == 0
    got = fdr_command("eval", samples, "--ref", bare, *common)
    assert got.code == 2 and "write it again with fdr stats --labels" in got.err
    for more, sentence in (
        (["--moments-only"], "--moments-only sums all features alone"),
        (["--format", "adm"], "holds labels as arr_1 and no moments of classes; leave out --labels"),
    ):
        got = fdr_command("stats", real, "-o", tmp_path / "t.npz", "--labels", *more)
        assert got.code == 2 and sentence in got.err and not (tmp_path / "t.npz").exists()
    npz(tmp_path / "plain.npz", images(8))
    got = fdr_command("stats", tmp_path / "plain.npz", "--labels", "-o", tmp_path / "t.h5")
    assert (
        got.code == 2
        and "The moments of every class are to be stored (--labels), and plain.npz has no labels" in got.err
    )


def test_moments_of_classes_need_labels(tmp_path: Path) -> None:
    source = open_images(npz(tmp_path / "plain.npz", images(6)))
    with pytest.raises(InputError, match=r"of every class are to be stored \(labels\), and plain\.npz has no"):
        write_reference_file(source, ENCODER, tmp_path / "s.h5", labels=True)


def test_classes_of_one_image_are_no_reference(tmp_path: Path) -> None:
    source = open_images(npz(tmp_path / "real.npz", images(6), arr_1=np.arange(6)))
    with pytest.raises(InputError, match=r"Each of the 6 classes of real\.npz has one image"):
        write_reference_file(source, ENCODER, tmp_path / "s.h5", labels=True)


def test_a_folder_holds_the_classes_of_every_encoder(tmp_path: Path) -> None:
    source = open_images(_labelled_npz(tmp_path / "real.npz", 20, 0))
    index = write_reference(source, [ENCODER, TinyEncoder("second", 5)], tmp_path / "stats", labels=True)
    assert index["images"]["classes"] == 4
    for name in ("tiny", "second"):
        classes = Moments.load(tmp_path / "stats" / f"{name}.h5").classes
        assert classes is not None and classes.counts.tolist() == [5] * 4
    report = evaluate(_labelled_npz(tmp_path / "s.npz", 12, 1), tmp_path / "stats", ENCODER, "fd,fd_conditional")
    assert {result.metric for result in report.results} == {"fd", "fd_conditional"} and not report.failed


def test_the_classes_do_not_depend_on_batches_or_ranks(tmp_path: Path) -> None:
    path = _labelled_npz(tmp_path / "real.npz", 50, 0)

    def collect(group: Any = None, batch_size: int | None = None) -> ClassMoments | None:
        source = open_images(path)
        options = ExtractionOptions(None, batch_size, **({} if group is None else {"group": group}))
        need = Need(ENCODER.spec.output, lambda count: CollectedClasses(count, source=source))
        needs = {ENCODER.spec.name: [Need(ENCODER.spec.output), need]}
        found = measure(Extraction(source, [ENCODER], None, options), needs)
        return None if found is None else found.collected[ENCODER.spec.name, need]

    expected = collect()
    assert expected is not None
    for other in (collect(batch_size=7), on_ranks(2, collect)[0]):
        assert other.counts.tolist() == expected.counts.tolist()
        np.testing.assert_allclose(other.means, expected.means, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(other.spreads, expected.spreads, rtol=1e-5)


def test_merged_sums_are_those_of_all_features() -> None:
    features = 1e4 + np.random.default_rng(0).normal(size=(60, 3))
    labels = np.arange(60) % 4
    parts = []
    for rows in (slice(0, 25), slice(25, 60)):
        sums = ClassSums()
        sums.add(features[rows], labels[rows])
        parts.append(sums)
    empty = ClassSums()
    for part in (*parts, ClassSums()):
        empty.absorb(part.state())
    found = empty.finish()
    for c in range(4):
        own = features[labels == c]
        np.testing.assert_allclose(found.means[c], own.mean(0), rtol=1e-13)
        assert found.spreads[c] == pytest.approx(np.trace(np.cov(own.T)), rel=1e-8)


def _with_classes() -> Moments:
    features = np.random.default_rng(3).normal(size=(90, 4))
    side = LabelledMoments.from_features(features, np.arange(90) % 3, ("a", "b|\n", "ç"))
    return replace(side.total, rows=None, classes=side.classes)


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_classes_come_back_from_a_file_as_they_were(tmp_path: Path, suffix: str) -> None:
    moments = _with_classes()
    moments.save(tmp_path / f"m.{suffix}", {"note": "x"})
    found = Moments.load(tmp_path / f"m.{suffix}").classes
    assert found is not None and found.names == moments.classes.names
    for name in ("counts", "means", "spreads"):
        assert np.array_equal(getattr(found, name), getattr(moments.classes, name))


def test_the_checksum_that_older_versions_look_at_leaves_the_classes_out(tmp_path: Path) -> None:
    moments, files = _with_classes(), (tmp_path / "with.h5", tmp_path / "without.h5")
    moments.save(files[0])
    replace(moments, classes=None).save(files[1])
    with h5py.File(files[0]) as one, h5py.File(files[1]) as other:
        assert one.attrs["sha256"] == other.attrs["sha256"]
    with h5py.File(files[0], "r+") as file:
        file["class_means"][0, 0] += 1
    with pytest.raises(InputError, match="its content is not that of its checksum"):
        Moments.load(files[0])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"class_names": np.frombuffer(b'["a", "b"]', np.uint8)}, "3 names|for 2 names"),
        ({"class_names": np.frombuffer(b"{", np.uint8)}, "classes of these moments are damaged"),
        ({"class_names": None}, "classes of these moments are damaged"),
        ({"class_counts": np.array([30, 30, 31])}, "classes are of 91 features"),
        ({"class_counts": np.array([0, 45, 45])}, "whole number of at least 1"),
        ({"class_means": np.full((3, 4), np.nan)}, "NaN"),
        ({"class_means": np.zeros((3, 5))}, "width 5"),
        ({"class_spreads": np.array([-1.0, 1, 1])}, "negative spread"),
    ],
)
def test_altered_classes_are_refused(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    fields = {name: value for name, value in {**_with_classes().fields(), **change}.items() if value is not None}
    np.savez(tmp_path / "m.npz", **fields)
    with pytest.raises(InputError, match=sentence):
        Moments.load(tmp_path / "m.npz")


def test_layouts_of_other_tools_lose_the_classes_and_say_so(tmp_path: Path) -> None:
    _with_classes().save(tmp_path / "m.h5")
    assert convert(tmp_path / "m.h5", tmp_path / "n.npz").lost is None
    assert open_statistics(tmp_path / "n.npz").load("mu").classes is not None
    lost = convert(tmp_path / "m.h5", tmp_path / "c.npz", ConvertOptions("clean-fid")).lost
    assert lost is not None and "moments of classes" in lost and "no conditional FD" in lost


def test_the_signature_changes_with_the_classes() -> None:
    moments = _with_classes()
    classes = moments.classes
    settings = {classes_setting(moments)["lab"]}
    for change in (
        {"names": ("x", *classes.names[1:])},
        {"counts": classes.counts[[0, 2, 1]] + np.array([1, -1, 0])},
        {"means": classes.means + 1e-9},
        {"spreads": classes.spreads * 2},
    ):
        settings.add(classes_setting(replace(moments, classes=replace(classes, **change)))["lab"])
    assert len(settings) == 5 and classes_setting(None) == {}
