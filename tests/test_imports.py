"""A command pays for what it uses: which libraries a whole run of the main job imports."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from encoders.inception_state import save_inception_state
from worlds import folder, images, npz

from fdr.runtime import package_versions

RUN = """
import json, sys
from fdr.cli import run
code = run(sys.argv[1:])
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def imports_of(*arguments: object, cwd: Path) -> set[str]:
    """Top-level modules that a fresh interpreter holds after `fdr ARGUMENTS` succeeded."""
    environment = os.environ | {"FDR_CACHE": str(cwd / "cache"), "FDR_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd)
    assert done.returncode == 0, done.stderr
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    return set(modules)


def test_inception_runs_without_the_libraries_of_other_encoders(tmp_path: Path) -> None:
    weights = save_inception_state(tmp_path)
    samples, real = folder(tmp_path / "samples", images(3, side=32)), npz(tmp_path / "real.npz", images(4, side=32))
    options = ["--weights", f"inception={weights}", "--quiet"]
    modules = imports_of("eval", samples, "--ref", real, "--reps", "inception", *options, cwd=tmp_path)
    assert "torch" in modules
    assert not modules & {
        "torchvision",
        "timm",
        "open_clip",
        "transformers",
        "scipy",
        "huggingface_hub",
        "pandas",
        "sympy",
    }


def test_random_needs_no_more_than_torch(tmp_path: Path) -> None:
    samples, real = npz(tmp_path / "a.npz", images(3, side=32)), npz(tmp_path / "real.npz", images(4, side=32))
    options = ["--reps", "random", "--no-cache", "--quiet"]
    modules = imports_of("eval", samples, "--ref", real, *options, cwd=tmp_path)
    assert not modules & {"torchvision", "timm", "scipy", "h5py", "huggingface_hub", "PIL", "simplejpeg"}


def test_versions_in_reports_are_those_that_importlib_tells() -> None:
    found = package_versions()
    assert found["torch"] == importlib.metadata.version("torch")
    for name in found.keys() - {"fdr"}:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            assert found[name] == importlib.metadata.version(name)


def test_show_of_a_statistics_file_needs_no_torch(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", mu=np.ones(3), sigma=np.diag([4.0, 3, 0]))
    modules = imports_of("show", tmp_path / "s.npz", cwd=tmp_path)
    assert "numpy" in modules and not modules & {"torch", "PIL", "h5py", "scipy", "rich"}
