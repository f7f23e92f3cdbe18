"""`fdr audit` from the command line, with a tiny classifier."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worlds import images, npz

from fdr.frechet import Moments, frechet_distance

Run = Callable[..., Any]


@pytest.fixture
def audit(fdr_command: Run, tmp_path: Path) -> Run:
    npz(tmp_path / "a.npz", images(40, seed=1))
    npz(tmp_path / "real.npz", images(60))
    return lambda *arguments: fdr_command("audit", "a.npz", *arguments)


MEASURED = ("--ref", "real.npz", "--reps", "py:worlds:TinyEncoder", "--held-out", "random:3")
FAST = ("--steps", 5, "--top-n", 2)


def test_an_encoder_of_ones_own(audit: Run, tmp_path: Path) -> None:
    (tmp_path / "fdr.toml").write_text('[audit]\nreps = "py:worlds:TinyEncoder"\n')
    others = ("--ref", "real.npz", "--held-out", "random:3", *FAST, "--json", "out.json")
    assert "py:worlds:TinyEncoder" in audit(*others).err and not (tmp_path / "out.json").exists()
    done = audit(*others, "--trust")
    assert done.code == 0, done.err
    assert "random:3 (held out)" in done.out and "class frequencies" in done.out and "top-2" in done.out
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["schema"] == "fdr-audit/1" and data["count"] == 40 and data["reference_count"] == 60
    assert [one["name"] for one in data["matchings"]] == ["top-1", "top-2", "optimised"]
    assert set(data["fd"]) == set(data["encoders"]) and data["held_out"] == ["random:3"]
    assert data["sentences"][0] in done.out


def test_features_come_from_the_cache_and_fd_is_that_of_eval(audit: Run, fdr_command: Run) -> None:
    first = audit(*MEASURED, *FAST, "--cache", "c", "--json", "-")
    again = audit(*MEASURED, *FAST, "--cache", "c", "--json", "-")
    assert first.code == 0 and first.out == again.out, first.err
    found = json.loads(first.out)["fd"]["random:3"]
    measured = fdr_command("eval", "a.npz", "--ref", "real.npz", "--reps", "random:3", "--cache", "c", "--json", "-")
    assert json.loads(measured.out)["results"][0]["value"] == pytest.approx(found, rel=1e-9)


def test_a_dry_run_computes_nothing(audit: Run) -> None:
    done = audit(*MEASURED, *FAST, "--cache", "c", "--dry-run")
    assert done.code == 0, done.err
    assert "samples: a.npz, 40 images" in done.out and "held out: random:3" in done.out
    assert "Top-2" in done.out and not Path("c").exists()


def test_a_baseline(audit: Run, tmp_path: Path) -> None:
    npz(tmp_path / "b.npz", images(40, seed=2))
    done = audit(*MEASURED, *FAST, "--baseline", "b.npz", "--no-cache", "--json", "out.json")
    assert done.code == 0, done.err
    table = done.out[done.out.index("class frequencies") :]
    for words in (("tiny", "samples", "their own"), ("baseline", "its own"), ("reference",)):
        assert any(all(word in line for word in words) for line in table.splitlines()), (words, table)
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["baseline"]["source"] == "b.npz" and data["baseline"]["count"] == 40
    assert set(data["baseline"]["encoders"]) == set(data["fd"])
    assert data["sentences"][-1] in done.out and "of the baseline" in data["sentences"][-1]
    own = audit("--ref", "real.npz", *MEASURED[2:], *FAST, "--no-cache", "--json", "-")
    assert json.loads(own.out)["matchings"] == data["matchings"], "a baseline does not change the audit"
    assert "baseline: b.npz, 40 images" in audit(*MEASURED, "--baseline", "b.npz", "--no-cache", "--dry-run").out


def test_a_baseline_that_does_not_fit_is_one_sentence(audit: Run, tmp_path: Path) -> None:
    npz(tmp_path / "few.npz", images(30, seed=2))
    npz(tmp_path / "large.npz", images(40, seed=2, side=32))
    for other, sentence in (
        ("few.npz", "There are 40 samples and 30 images of the baseline"),
        ("a.npz", "The baseline a.npz has the images of the samples"),
        ("large.npz", "The samples are 16 x 16 pixels and the images of the baseline are 32 x 32 pixels"),
        ("no.npz", "no.npz does not exist"),
    ):
        done = audit(*MEASURED, *FAST, "--baseline", other, "--no-cache", "-q")
        assert done.code == 2 and sentence in done.err, (other, done.err)
    done = audit(*MEASURED, *FAST, "--baseline", "large.npz", "--size", "16", "--no-cache", "-q")
    assert done.code == 0, done.err


def test_what_cannot_be_audited_is_one_sentence(audit: Run, tmp_path: Path) -> None:
    draw = np.random.default_rng(0).normal(size=(9, 3))
    moments = Moments.from_features(draw)
    assert frechet_distance(moments, draw) == 0
    moments.save(tmp_path / "s.npz")
    for arguments, sentence in (
        (("--ref", "real.npz", "--reps", "random"), "needs an encoder with the output 'logits', and random gives"),
        (("--ref", "s.npz", "--reps", "py:worlds:TinyEncoder"), "predicted classes, and s.npz has statistics alone"),
        (("--ref", "imagenet256", "--reps", "py:worlds:TinyEncoder"), "and imagenet256 has statistics alone"),
        (("--ref", "nothing", "--reps", "py:worlds:TinyEncoder"), "nothing"),
        (("--ref", "real.npz", "--reps", "random,inception"), "--reps takes one encoder here"),
        ((*MEASURED[:4], "--held-out", "py:worlds:TinyEncoder"), "is audited and held out at once"),
        ((*MEASURED[:4], "--held-out", "random"), "random has the weights of tiny"),  # both say seed:0
        ((*MEASURED, "--top-n", 10), "N must be between 2 and 9"),
    ):
        done = audit(*arguments, "--no-cache", "-q")
        assert done.code == 2 and sentence in done.err, (arguments, done.err)
