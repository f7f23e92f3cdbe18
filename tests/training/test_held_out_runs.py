"""A run splits FDr^k into the encoders that it is trained on and the held-out ones: log, evaluations, `fdr check`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import train_worlds
from train_program import options
from worlds import images

from fdr.cli import run as command
from fdr.evaluation import write_reference
from fdr.images import open_images
from fdr.reports import load_reports
from fdr.training import RunOptions, train

HERE = Path(__file__).parent
TINY, OTHER = "py:train_worlds:tiny", "py:train_worlds:other"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run with an evaluation, whose reference has a validation set."""
    folder = tmp_path_factory.mktemp("split")
    encoders = [train_worlds.tiny(), train_worlds.other()]
    validation = open_images(images(40, seed=7))
    write_reference(open_images(images(60)), encoders, folder / "real", validation=validation)
    chosen = options(folder, reference=str(folder / "real"), steps=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        logged = RunOptions(device="cpu", log_every=2, eval_every=4, eval_count=20, grid_every=0, alarm_every=0)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        train(chosen, folder / "run", logged)
        torch.set_num_threads(threads)
        yield folder / "run"


def rows(run: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row for row in found if row["kind"] == kind]


def test_the_log_has_the_means_of_both_groups(run: Path) -> None:
    for row in rows(run, "step"):
        trained, held_out = row["fdr"][TINY], row["fdr"][OTHER]
        assert row["fdr_k"] == {"all": (trained + held_out) / 2, "trained": trained, "held_out": held_out}


def test_evaluations_of_the_run_have_them_too(run: Path) -> None:
    (report,) = load_reports(run / "evaluations" / "step-00000004.json")
    assert report.run["trained_on"] == [TINY]
    values = {row.metric: row.value for row in report if row.metric.startswith("fdr_k")}
    assert values["fdr_k:trained"] == report["fdr", TINY].value
    assert values["fdr_k:held_out"] == report["fdr", OTHER].value
    (row,) = rows(run, "evaluation")
    assert row["fdr_k"] == {"all": values["fdr_k"], "trained": values["fdr_k:trained"],
                            "held_out": values["fdr_k:held_out"]}  # fmt: skip
    assert row["fd"].keys() == {TINY, OTHER}


@pytest.mark.parametrize(("limit", "code"), [(1e9, 0), (1e-9, 1)])
def test_a_limit_on_the_held_out_encoders_of_a_run(run: Path, limit: float, code: int, capsys: Any) -> None:
    report = run / "evaluations" / "step-00000004.json"
    assert command(["check", str(report), "--max", f"fdr_k:held_out={limit}"]) == code
    typed = ["--gen", str(run), "--ema", "none", "-n", "20", "--ref", str(run.parent / "real"), "--trust", "--quiet"]
    typed += ["--reps", f"{TINY},{OTHER}", "--device", "cpu", "--max", f"fdr_k:held_out={limit}"]
    assert command(["check", *typed]) == code, capsys.readouterr().err


def test_the_check_of_a_run_names_frechet_hacking(run: Path, tmp_path: Path, capsys: Any) -> None:
    """Against a baseline that was worse under the trained encoder and better under the other."""
    path = run / "evaluations" / "step-00000004.json"
    (report,) = load_reports(path)
    factors = {"fdr_k:trained": 3.0, "fdr_k:held_out": 1 / 3}
    changed = [replace(row, value=row.value * factors.get(row.metric, 1.0), stderr=None) for row in report]
    from fdr.gate import baseline_of, save_baseline

    save_baseline(baseline_of([replace(report, results=tuple(changed))], "old"), tmp_path / "old.json")
    assert command(["check", str(path), "--baseline", str(tmp_path / "old.json"), "--tolerance", "900%"]) == 0
    found = capsys.readouterr()
    assert "Fréchet hacking" in found.out + found.err
