"""`fdr check` on samples: measured as `fdr eval` does, after everything else was found to be in order."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from gate_worlds import report, row, write
from generator_worlds import Classes, weights
from worlds import images, npz

import fdr
from fdr.generators import save_generator


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    return npz(tmp_path / "a.npz", images(24, seed=1, side=32))


@pytest.fixture
def plain(tmp_path: Path) -> list[object]:
    return ["--ref", npz(tmp_path / "real.npz", images(30, side=32)), "--reps", "random", "-q"]


def test_samples_are_measured_as_eval_does_and_then_checked(fdr_command, samples: Path, plain: list[object]) -> None:
    assert fdr_command("eval", samples, *plain, "--json", "eval.json").code == 0
    got = fdr_command("check", samples, *plain, "--max", "fd:random=99", "--report", "check.json")
    assert got.code == 0, got.err
    rows = [json.loads(Path(name).read_text())["results"] for name in ("eval.json", "check.json")]
    assert rows[0] == rows[1]
    assert fdr_command("check", samples, *plain, "--max", "fd=1e-9").code == 1
    assert fdr_command("check", samples, *plain, "--baseline", "eval.json", "--tolerance", "0%").code == 0


def test_several_sets_and_a_new_baseline(fdr_command, samples: Path, plain: list[object], tmp_path: Path) -> None:
    other = npz(tmp_path / "b.npz", images(26, seed=2, side=32))
    update = ["--baseline", "fdr.json", "--update-baseline"]
    assert fdr_command("check", samples, other, *plain, *update).code == 0
    assert set(json.loads(Path("fdr.json").read_text())["sets"]) == {"a.npz", "b.npz"}
    got = fdr_command("check", other, *plain, "--baseline", "fdr.json", "--no-cache", "--junit", "fdr.xml")
    assert got.code == 2 and "fd:random of a.npz was not measured, and baseline 'fdr.json' has it" in got.err
    assert "<error" in Path("fdr.xml").read_text()
    assert fdr_command("check", other, *plain, "--baseline", "fdr.json", "--allow-missing").code == 0
    got = fdr_command("check", other, *plain, *update)
    assert got.code == 2 and "has fd:random of a.npz, which was not measured here and would be dropped" in got.err
    assert fdr_command("check", other, *plain, *update, "--force").code == 0
    assert set(json.loads(Path("fdr.json").read_text())["sets"]) == {"b.npz"}


def test_what_would_fail_later_fails_before_the_first_image(
    fdr_command, samples: Path, plain: list[object], own_home: Path
) -> None:
    cases = {
        "--max fdr=3": "Unknown number 'fdr'; .*fd:random",
        "--max fd:inception=3": "Unknown number 'fd:inception'",
        "--min fd=3": "write --max fd=3",
        "--max fd=3 --allow x": "Unknown field of a signature",
        "--baseline none.json": "The baseline none.json does not exist",
        "--max fd=3 --junit a.npz/x": "Cannot write",
        "": "There is nothing to check",
    }
    for flags, sentence in cases.items():
        got = fdr_command("check", samples, *plain, *flags.split())
        assert got.code == 2 and re.search(sentence, got.err), (flags, got.err)
    assert not (own_home / "fdr" / "features").exists()
    assert fdr_command("check", samples, *plain, "--baseline", "b.json", "--update-baseline", "--no-cache").code == 0
    for flags in ([], ["--update-baseline"]):
        got = fdr_command("check", samples, *plain, "--count", 20, "--baseline", "b.json", *flags)
        assert got.code == 2 and "n (the number of images) is 20 here and 24 in the baseline" in got.err
    assert not (own_home / "fdr" / "features").exists()


def test_dry_run_measures_nothing(fdr_command, samples: Path, plain: list[object], own_home: Path) -> None:
    got = fdr_command("check", samples, *plain, "--max", "fd=3", "--dry-run")
    assert got.code == 0 and "samples: a.npz, 24 images, random (0 cached) on cpu" in got.out
    assert not (own_home / "fdr" / "features").exists()
    assert fdr_command("check", samples, *plain, "--max", "fdd=3", "--dry-run").code == 2


@pytest.fixture
def small(tmp_path: Path) -> list[object]:
    """A reference for generators of 4 x 4 pixels, and 40 of their samples."""
    reference = npz(tmp_path / "real.npz", images(30, side=4))
    return ["--num-images", 40, "--seed", 3, "--ref", reference, "--reps", "random", "--device", "cpu", "-q"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> list[object]:
    return ["--gen", weights(tmp_path / "g.safetensors", Classes), "--arch", "generator_worlds:Classes"]


def test_a_generator_is_measured_as_eval_does_and_then_checked(
    fdr_command, checkpoint: list[object], small: list[object]
) -> None:
    assert fdr_command("eval", *checkpoint, *small, "--labels", "balanced", "--json", "eval.json").code == 0
    got = fdr_command("check", *checkpoint, *small, "--labels", "balanced", "--max", "fd=99", "--report", "check.json")
    assert got.code == 0, got.err
    assert "g.safetensors" in got.out and got.out.endswith("result: pass\n")
    rows = [json.loads(Path(name).read_text()) for name in ("eval.json", "check.json")]
    assert rows[0]["results"] == rows[1]["results"] and rows[0]["samples"] == rows[1]["samples"]
    assert rows[1]["samples"]["made_by"]["labels"] == "balanced" and rows[1]["samples"]["count"] == 40
    assert fdr_command("check", *checkpoint, *small, "--max", "fd=1e-9").code == 1


def test_a_run_folder_and_its_samples_are_two_sets_of_one_gate(
    fdr_command, small: list[object], tmp_path: Path
) -> None:
    made = fdr.load_generator(weights(tmp_path / "p.safetensors"), arch="generator_worlds:build_annotated")
    save_generator(tmp_path / "run", made)
    sampled = fdr_command("sample", "--gen", "run", "--trust", "-n", 40, "--seed", 3, "-o", "a.npz", "-q")
    assert sampled.code == 0, sampled.err
    got = fdr_command("check", "a.npz", "--gen", "run", "--trust", *small, "--baseline", "b.json", "--update-baseline")
    assert got.code == 0, got.err
    sets = json.loads(Path("b.json").read_text())["sets"]
    values = [sets[name]["fd:random"]["value"] for name in ("a.npz", "run")]
    assert values[0] == values[1]


def test_what_would_fail_later_fails_before_a_sample_of_a_generator_is_measured(
    fdr_command, checkpoint: list[object], small: list[object], own_home: Path
) -> None:
    for arguments, sentence in (
        (["--max", "fdd=3"], "Unknown number 'fdd'"),
        (["--max", "fd=3", "--labels", "7"], "the generator has the classes 0 to 4"),
        (["--max", "fd=3", "--ema", "edm_500"], "Unknown weights"),
        (["--max", "fd=3", "--count", 5], "leave out --count"),
    ):
        got = fdr_command("check", *checkpoint, *small, *arguments)
        assert got.code == 2 and sentence in got.err, got.err
    got = fdr_command("check", *checkpoint, *small, "--max", "fd=3", "--dry-run")
    assert got.code == 0 and "samples: g.safetensors, 40 images, random (0 cached) on cpu" in got.out
    assert not (own_home / "fdr" / "features").exists()


def test_a_generator_of_the_file_gives_way_to_a_report(fdr_command, tmp_path: Path) -> None:
    Path("fdr.toml").write_text('[check]\ngen = "runs/none"\nmax = {fd = 3}\n')
    assert fdr_command("check", write(tmp_path / "r.json", report(row(value=2.0)))).code == 0
    got = fdr_command("check", "-q", "--ref", "demo", "--reps", "random")
    assert got.code == 2 and "There is no file or folder 'runs/none'" in got.err
