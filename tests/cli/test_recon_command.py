"""`fdr recon` as a user meets it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from worlds import images, npz

from fdr.images import noisy
from fdr.reports import Report

Run = Callable[..., Any]
ORIGINALS = images(24, side=16)
MADE = noisy(ORIGINALS, seed=3)


@pytest.fixture
def recon(fdr_command: Run) -> Run:
    return lambda *arguments: fdr_command("recon", "--reps", "random", "--no-cache", *arguments)


def pictures(path: Path, array: np.ndarray, suffix: str = "png") -> Path:
    """Two subfolders; JPEG or PNG files of the same names."""
    for index, image in enumerate(array):
        place = path / "ab"[index % 2] / f"{index:02d}.{suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)
    return path


def test_two_folders(recon: Run, tmp_path: Path) -> None:
    own, made = pictures(tmp_path / "own", ORIGINALS), pictures(tmp_path / "made", MADE, "bmp")
    out = {name: tmp_path / name for name in ("r.json", "r.csv", "each.csv", "worst.png")}
    done = recon(
        own, made, "--json", out["r.json"], "--csv", out["r.csv"], "--per-image", out["each.csv"],
        "--picture", out["worst.png"], "--worst", 3,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "made (24, matched by name)" in done.out and "rFD ↓" in done.out and "PSNR (dB) ↑" in done.out
    report = Report.from_json(out["r.json"])
    assert {result.metric for result in report} == {"rfd", "psnr", "ssim"}
    assert len(out["r.csv"].read_text().splitlines()) == 4
    rows = list(csv.DictReader(out["each.csv"].read_text().splitlines()))
    assert [row["image"] for row in rows][:2] == ["a/00.bmp", "a/02.bmp"] and len(rows) == 24
    assert np.mean([float(row["psnr"]) for row in rows]) == pytest.approx(report["psnr"].value, rel=1e-12)
    assert Image.open(out["worst.png"]).size == (4 + 3 * (96 + 4), 18 + 4 + 3 * (96 + 4))


def test_the_scores_of_images_on_stdout(recon: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own, made = npz(tmp_path / "own.npz", ORIGINALS), npz(tmp_path / "made.npz", MADE)
    done = recon(own, made, "--per-image", "-", "-q")
    assert done.code == 0 and done.out.startswith("image,psnr,ssim\n") and len(done.out.splitlines()) == 25
    assert not (tmp_path / "-").exists()


def test_an_autoencoder(recon: Run, fdr_command: Run, tmp_path: Path) -> None:
    own = npz(tmp_path / "own.npz", ORIGINALS)
    done = recon("--vae", "haar", own, "--json", tmp_path / "haar.json")
    assert done.code == 0 and "by haar (deterministic) (24)" in done.out, done.err
    report = Report.from_json(tmp_path / "haar.json")
    assert report["psnr"].value == 100 and report["rfd"].value == pytest.approx(0, abs=1e-9)
    other = fdr_command("ifid", "--reps", "random", "--no-cache", "--vae", "haar", "--images", own, "--json", "i.json")
    assert other.code == 0
    ifid = Report.from_json("i.json")
    for metric in ("rfd", "psnr", "ssim"):
        assert report[metric].value == pytest.approx(ifid[metric].value, abs=1e-9)
        assert report[metric].signature == ifid[metric].signature


def test_a_dry_run(recon: Run, tmp_path: Path) -> None:
    own = npz(tmp_path / "own.npz", ORIGINALS)
    done = recon(own, own, "--dry-run", "--picture", tmp_path / "p.png")
    assert done.code == 0 and "matched by position" in done.out and not (tmp_path / "p.png").exists()


def test_a_protocol_sets_crop_and_size_and_counts(recon: Run, tmp_path: Path) -> None:
    own = npz(tmp_path / "own.npz", ORIGINALS)
    done = recon("--vae", "haar", own, "--protocol", "coco-val2017-256", "--dry-run")
    assert done.code == 0 and "256 x 256" in done.out
    assert "5,000 images, and 24 were given" in done.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["own.npz"], "Give ORIGINALS and RECONSTRUCTIONS"),
        (["own.npz", "own.npz", "--images", "own.npz"], "Give ORIGINALS and RECONSTRUCTIONS"),
        (["--vae", "haar", "own.npz", "own.npz"], "give the originals alone"),
        (["--vae", "haar"], "give the originals alone"),
        (["own.npz", "few.npz"], "has 24 images and few.npz 5"),
        (["own.npz", "large.npz"], "is 16 x 16, and its reconstruction 20 x 20"),
        (["own", "made"], "made lacks 1 of the 24 images of own"),
        (["made", "own"], "made lacks 1 of the 24 images of own"),
        (["twice", "own"], "several images that are called"),
        (["own.npz", "own.npz", "--protocol", "imagenet"], "Unknown protocol of reconstructions"),
        (["own.npz", "own.npz", "--protocol", "imagenet-val-256", "--size", "8"], "leave one of them out"),
    ],
)
def test_wrong_input_is_one_sentence(
    recon: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, array in (("own", ORIGINALS), ("few", ORIGINALS[:5]), ("large", images(24, side=20))):
        npz(tmp_path / f"{name}.npz", array)
    for name, array in (("own", ORIGINALS), ("made", MADE[:23]), ("twice", ORIGINALS)):
        pictures(tmp_path / name, array)
    pictures(tmp_path / "twice", ORIGINALS[:1], "bmp")
    done = recon(*arguments)
    assert done.code == 2 and sentence in done.err and "Traceback" not in done.err, done.err
