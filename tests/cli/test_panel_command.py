"""`fdr panel`: models over training seeds and sampling seeds, from reports or samples."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from gate_worlds import report, row, write
from worlds import images, npz

VALUES = {"base": (3.0, 3.3, 2.8), "new": (3.1, 3.2, 2.9), "worse": (6.0, 6.3, 5.8)}


@pytest.fixture
def panel(tmp_path: Path) -> list[str]:
    """Reports of three models with three training seeds and two samplings each, and the options that name them."""
    for model, means in VALUES.items():
        for seed, mean in enumerate(means):
            folder = tmp_path / model / f"seed{seed}"
            folder.mkdir(parents=True)
            for index in range(2):
                write(folder / f"{index}.json", report(row(value=mean + 0.1 * index), samples=f"{model}{seed}{index}"))
    return [part for model in VALUES for part in ("--model", f"{model}={model}/seed*/*.json")]


def test_spreads_ranks_and_verdicts(fdr_command, panel: list[str]) -> None:
    got = fdr_command("panel", *panel)
    assert (got.code, got.err) == (0, "")
    lines = [line.split() for line in got.out.splitlines()]
    assert any(line[:4] == ["1–2", "base", "3", "6"] for line in lines)
    assert any(line[:4] == ["3", "worse", "3", "6"] for line in lines)
    assert any(line[:3] == ["new", "−", "base"] and line[-1] == "inconclusive" for line in lines)
    assert any(line[:3] == ["worse", "−", "new"] and line[-3:] == ["new", "is", "better"] for line in lines)
    assert "note: fd:inception: single reports, of one training run each, tell two models apart only above" in got.out


def test_json(fdr_command, panel: list[str]) -> None:
    data = json.loads(fdr_command("panel", *panel, "--json", "-").out)
    (number,) = data["numbers"]
    assert (data["schema"], data["confidence"], number["key"]) == ("fdr-panel/1", 0.95, "fd:inception")
    assert number["models"]["base"]["training_seeds"] == 3
    assert number["models"]["base"]["within"] == pytest.approx(0.1 / 2**0.5)
    assert [pair["significant"] for pair in number["pairs"]] == [False, True, True]


def test_a_table_names_the_files(fdr_command, panel: list[str], tmp_path: Path) -> None:
    rows = [f"{m},{s},{m}/seed{s}/{i}.json" for m in VALUES for s in range(3) for i in range(2)]
    (tmp_path / "panel.csv").write_text("\n".join(["model,train,file", *rows]))
    assert fdr_command("panel", "panel.csv").out == fdr_command("panel", *panel).out


def test_the_confidence_decides_what_is_told_apart(fdr_command, panel: list[str]) -> None:
    strict = json.loads(fdr_command("panel", *panel, "--confidence", "0.99999", "--json", "-").out)["numbers"][0]
    assert [pair["significant"] for pair in strict["pairs"]] == [False, False, False]


def test_samples_are_measured_first(fdr_command, tmp_path: Path, own_home: Path) -> None:
    for model in ("a", "b"):
        for seed in range(2):
            (tmp_path / model / f"{seed}").mkdir(parents=True)
            for index in range(2):
                npz(tmp_path / model / f"{seed}" / f"{index}.npz", images(20, 100 * seed + 10 * index + ord(model)))
    plain = ["--ref", npz(tmp_path / "real.npz", images(24)), "--reps", "random", "-q"]
    asked = ["panel", "--model", "a=a/*/*.npz", "--model", "b=b/*/*.npz", *plain]
    planned = fdr_command(*asked, "--dry-run")
    assert planned.code == 0 and planned.out.count("samples: ") == 8 and not (own_home / "fdr" / "features").exists()
    got = fdr_command(*asked, "--json", "out.json", "--report", "reports.json")
    assert got.code == 0, got.err
    (number,) = json.loads(Path("out.json").read_text())["numbers"]
    assert [len(values) for values in number["models"]["a"]["values"].values()] == [2, 2]
    assert len(json.loads(Path("reports.json").read_text())["reports"]) == 8


@pytest.mark.parametrize("arguments, sentence", [
    ("", "Name models with --model NAME=PATTERN, or a TABLE"),
    ("p.csv --model a=base/*/*.json", "TABLE and --model exclude each other"),
    ("--model a=base/*/*.json --reps random", "--reps says how samples are measured, but"),
    ("--model a=base/*/*.json --report x.json", "--report goes with samples; the files are reports already"),
    ("--model a=base/*/*.json --model b=base/seed0/*.json", "each file is of one run"),
    ("--model a=none*", "No file matches 'none*'"),
])  # fmt: skip
def test_wrong_use(fdr_command, panel: list[str], arguments: str, sentence: str) -> None:
    got = fdr_command("panel", *arguments.split())
    assert (got.code, got.out) == (2, "") and sentence in got.err


def test_a_panel_of_reports_needs_neither_torch_nor_numpy(panel: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from fdr.cli import run; assert run(sys.argv[1:]) == 0; "
        "assert not {'torch', 'numpy'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code, "panel", *panel], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
