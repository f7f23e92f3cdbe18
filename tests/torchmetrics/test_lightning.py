"""`fdr.lightning.EvaluationCallback` in real Trainers of Lightning, with one process and with two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from worlds import TinyEncoder, images

import fdr
from fdr.errors import FdrWarning, InputError
from fdr.torchmetrics import Evaluation, FrechetDistance

pytest.importorskip("lightning.pytorch")
import lightning.pytorch as lightning

from fdr.lightning import EvaluationCallback

NUM_IMAGES, SIDE = 12, 8
REFERENCE = images(30, side=SIDE)


class Model(lightning.LightningModule):
    """A generator that is trained with dropout, so that its weights depend on the random numbers of the training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.layers = nn.Sequential(nn.Linear(4, 3 * SIDE * SIDE), nn.Dropout(0.5), nn.Sigmoid())
        self.made: list[Tensor] = []
        self.labels: list[Tensor | None] = []
        self.modes: list[bool] = []

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.modes.append(self.training and self.layers.training)
        return (self.layers(torch.randn(len(batch), 4)) - batch).square().mean()

    def validation_step(self, batch: Tensor, index: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.rate)

    def sample(self, count: int, labels: Tensor | None) -> Tensor:
        assert not self.layers.training
        self.labels.append(labels)
        self.made.append(self.layers(torch.randn(count, 4)).view(count, 3, SIDE, SIDE))
        return self.made[-1]


def trained(
    callbacks: list[Any], folder: Path, rate: float = 0.1, kind: type[Model] = Model, **options: Any
) -> tuple[Any, Any]:
    """A model after two short epochs, and its trainer."""
    lightning.seed_everything(0, verbose=False)
    model, batches = kind(rate), DataLoader([torch.rand(3 * SIDE * SIDE) for _ in range(4)], batch_size=2)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    fixed = {"max_epochs": 2, "accelerator": "cpu", "default_root_dir": folder, **quiet}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(callbacks=callbacks, **(fixed | options))
        trainer.fit(model, batches, batches)
    return model, trainer


def callback(metric: Any = None, **options: Any) -> EvaluationCallback:
    metric = metric or Evaluation([TinyEncoder()], ["fd", "recall"], REFERENCE)
    return EvaluationCallback(metric, Model.sample, NUM_IMAGES, batch_size=5, **options)


@pytest.mark.parametrize("after", ["validation", "train"])
def test_the_logged_numbers_are_those_of_an_evaluation(after: str, tmp_path: Path) -> None:
    model, trainer = trained([callback(after=after)], tmp_path)
    prefix = {"validation": "val/", "train": "train/"}[after]
    assert [len(batch) for batch in model.made] == [5, 5, 2] * 2  # not after the sanity check
    last = torch.cat(model.made[3:])
    expected = {prefix + r.key: r.value for r in fdr.evaluate(last, REFERENCE, [TinyEncoder()], "fd,recall")}
    found = {key: value.item() for key, value in trainer.callback_metrics.items()}
    assert found == pytest.approx(expected, rel=1e-6)


def test_training_goes_on_as_if_nothing_had_been_drawn(tmp_path: Path) -> None:
    with_callback, _ = trained([callback(), callback(after="train")], tmp_path)
    alone, _ = trained([], tmp_path)
    pairs = zip(with_callback.parameters(), alone.parameters(), strict=True)
    assert all(a.equal(b) for a, b in pairs) and all(with_callback.modes)


def test_a_single_distance_is_logged_under_its_key_and_epochs_can_be_left_out(tmp_path: Path) -> None:
    chosen = callback(FrechetDistance(TinyEncoder(), REFERENCE), every_n_epochs=2, prefix="")
    model, trainer = trained([chosen], tmp_path)
    assert len(model.made) == 3 and set(trainer.callback_metrics) == {"fd:tiny"}
    assert chosen.metric.report["fd"].count == NUM_IMAGES


TWO_RANKS = """
import json, sys, test_lightning as program
ranks = {"devices": 2, "strategy": "ddp_fork"}
_, trainer = program.trained([program.callback(after="train")], sys.argv[1], 0.0, max_epochs=1, **ranks)
print(json.dumps({key: value.item() for key, value in trainer.callback_metrics.items()}))
"""


class Logged(Model):
    """A model that updates a metric in its validation steps, and logs the metric itself."""

    def __init__(self, rate: float) -> None:
        super().__init__(rate)
        self.distance = FrechetDistance(TinyEncoder(), REFERENCE)

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.distance(self.sample(6, None))
        self.log("distance", self.distance, on_step=False, on_epoch=True)


def test_lightning_logs_a_metric_of_the_module_itself(tmp_path: Path) -> None:
    model, trainer = trained([], tmp_path, kind=Logged, max_epochs=1, num_sanity_val_steps=0)
    expected = fdr.evaluate(torch.cat(model.made), REFERENCE, [TinyEncoder()], "fd")["fd"].value
    assert trainer.callback_metrics["distance"].item() == pytest.approx(expected, rel=1e-6)
    assert len(model.made) == 2 and model.distance.update_count == 0


def test_seed_and_labels_reach_the_model(tmp_path: Path) -> None:
    plain, _ = trained([callback()], tmp_path, 0.0, max_epochs=1)
    model, _ = trained([callback(seed=7, labels="balanced", num_classes=3)], tmp_path, 0.0, max_epochs=1)
    assert torch.cat(model.labels).tolist() == [0, 1, 2] * 4 and set(plain.labels) == {None}
    assert not torch.cat(model.made).equal(torch.cat(plain.made))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked")
def test_two_ranks_log_the_number_of_one(tmp_path: Path) -> None:
    """With a learning rate of 0, since two ranks train on other batches than one."""
    _, alone = trained([callback(after="train")], tmp_path, 0.0, max_epochs=1)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent), *sys.path]))}
    command = [sys.executable, "-W", "ignore", "-c", TWO_RANKS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    expected = {key: value.item() for key, value in alone.callback_metrics.items()}
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(expected, rel=1e-9)


def test_a_training_without_validation_is_warned_of() -> None:
    trainer = lightning.Trainer(max_epochs=1, limit_val_batches=0, logger=False, enable_checkpointing=False)
    trainer.strategy.connect(Model(0.1))
    with pytest.warns(FdrWarning, match="The trainer runs no validation, so no images are drawn"):
        callback().on_train_start(trainer, trainer.lightning_module)
    callback(after="train").on_train_start(trainer, trainer.lightning_module)


def test_bad_options_are_one_sentence() -> None:
    with pytest.raises(InputError, match=r"got str and function"):
        callback("random")
    with pytest.raises(InputError, match="after 'validation' or 'train'"):
        callback(after="test")
    with pytest.raises(InputError, match="every_n_epochs=0"):
        callback(every_n_epochs=0)


def test_without_lightning_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "fdr.lightning.callback")
    monkeypatch.delitem(vars(fdr.lightning), "EvaluationCallback", raising=False)
    with pytest.raises(InputError, match=r"pip install 'fdr-eval\[lightning\]'"):
        fdr.lightning.EvaluationCallback  # noqa: B018
