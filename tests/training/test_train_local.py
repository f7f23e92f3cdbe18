"""`--solver local` and `--population batch:debiased`: the log, resumed runs, and what a dry run plans."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import train_worlds
from test_train_run import assert_same
from train_program import options

from fdr.errors import InputError
from fdr.runtime import SOLO
from fdr.training import RunOptions, TrainOptions, plan, train
from fdr.training.folder import OPTIONS_NAME, checkpoint_path, load_checkpoint, read_options

HERE = Path(__file__).parent
STEPS = 4
EVERY = RunOptions(device="cpu", log_every=1, checkpoint_every=1, keep=99, grid_every=None, alarm_every=0)
ENCODER = "py:train_worlds:tiny"
KINDS = ({"solver": "local"}, {"solver": "local", "population": "batch"}, {"population": "batch:debiased"})


pytestmark = pytest.mark.usefixtures("one_thread")


def given(folder: Path, **changes: Any) -> TrainOptions:
    path = folder / "moments.npz"
    reference = path if path.is_file() else train_worlds.reference(folder)
    plain = options(folder, steps=STEPS, batch_size=36, reference=str(reference), monitor=(), warmup_steps=0)
    return replace(replace(plain, ema_kimg=(), arch_args={}), **changes)


def logged(run: Path, kind: str = "step") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


@pytest.mark.parametrize("changes", KINDS)
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, changes: dict[str, str]) -> None:
    chosen = given(tmp_path, **changes)
    train(chosen, tmp_path / "whole", EVERY)
    stops = iter([False, True])
    assert train(chosen, tmp_path / "halves", EVERY, should_stop=lambda: next(stops)).step == 2
    train(chosen, tmp_path / "halves", EVERY)
    states = [load_checkpoint(checkpoint_path(tmp_path / name, STEPS)) for name in ("halves", "whole")]
    assert_same(*states)


def test_rho_changes_the_parameters(tmp_path: Path) -> None:
    found = []
    for rho in (0.01, 1.0):
        train(given(tmp_path, solver="local", local_rho=rho), tmp_path / f"{rho}", EVERY)
        found.append(load_checkpoint(checkpoint_path(tmp_path / f"{rho}", STEPS))["model"])
    assert any(not torch.equal(value, found[1][name]) for name, value in found[0].items())
    with pytest.raises(InputError, match=r"rho 0.01, not 1.0"):
        train(given(tmp_path, solver="local", local_rho=1.0), tmp_path / "0.01", EVERY)


def test_the_log_does_not_call_the_quadratic_loss_fd(tmp_path: Path) -> None:
    train(given(tmp_path, solver="local"), tmp_path / "run", EVERY)
    for row in logged(tmp_path / "run"):
        assert row["fd"] == {} == row["fdr"] and row["quadratic_loss"][ENCODER] > 0
        assert "is_quadratic" not in row
    train(given(tmp_path), tmp_path / "plain", EVERY)
    assert all(row["fd"][ENCODER] > 0 and "quadratic_loss" not in row for row in logged(tmp_path / "plain"))


def test_the_alarm_measures_fresh_images_and_compares_nothing(tmp_path: Path) -> None:
    run_options = replace(EVERY, alarm_every=2, alarm_count=128)
    train(given(tmp_path, solver="local"), tmp_path / "run", run_options)
    rows = logged(tmp_path / "run", "alarm")
    assert len(rows) > 1 and all(row["population"] == {} and ENCODER in row["fd"] for row in rows[1:])


def test_the_dry_run_has_no_refreshes(tmp_path: Path) -> None:
    lines = list(plan(given(tmp_path, solver="local"), tmp_path / "run", EVERY, SOLO))
    assert "refreshes: none" in lines
    assert any(line.startswith(f"loss: quadratic loss of {ENCODER}") for line in lines)
    assert any("s in products of the solver local" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"solver": "fast"}, "1 or more, as the error estimate asks"),
        ({"solver": "newton-schulz"}, "every step"),
        ({"solver": "fast", "population": "queue:64"}, "every step"),
        ({"solver": "exact"}, "every step"),
    ],
)
def test_the_dry_run_speaks_of_an_error_estimate_where_there_is_one(
    tmp_path: Path, options: dict[str, Any], expected: str
) -> None:
    assert f"refreshes: {expected}" in list(plan(given(tmp_path, **options), tmp_path / "run", EVERY, SOLO))


def test_the_dry_run_of_a_debiased_batch_measures_the_whole_batch(tmp_path: Path) -> None:
    """64 images, which others are measured with, may be fewer than the features."""
    chosen = given(tmp_path, population="batch:debiased", batch_size=80, chunks=2)
    lines = list(plan(chosen, tmp_path / "run", EVERY, SOLO))
    assert "refreshes: every step" in lines
    assert any("measured on 80 images" in line for line in lines)
    assert any("to fill with 0 images" in line for line in lines)


def test_a_debiased_batch_that_is_too_small(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"9 samples have no debiased gradient in \d+ dimensions"):
        train(given(tmp_path, population="batch:debiased", batch_size=9), tmp_path / "run", EVERY)


def test_a_run_folder_of_before_has_the_usual_rho(tmp_path: Path) -> None:
    train(given(tmp_path, steps=2), tmp_path / "run", EVERY)
    path = tmp_path / "run" / OPTIONS_NAME
    data = json.loads(path.read_text())
    del data["options"]["local_rho"]
    path.write_text(json.dumps(data))
    assert read_options(tmp_path / "run").local_rho == TrainOptions("g").local_rho
