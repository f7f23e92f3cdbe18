"""What docs/pipelines.md shows works, on tiny pipelines."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pipeline_worlds as worlds
import pytest
from page_worlds import Page
from worlds import images, npz

from fdr.cli import run

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::fdr.errors.FdrWarning"
)
PAGE = Page("pipelines.md")


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    npz(tmp_path / "real.npz", images(12, side=8))
    worlds.captions(tmp_path / "captions.jsonl")
    worlds.save("sd", tmp_path / "my-sd")
    shutil.copytree(worlds.save("dit", tmp_path / "dit"), tmp_path / "my-dit")
    report = PAGE.run()["report"]
    assert report.samples["made_by"]["arguments"]["num_inference_steps"] == 20 and report.samples["count"] == 4
    of_hub, dit, sd = PAGE.commands()
    assert of_hub[2] == "google/ddpm-cifar10-32"
    few = ["-n", "2", "--ref", "real.npz", "--no-cache", "-q", "--device", "cpu"]
    assert dit[4] == "num_inference_steps=50 guidance_scale=4"  # which needs the 1,000 classes of ImageNet
    dit = [*dit[:4], "num_inference_steps=2 guidance_scale=1", *dit[5:-2], "--reps", "random"]
    assert run([*dit, *few]) == 0, capsys.readouterr().err
    assert run([*sd, "-q", "--device", "cpu", "--pipeline-args", "num_inference_steps=2"]) == 0, capsys.readouterr().err
    assert len(list((tmp_path / "samples").rglob("*.png"))) == 4
    assert np.isfinite(report["fd", "random"].value)
