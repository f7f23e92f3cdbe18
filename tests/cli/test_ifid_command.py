"""`fdr ifid` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from worlds import images, npz

from fdr.reports import Report

QUERIES, OTHERS = images(40, seed=1), images(70, seed=2)
Run = Callable[..., Any]


@pytest.fixture
def ifid(fdr_command: Run) -> Run:
    return lambda *arguments: fdr_command("ifid", "--reps", "random", *arguments)


def test_it_prints_the_distances_and_writes_what_was_asked_for(ifid: Run, tmp_path: Path) -> None:
    queries, others = npz(tmp_path / "q.npz", QUERIES), npz(tmp_path / "n.npz", OTHERS)
    sheet, out = tmp_path / "sheet.png", tmp_path / "out.json"
    done = ifid(
        "--vae", "haar:2", "--images", queries, "--neighbours", others, "--alpha", "0,0.25,...,0.5",
        "--picture", sheet, "--json", out, "--memory", "1GB",
    )  # fmt: skip
    assert done.code == 0, done.err
    for text in ("haar:2 (deterministic), latents 48x4x4", "q.npz (40)", "n.npz (70)", "iFD ↓", "PSNR (dB) ↑"):
        assert text in done.out
    assert {"ifd", "ifd:0", "ifd:0.25"} <= {result.metric for result in Report.from_json(out)}
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(ifid: Run, tmp_path: Path) -> None:
    queries, cache = npz(tmp_path / "q.npz", images(40, side=32)), tmp_path / "cache"
    done = ifid("--vae", "dct", "--images", queries, "--cache", cache, "--dry-run")
    assert done.code == 0, done.err
    assert "40 images, 0 encoded already" in done.out and "search: " in done.out
    assert not cache.exists()


def test_autoencoders_are_compared_and_gated(ifid: Run, fdr_command: Run, tmp_path: Path) -> None:
    queries = npz(tmp_path / "q.npz", images(40, side=32))
    for name in ("haar", "dct:8"):
        assert ifid("--vae", name, "--images", queries, "--json", tmp_path / f"{name}.json").code == 0
    compared = fdr_command("compare", tmp_path / "haar.json", tmp_path / "dct:8.json")
    assert compared.code == 0 and "not comparable" not in compared.out
    limits = ["--max", "ifd:random=100", "--min", "psnr=50"]
    assert fdr_command("check", tmp_path / "haar.json", *limits, "--baseline", tmp_path / "dct:8.json").code == 0
    other = ifid("--vae", "haar", "--images", queries, "--top-k", "5", "--json", tmp_path / "k5.json")
    assert other.code == 0
    assert fdr_command("compare", tmp_path / "haar.json", tmp_path / "k5.json").code != 0


def test_the_papers_conventions(ifid: Run, tmp_path: Path) -> None:
    queries = npz(tmp_path / "q.npz", images(30, side=40))
    done = ifid("--vae", "dct", "--images", queries, "--compat", "reference", "--size", "32", "--json", "-")
    assert done.code == 0, done.err
    report = Report.from_dict(json.loads(done.out))
    assert report.samples["policy"]["crop"] == "center-bilinear-32"
    assert "q:none" in report["ifd"].signature and "clamp:no" in report["ifd"].signature


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--vae", "haaar"], "There is no autoencoder 'haaar'; expected pixel-unshuffle, dct, haar"),
        (["--vae", "haar", "--alpha", "0,0.3,...,0.5"], "is no alpha"),
        (["--vae", "haar", "--alpha", "half"], "is no alpha"),
        (["--vae", "haar", "--memory", "much"], "is no amount of memory"),
    ],
)
def test_usage(ifid: Run, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    done = ifid("--images", npz(tmp_path / "q.npz", QUERIES), *arguments)
    assert done.code == 2 and sentence in done.err
