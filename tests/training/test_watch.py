"""Runs that learn nothing end with an error that says why; signs of it are told on the way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import train_worlds
from torch import Tensor, nn
from train_program import options

from fdr.cli import run as command
from fdr.errors import FdrWarning, InputError, RunError
from fdr.training import RunOptions, train
from fdr.training.folder import checkpoint_path, list_checkpoints, load_checkpoint
from fdr.training.watch import BatchStatistics, OverfitWatch, Watch, batch_statistics, fingerprint

OFTEN = RunOptions(device="cpu", log_every=1, checkpoint_every=5, grid_every=None)
STEPS = 6
FORWARD = train_worlds.Net.forward
Change = Callable[[nn.Module, Tensor], Tensor]


pytestmark = pytest.mark.usefixtures("one_thread")


def broken(monkeypatch: pytest.MonkeyPatch, change: Callable[[nn.Module, Tensor], Any]) -> None:
    """Networks whose images in training mode are changed."""

    def forward(self: Any, noise: Tensor) -> Tensor:
        images = FORWARD(self, noise)
        return change(self, images) if self.training else images

    monkeypatch.setattr(train_worlds.Net, "forward", forward)


def log_of(run: Path, kind: str) -> list[dict[str, Any]]:
    return [row for line in (run / "log.jsonl").read_text().splitlines() if (row := json.loads(line))["kind"] == kind]


def go(folder: Path, **changes: Any) -> None:
    train(options(folder, monitor=(), steps=STEPS, **changes), folder / "run", OFTEN)


def said(folder: Path) -> str:
    return "\n".join(row["text"] for row in log_of(folder / "run", "warning"))


def detach(_: nn.Module, images: Tensor) -> Tensor:
    return images.detach()


def leave(_: nn.Module, __: Tensor) -> Tensor:
    raise SystemExit(0)


@pytest.mark.filterwarnings("ignore::fdr.errors.FdrWarning")
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda _, x: x * math.nan,
            r"learned nothing: none of the 6 steps was taken; of the last one the reason is: Enc",
        ),
        (
            lambda net, x: x * 0 + net.last.bias.mean() * 0 + 0.5,
            r"the gradient has been exactly 0 from step 1 to its end",
        ),
        (lambda _, x: x.clamp(2, 3) - 1.5, r"the gradient has been exactly 0 from step 1 to its end"),
    ],
    ids=["nan", "constant", "saturated"],
)
def test_a_run_that_learned_nothing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, sentence: str
) -> None:
    broken(monkeypatch, change)
    for _ in range(2):  # it is none that has finished, when the same command is given again
        with pytest.raises(RunError, match=rf"Run .*{sentence}"):
            go(tmp_path)
    assert "Nothing was learned: " in said(tmp_path)
    assert STEPS not in list_checkpoints(tmp_path / "run")


@pytest.mark.filterwarnings("ignore::fdr.errors.FdrWarning")
def test_a_rate_at_which_no_parameter_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="6 steps have changed no parameter: lr is too small for them"):
        go(tmp_path, lr=1e-30)


@pytest.mark.filterwarnings("ignore::fdr.errors.FdrWarning")
def test_a_rate_that_breaks_the_network(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has learned nothing: |steps in a row were skipped"):
        go(tmp_path, lr=1e10, warmup_steps=0, clip=None)
    assert "The gradient has been exactly 0 since step" in said(tmp_path)


@pytest.mark.parametrize(
    ("change", "kind", "sentence"),
    [
        (detach, InputError, "makes images without a gradient, so that it cannot be trained"),
        (leave, RunError, r"failed in step 1 \(SystemExit"),
        (lambda _, x: x[..., :4], RunError, "made images of 16 x 4 in step 1, and of 16 x 16 before"),
    ],
    ids=["detached", "exit", "size"],
)
def test_a_network_that_fails_in_training_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, kind: type[Exception], sentence: str
) -> None:
    broken(monkeypatch, change)
    with pytest.raises(kind, match=sentence):
        go(tmp_path)
    assert list(list_checkpoints(tmp_path / "run")) == [0]  # what was done stays


def test_a_network_without_a_gradient_is_found_before_anything_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_worlds.Net, "forward", lambda self, noise: FORWARD(self, noise).detach())
    monkeypatch.setattr("fdr.loss.FDLoss.fill", lambda *_, **__: 1 / 0)
    with pytest.raises(InputError, match="must not detach them"):
        go(tmp_path, chunks=2)


def test_one_that_detaches_in_eval_mode_alone_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, noise: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            return FORWARD(self, noise)

    monkeypatch.setattr(train_worlds.Net, "forward", forward)
    go(tmp_path)
    assert not log_of(tmp_path / "run", "warning")


def test_a_good_run_is_not_warned_of(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    go(tmp_path)
    assert not log_of(tmp_path / "run", "warning")


def test_most_steps_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, lambda net, x: x * (math.nan if net.calls.append(0) or len(net.calls) > 2 else 1))
    monkeypatch.setattr(train_worlds.Net, "calls", [], raising=False)
    with pytest.warns(FdrWarning, match="4 of 6 steps were skipped; of the last one the reason is: Encoder"):
        go(tmp_path)
    assert [row["skipped"] for row in log_of(tmp_path / "run", "step")] == [0, 0]


def test_the_command_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(monkeypatch, lambda _, x: x * math.nan)
    given = ["--gen", train_worlds.weights(tmp_path), "--arch", "train_worlds:Net", "--steps", 3, "--fill", 20]
    given += ["--ref", train_worlds.reference(tmp_path), "--reps", "py:train_worlds:tiny", "--batch-size", 4]
    assert command(["train", *map(str, given), "--device", "cpu", "-o", str(tmp_path / "run")]) == 1
    found = capsys.readouterr()
    assert "has learned nothing: none of the 3 steps was taken" in found.err and "finished" not in found.out


class TestWatch:
    """Signs by themselves."""

    def test_each_is_said_once_and_again_when_it_came_back(self) -> None:
        watch, equal = Watch(), BatchStatistics(4, 0.0, 0.0)
        (text,) = watch.look(1, {}, (), equal)
        assert text.startswith("All 4 images of step 1 are equal")
        assert watch.look(2, {}, (), equal) == []
        assert watch.look(3, {}, (), BatchStatistics(4, 0.1, 0.0)) == []
        assert len(watch.look(4, {}, (), equal)) == 1
        assert watch.look(5, {}, (), BatchStatistics(1, 0.0, 0.0)) == []  # one image equals itself

    def test_values_that_leave_the_range(self) -> None:
        images = torch.full((2, 3, 4, 4), 0.5)
        images[0, 0] = 1.2
        found = batch_statistics(images)
        assert (found.count, found.spread) == (2, pytest.approx(0.7))
        assert found.outside == pytest.approx(1 / 6)
        (text,) = Watch().look(3, {}, (), found)
        assert text.startswith("17% of the values of step 3 lie outside of the value range")

    def test_a_gradient_of_zero_counts_from_its_first_step(self) -> None:
        watch = Watch()
        for step, norm in enumerate((1.0, 0.0, 0.0), 1):
            watch.record(step, norm, None)
        assert watch.zero_since == 2
        watch.record(4, math.nan, "skipped")
        assert (watch.zero_since, watch.fault) == (2, "skipped")
        (text,) = watch.look(4, {}, ())
        assert "exactly 0 since step 2" in text
        watch.record(5, 1e-30, None)
        assert watch.zero_since is None and watch.look(5, {}, ()) == []

    def test_a_distance_that_stands_still_and_one_that_grows(self) -> None:
        watch = Watch()
        assert [watch.look(step, {"a": 3.0}, ["a"]) for step in (1, 2)] == [[], []]
        (text,) = watch.look(3, {"a": 3.0}, ["a"])
        assert text.startswith("The FD of a has been 3, to the last digit, at 3 logged steps in a row")
        (text,) = watch.look(4, {"a": 31.0, "w": 99.0}, ["a"])
        assert text.startswith("The FD of a is 10.3 times that of the first step")

    def test_the_loss_of_the_solver_local_is_called_no_fd(self) -> None:
        watch, overfit = Watch(measure="quadratic loss"), OverfitWatch(measure="quadratic loss")
        sentences = [text for step in (1, 2, 3) for text in watch.look(step, {"a": 3.0}, ["a"])]
        sentences += watch.look(4, {"a": 31.0}, ["a"])
        overfit.look(1, {"a": 10.0}, {"w": 1.0})
        sentences += overfit.look(2, {"a": 9.0}, {"w": 2.0})
        assert len(sentences) == 3 and all(" the quadratic loss of " in text.lower() for text in sentences[2:])
        assert all(text.startswith("The quadratic loss of a ") for text in sentences[:2])

    def test_growth_counts_from_above_ten_times_the_first_distance(self) -> None:
        watch = Watch()
        assert watch.look(1, {"a": 3.0}, ["a"]) == watch.look(2, {"a": 30.0}, ["a"]) == []
        assert len(watch.look(3, {"a": 30.01}, ["a"])) == 1

    @pytest.mark.parametrize("first", [0.0, -1e-9])
    def test_nothing_is_a_multiple_of_a_first_distance_of_0(self, first: float) -> None:
        watch = Watch()
        assert watch.look(1, {"a": first}, ["a"]) == watch.look(2, {"a": 5.0}, ["a"]) == []

    def test_verdicts(self) -> None:
        parameters = [torch.ones(3), torch.zeros(2, 2)]
        watch = Watch(fingerprint(parameters), fault="a reason.")
        assert (
            watch.verdict(5, 0, parameters) == "none of the 5 steps was taken; of the last one the reason is: a reason"
        )
        assert "have changed no parameter" in str(watch.verdict(5, 5, parameters))
        parameters[1][0, 0] = 1e-7
        assert watch.verdict(5, 5, parameters) is None
        watch.zero_since = 3
        assert watch.verdict(5, 5, parameters) == "the gradient has been exactly 0 from step 3 to its end"
        assert watch.verdict(8, 5, parameters) == watch.verdict(5, 5, parameters)
        watch.zero_since = 7
        assert watch.verdict(8, 5, parameters) is None
        parameters[0][0] = math.inf
        assert watch.verdict(8, 5, parameters) == "its parameters hold values that are not finite; a reason"

    def test_its_state_goes_on(self) -> None:
        watch, other = Watch([1.0], 3, "x"), Watch()
        other.load_state_dict(json.loads(json.dumps(watch.state_dict())))
        assert other == watch


def test_intervals_of_0_switch_a_thing_off(tmp_path: Path) -> None:
    never = RunOptions(
        device="cpu", log_every=0, checkpoint_every=0, grid_every=0, eval_every=0, milestone_every=0, alarm_every=0
    )
    train(options(tmp_path, monitor=(), steps=STEPS), tmp_path / "run", never)
    assert list(list_checkpoints(tmp_path / "run")) == [0, STEPS]
    assert not (tmp_path / "run" / "grids").exists() and not (tmp_path / "run" / "evaluations").exists()
    assert (tmp_path / "run" / "log.jsonl").read_text() == ""
    with pytest.raises(InputError, match="must be at least 0; got -1"):
        RunOptions(grid_every=-1)


def test_a_finished_run_says_how_it_is_extended(tmp_path: Path) -> None:
    go(tmp_path)
    for change in ({"steps": 2 * STEPS}, {"lr": 1e-3}):
        with pytest.raises(InputError, match=r"start a new run .* in another folder: fdr train --gen .*run -o NEW"):
            train(options(tmp_path, **{"monitor": (), "steps": STEPS, **change}), tmp_path / "run", OFTEN)
    longer = options(tmp_path, monitor=(), steps=STEPS, gen=str(tmp_path / "run"))
    train(longer, tmp_path / "further", replace(OFTEN, keep=9))
    before = load_checkpoint(checkpoint_path(tmp_path / "run", STEPS))["model"]
    begun = load_checkpoint(checkpoint_path(tmp_path / "further", 0))["model"]
    assert all(torch.equal(begun[name], value) for name, value in before.items())
