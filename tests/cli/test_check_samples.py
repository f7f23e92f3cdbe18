"""`fdr check` on samples: measured as `fdr eval` does, after everything else was found to be in order."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from worlds import images, npz


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
    assert fdr_command("check", other, *plain, "--baseline", "fdr.json").code == 0


def test_what_would_fail_later_fails_before_the_first_image(
    fdr_command, samples: Path, plain: list[object], own_home: Path
) -> None:
    cases = {
        "--max fdr=3": "Unknown number 'fdr'; .*fd:random",
        "--max fd:inception=3": "Unknown number 'fd:inception'",
        "--min fd=3": "write --max fd=3",
        "--max fd=3 --allow x": "Unknown field of a signature",
        "--baseline none.json": "Cannot read baseline",
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
    got = fdr_command("check", samples, *plain, "--max", "fd=3", "-n")
    assert got.code == 0 and "samples: a.npz, 24 images, random (0 cached) on cpu" in got.out
    assert not (own_home / "fdr" / "features").exists()
    assert fdr_command("check", samples, *plain, "--max", "fdd=3", "-n").code == 2
