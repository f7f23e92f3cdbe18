"""`fdr cas` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def test_the_command(fdr_command: Any, tmp_path: Path) -> None:
    names = [str(tmp_path / f"{name}.npz") for name in ("samples", "real", "val")]
    for seed, name in enumerate(names):
        images = np.random.default_rng(seed).integers(0, 256, (20, 6, 6, 3)).astype(np.uint8)
        np.savez(name, arr_0=images, arr_1=np.arange(20) % 2)
    arguments = ["cas", names[0], "--real", names[1], "--val", names[2], "--recipe", "tiny", "--steps", "2"]
    arguments += ["--train-on", "samples,real", "--device", "cpu", "-o", str(tmp_path / "run")]
    planned = fdr_command(*arguments, "--dry-run")
    assert planned.code == 0 and "2 steps of 64 images" in planned.out and not (tmp_path / "run").exists()
    got = fdr_command(*arguments, "--json", str(tmp_path / "cas.json"))
    assert got.code == 0, got.err
    assert "CAS" in got.out and "minus real" in got.out and "cas|recipe:tiny@" in got.out
    assert "trained on real" in got.err
    report = json.loads((tmp_path / "cas.json").read_text())
    assert report["schema"] == "fdr-cas/1" and report["recipe"]["steps"] == 2
    alone = fdr_command(*arguments, "--json", "-", "--quiet")
    assert json.loads(alone.out)["classifiers"] == report["classifiers"] and alone.err == ""
