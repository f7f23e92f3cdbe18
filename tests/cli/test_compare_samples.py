"""`fdr compare` on samples: measured as `fdr eval` does against one reference, after all else was found in order."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gate_worlds import report, write
from worlds import folder, images, npz

import fdr
from fdr.frechet import Combination, fd_influence, paired_stderr


@pytest.fixture
def sets(tmp_path: Path) -> list[Path]:
    return [npz(tmp_path / f"{name}.npz", images(24, seed=seed, side=32)) for name, seed in (("a", 1), ("b", 2))]


@pytest.fixture
def plain(tmp_path: Path) -> list[object]:
    return ["--ref", npz(tmp_path / "real.npz", images(30, side=32)), "--reps", "random", "-q"]


def test_samples_are_measured_as_eval_does_and_then_compared(
    fdr_command, sets: list[Path], plain: list[object], tmp_path: Path
) -> None:
    assert fdr_command("eval", *sets, *plain, "--json", "eval.json").code == 0
    got = fdr_command("compare", *sets, *plain, "--report", "compare.json", "--json", "out.json")
    assert got.code == 0, got.err
    rows = [[r["results"] for r in json.loads(Path(n).read_text())["reports"]] for n in ("eval.json", "compare.json")]
    assert rows[0] == rows[1]
    (comparison,) = json.loads(Path("out.json").read_text())["comparisons"]
    assert (comparison["a"], comparison["b"]) == ("a.npz", "b.npz") and comparison["comparable"]
    assert "a  a.npz\nb  b.npz\n" in got.out


def test_dry_run_measures_nothing(fdr_command, sets: list[Path], plain: list[object], own_home: Path) -> None:
    got = fdr_command("compare", *sets, *plain, "--dry-run")
    assert got.code == 0 and "samples: b.npz, 24 images, random (0 cached) on cpu" in got.out
    assert not (own_home / "fdr" / "features").exists()


def test_sets_of_different_size_are_refused_before_the_first_image(
    fdr_command, sets: list[Path], plain: list[object], tmp_path: Path, own_home: Path
) -> None:
    larger = npz(tmp_path / "c.npz", images(26, seed=3, side=32))
    got = fdr_command("compare", *sets, larger, *plain)
    assert got.code == 2 and re.search(
        r"a\.npz has 24 images and c\.npz 26, and fd:random of sets of different size cannot be compared.*--count 24.*"
        r"--metrics fd_debiased",
        got.err,
    )
    assert not (own_home / "fdr" / "features").exists()
    assert fdr_command("compare", *sets, larger, *plain, "--count", 20).code == 0


def test_wrong_use(fdr_command, sets: list[Path], plain: list[object], tmp_path: Path) -> None:
    known = write(tmp_path / "r.json", report())
    cases: dict[tuple[object, ...], str] = {
        (): "Name two or more reports or sample sets",
        (sets[0], *plain): "A comparison needs 2 sample sets or more",
        (sets[0], known): "Reports and samples cannot be compared in one command",
        (known, known, "--reps", "random"): "--reps says how samples are measured, but",
        (known, known, "--report", "x.json"): "--report goes with samples; the inputs are reports already",
    }
    for arguments, sentence in cases.items():
        got = fdr_command("compare", *arguments)
        assert got.code == 2 and sentence in got.err, (arguments, got.err)


def test_two_folders_are_two_sets(fdr_command, tmp_path: Path) -> None:
    folders = [folder(tmp_path / name, images(20, seed=seed)) for name, seed in (("x", 1), ("y", 2))]
    got = fdr_command("compare", *folders, "--reps", "random", "--offline")
    assert "Two folders and no --ref" not in got.err and "imagenet256" in got.err


def moments_of(path: Path) -> fdr.Moments:
    features = np.concatenate([np.asarray(batch) for batch in fdr.extract(path, fdr.load_encoder("random"))])
    return replace(fdr.Moments.from_features(features), rows=features)


def test_the_noise_of_the_reference_cancels(fdr_command, sets: list[Path], plain: list[object], tmp_path: Path) -> None:
    got = fdr_command("compare", *sets, *plain, "--json", "out.json")
    assert got.code == 0 and "(paired), p = " in got.out, got.out
    (pair,) = next(r for r in json.loads(Path("out.json").read_text())["rankings"] if r["key"] == "fd:random")["pairs"]
    a, b, real = map(moments_of, (*sets, tmp_path / "real.npz"))
    assert pair["difference"] == pytest.approx(fdr.frechet_distance(b, real) - fdr.frechet_distance(a, real))
    parts = [Combination.of([(1.0, fd_influence(one, real))]) for one in (a, b)]
    assert parts[0] is not None and parts[1] is not None
    assert pair["stderr"] == pytest.approx(paired_stderr(parts[0], parts[1]), rel=1e-6) and pair["kind"] == "paired"


def test_without_features_the_comparison_is_unpaired(fdr_command, sets: list[Path], plain: list[object]) -> None:
    got = fdr_command("compare", *sets, *plain, "--moments-only", "--cache", "c")
    assert got.code == 0 and "(paired)" not in got.out, got.out


def test_sets_of_different_size_compare_by_debiased_fd(
    fdr_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pooled.py").write_text(
        "import torch\ndef make():\n    return lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)\n"
    )
    sets = [npz(tmp_path / f"{name}.npz", images(n, seed=n)) for name, n in (("a", 130), ("b", 180), ("real", 150))]
    asked = ["compare", *sets[:2], "--ref", sets[2], "--reps", "py:pooled:make", "--no-cache", "-q"]
    got = fdr_command(*asked, "--metrics", "fd_debiased", "--json", "out.json")
    assert got.code == 0, got.err
    (ranking,) = json.loads(Path("out.json").read_text())["rankings"]
    (pair,) = ranking["pairs"]
    assert ranking["key"].startswith("fd_debiased:") and pair["kind"] == "paired" and pair["stderr"] > 0
    assert "note: n" in got.out and "(the number of images)" in got.out
    refused = fdr_command(*asked, "--metrics", "fd,fd_debiased")
    assert refused.code == 2 and "of sets of different size cannot be compared" in refused.err
