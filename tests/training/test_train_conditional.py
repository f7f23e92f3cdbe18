"""`fdr train --conditional`: labels of the draws reach the loss, the log and a resumed run; and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train_worlds
from safetensors.torch import save_file
from train_program import SPARSE, options
from worlds import images, npz

from fdr.errors import InputError
from fdr.runtime import SOLO
from fdr.training import RunOptions, TrainOptions, plan, train
from fdr.training.folder import list_checkpoints, load_checkpoint

STEPS = 6
EVERY = RunOptions(device="cpu", log_every=1, checkpoint_every=3, grid_every=None)


pytestmark = pytest.mark.usefixtures("one_thread")


def given(folder: Path, classes: int = 5, **changes: Any) -> TrainOptions:
    """A run of `ClassNet`, which has 5 classes, towards 40 images of `classes` classes."""
    torch.manual_seed(0)
    save_file(train_worlds.ClassNet().state_dict(), folder / "classes.safetensors")
    reference = npz(folder / "labelled.npz", images(40), arr_1=np.arange(40) % classes)
    plain = options(folder, arch_args={}, steps=STEPS, clip=None, gen=str(folder / "classes.safetensors"))
    found = replace(plain, arch="train_worlds:ClassNet", reference=str(reference), conditional=2.0)
    return replace(found, **changes)


def parameters(run: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    return load_checkpoint(list_checkpoints(run)[step])["model"]


def rows_of(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "step"]


def test_labels_are_trained_and_logged(tmp_path: Path) -> None:
    train(given(tmp_path), tmp_path / "with", EVERY)
    train(given(tmp_path, conditional=None), tmp_path / "without", EVERY)
    rows, plain = rows_of(tmp_path / "with"), rows_of(tmp_path / "without")
    assert {name for row in rows for name in row["class_distance"]} == {"py:train_worlds:tiny", "py:train_worlds:other"}
    assert all(row["class_distance"] == {} for row in plain)
    assert rows[0]["fd"] == plain[0]["fd"] and rows[-1]["fd"] != plain[-1]["fd"]
    tables = [parameters(tmp_path / run)["network.table.weight"] for run in ("with", "without")]
    assert (tables[0] - tables[1]).abs().max() > 1e-3


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    train(given(tmp_path), tmp_path / "whole", EVERY)
    seen = iter(range(99))
    train(given(tmp_path), tmp_path / "parts", EVERY, should_stop=lambda: next(seen) == 3)
    assert max(list_checkpoints(tmp_path / "parts")) == 4
    train(given(tmp_path), tmp_path / "parts", EVERY)
    whole, parts = parameters(tmp_path / "whole"), parameters(tmp_path / "parts")
    assert all(torch.equal(parts[name], value) for name, value in whole.items())
    distances = [[row["class_distance"] for row in rows_of(tmp_path / run)] for run in ("whole", "parts")]
    assert distances[0] == distances[1]


def test_chunks_are_the_whole_batch(tmp_path: Path) -> None:
    train(given(tmp_path), tmp_path / "whole", SPARSE)
    train(given(tmp_path, chunks=2), tmp_path / "parts", SPARSE)
    whole, parts = parameters(tmp_path / "whole"), parameters(tmp_path / "parts")
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-5)


def test_evaluations_have_the_conditional_fd(tmp_path: Path) -> None:
    train(given(tmp_path, steps=2), tmp_path / "run", replace(EVERY, eval_every=2, eval_count=30))
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    (found,) = [row for row in rows if row["kind"] == "evaluation"]
    assert found["fd_conditional"].keys() == found["fd"].keys() and found["fd_conditional"] != found["fd"]


def test_the_plan_names_the_classes(tmp_path: Path) -> None:
    lines = list(plan(given(tmp_path), tmp_path / "run", EVERY, SOLO))
    assert "classes: 5, with 2 times the gradient of FD" in lines


def test_an_unconditional_generator_is_refused(tmp_path: Path) -> None:
    unconditional = options(tmp_path, conditional=2.0, arch_args={}, gen=str(train_worlds.weights(tmp_path)))
    with pytest.raises(InputError, match="has no classes, so --conditional has no labels to train"):
        train(unconditional, tmp_path / "run", EVERY)


def test_a_reference_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"plain\.npz have no labels, which --conditional needs"):
        train(given(tmp_path, reference=str(npz(tmp_path / "plain.npz", images(40)))), tmp_path / "run", EVERY)
    with pytest.raises(InputError, match="has no classes, which a conditional loss needs"):
        moments = str(train_worlds.reference(tmp_path))
        train(given(tmp_path, reference=moments, monitor=()), tmp_path / "run", EVERY)


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 5 classes and the reference has 4"):
        train(given(tmp_path, classes=4), tmp_path / "run", EVERY)


def test_the_ratio_is_above_0(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--conditional is a ratio above 0, such as 2"):
        given(tmp_path, conditional=0.0)


def test_a_run_from_before_the_option_goes_on(tmp_path: Path) -> None:
    """A stored option that is missing has its default."""
    seen = iter(range(99))
    train(given(tmp_path, conditional=None), tmp_path / "run", EVERY, should_stop=lambda: next(seen) == 2)
    path = tmp_path / "run" / "train.json"
    stored = json.loads(path.read_text())
    del stored["options"]["conditional"]
    path.write_text(json.dumps(stored))
    assert train(given(tmp_path, conditional=None), tmp_path / "run", EVERY).is_finished
