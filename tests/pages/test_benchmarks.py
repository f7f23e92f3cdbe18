"""The benchmarks stay runnable: every script is imported, and the quick ones run at a small size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
IMPORT_ALL = """
import importlib, pathlib, sys
sys.path[:0] = [str(pathlib.Path("benchmarks").resolve()), str(pathlib.Path("tests/encoders").resolve())]
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    print(name, hasattr(module, "main"))
"""
NO_SCRIPTS = {
    "harness",
    "populations",
    "post_training",
    "squeezenet",
    "cifar_networks",
    "gan_networks",
    "loss_worlds",
    "recipe_networks",
    "audit_worlds",
}
QUICK = {
    "fd_from_moments": ["--quick", "--repeats", "1"],
    "warm_run": ["--images", "300", "--dim", "64", "--repeats", "1"],
    "warm_cache": ["--rows", "2500", "--dim", "64", "--repeats", "1"],
    "reference_memory": ["--images", "30", "--size", "32"],
    "neighbourhoods": ["--count", "80", "--repeats", "1"],
    "precision_recall": ["--samples", "100", "--reference", "80"],
    "decode": ["--count", "8", "--size", "64", "--repeats", "1"],
    "all_metrics": ["--images", "300", "--metrics", "fd,is,mind"],
    "kid": ["--counts", "1000", "--repeats", "1"],
    "neighbours": ["--queries", "40", "--references", "300", "--dim", "64"],
    "debiased_fd_cost": ["--samples", "300", "--dim", "32", "--repeats", "1"],
    "debiased_fd": ["--dim", "6", "--ratios", "4,10", "--draws", "2", "--kinds", "relu"],
    "report_page": ["--images", "120", "--dim", "16", "--models", "1", "--encoders", "1"],
    "audit_cost": ["--images", "300", "--dim", "32"],
    "explain": ["--images", "300", "--dim", "32"],
    "correlation_intervals": ["--rows", "8", "--trials", "3"],
    "fd_loss_bias": ["--dim", "4", "--betas", "0.8", "--measured", "3"],
    "fd_loss_populations": ["--cells", "linear", "--steps", "6", "--seeds", "2", "--tuning-seeds", "1"],
    "loop_metrics": ["--network", "none", "--images", "8", "--batch-size", "4", "--size", "32", "--repeats", "1"],
    "paired_comparison": ["--dim", "4", "--draws", "2"],
}


def run(arguments: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_script_imports_and_has_a_main() -> None:
    names = [path.stem for path in SCRIPTS]
    lines = dict(line.split() for line in run(["-c", IMPORT_ALL, *names]).splitlines())
    assert {name: value == "True" for name, value in lines.items()} == {name: name not in NO_SCRIPTS for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_quick_runs_print_a_table_and_write_json(name: str, tmp_path: Path) -> None:
    found = run([str(ROOT / "benchmarks" / f"{name}.py"), *QUICK[name], "--json", str(tmp_path / "out.json")])
    assert "|---" in found.replace(" ", "")
    written = json.loads((tmp_path / "out.json").read_text())
    assert "processor" in written["machine"]
    assert len(written) > 1
