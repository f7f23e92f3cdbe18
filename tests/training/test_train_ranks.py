"""What one rank of several does in training, without the others: its part of draws, of gradients and of files.

tests/training/test_train_cli.py compares two real ranks with one; this file is for faults that a rounding could hide.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import train_worlds
from torch import Tensor
from train_program import options

from fdr.errors import RunError
from fdr.generators import noise_of
from fdr.runtime.ranks.group import Solo
from fdr.training import RunOptions, TrainOptions, train
from fdr.training.folder import checkpoint_path, list_checkpoints, load_checkpoint, locked
from fdr.training.log import SilentView
from fdr.training.loop import _Run
from fdr.training.step import stream_seed

EVERY = RunOptions(device="cpu", log_every=1, checkpoint_every=1, keep=99, grid_every=None, alarm_every=0)
FORWARD = train_worlds.Net.forward


pytestmark = pytest.mark.usefixtures("one_thread")


class Second(Solo):
    """The second of two ranks; the gradient of the first is `times` - 1 times its own."""

    rank, size = 1, 2

    def __init__(self, times: float = 1.0, stops: bool = False) -> None:
        self.times, self.stops, self.summed = times, stops, list[list[torch.Size]]()

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        self.summed.append([tensor.shape for tensor in tensors])
        for tensor in tensors:
            tensor *= self.times

    def is_any(self, condition: bool) -> bool:
        return condition or self.stops


def given(folder: Path, **changes: Any) -> TrainOptions:
    reference = str(train_worlds.reference(folder))
    plain = options(folder, arch_args={}, monitor=(), fill=0, population="batch", steps=3, batch_size=10)
    return replace(replace(plain, clip=None, warmup_steps=1, lr=1e-2, reference=reference), **changes)


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch, ranks: Second, **changes: Any) -> Any:
    monkeypatch.setattr("fdr.training.loop.tensor_ranks", lambda *_: ranks)
    return train(given(folder, **changes), folder / "run", EVERY)


def norms(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    return [row["grad_norm"] for row in rows if row["kind"] == "step"]


def test_a_rank_draws_its_own_part_of_every_batch_with_seeds_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    seeds: list[int] = []

    def forward(net: Any, noise: Tensor) -> Tensor:
        if net.training:
            seen.append(noise.clone())
            seeds.append(torch.initial_seed())
        return FORWARD(net, noise)

    monkeypatch.setattr(train_worlds.Net, "forward", forward)
    trained(tmp_path, monkeypatch, Second())
    for step, noise in enumerate(seen):
        rows = range(10 * step + 5, 10 * step + 10)
        torch.testing.assert_close(noise, noise_of(stream_seed(0, "train"), rows, (6,), torch.device("cpu")))
    assert seeds == [stream_seed(0, f"step {step}, rank 1, chunk 0") for step in range(3)]


def test_the_gradient_is_the_sum_over_the_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, times in (("one", 1.0), ("three", 3.0)):
        (tmp_path / name).mkdir()
        trained(tmp_path / name, monkeypatch, Second(times))
    one, three = norms(tmp_path / "one"), norms(tmp_path / "three")
    assert three[:2] == pytest.approx([3 * norm for norm in one[:2]], rel=1e-6)  # the first step has a rate of 0


def test_all_ranks_sum_the_same_tensors_whether_a_parameter_was_used_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(net: Any, noise: Tensor) -> Tensor:
        uses_bias = not net.training or bool(noise[0, 0] > 0)
        hidden = torch.tanh(torch.nn.functional.linear(noise, net.first.weight, net.first.bias if uses_bias else None))
        return torch.nn.functional.interpolate(torch.sigmoid(net.last(hidden)).unflatten(1, (3, 8, 8)), scale_factor=2)

    monkeypatch.setattr(train_worlds.Net, "forward", forward)
    ranks = Second()
    trained(tmp_path, monkeypatch, ranks, steps=6)
    assert ranks.summed == [[parameter.shape for parameter in train_worlds.Net().parameters()]] * 6


def test_all_ranks_stop_when_one_of_them_is_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = trained(tmp_path, monkeypatch, Second(stops=True))
    assert (result.step, result.is_finished) == (1, False)
    assert list(list_checkpoints(tmp_path / "run")) == [0, 1]


def test_the_first_rank_alone_averages_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path, monkeypatch, Second(), ema_kimg=(0.1,))
    assert load_checkpoint(checkpoint_path(tmp_path / "run", 3))["model_ema"]["shadows"] == {}


def test_the_filling_of_populations_is_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    monkeypatch.setattr("fdr.loss.FDLoss.fill", lambda _, parts, *__, **___: counts.extend(map(len, parts)))
    trained(tmp_path, monkeypatch, Second(), fill=51, population="ema:0.9", steps=1, warmup_steps=0)
    assert sum(counts) == 26  # rows 25 to 50


class Follower(Solo):
    """A rank of a training program that is not the first; the first one tells it nothing but None."""

    rank = 1

    def broadcast(self, value: Any) -> Any:
        assert value is None
        return value


class Shown(SilentView):
    def __init__(self) -> None:
        self.records: list[Any] = []

    def show(self, record: Any) -> None:
        self.records.append(record)


def test_a_rank_that_is_not_the_first_writes_and_shows_nothing(tmp_path: Path) -> None:
    """And it does not wait for the folder, which the first one holds."""
    run, view, chosen = tmp_path / "run", Shown(), replace(EVERY, grid_every=1, grid_size=4)
    with locked(run):
        held = list(run.rglob("*"))
        assert train(given(tmp_path), run, chosen, group=Follower(), view=view).is_finished
        assert list(run.rglob("*")) == held and len(held) == 1
    assert view.records == []


def test_what_fails_between_steps_is_a_warning_alone_and_the_end_where_others_wait() -> None:
    said: list[str] = []

    def fail() -> None:
        raise RunError("no luck")

    run = SimpleNamespace(ranks=Solo(), step=7, _warn=said.append)
    _Run._try(run, "sample grid", fail)  # type: ignore[arg-type]
    assert said == ["The sample grid of step 7 failed, and the run goes on: no luck"]
    run.ranks = Second()
    with pytest.raises(RunError, match="no luck"):
        _Run._try(run, "sample grid", fail)  # type: ignore[arg-type]
    assert len(said) == 1


@pytest.mark.filterwarnings("ignore::fdr.errors.FdrWarning")
def test_a_resumed_run_goes_on_with_what_it_has_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason of the last skipped step, the skipped steps in a row, and the lowest distances."""
    chosen = given(tmp_path, monitor=("py:train_worlds:other",), steps=6, batch_size=8, max_skipped=3)
    chosen = replace(chosen, reference=options(tmp_path).reference)
    calls = iter(range(99))
    broken = lambda net, noise: FORWARD(net, noise) * (float("nan") if net.training and next(calls) > 1 else 1)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(train_worlds.Net, "forward", broken)
        stops = iter([False, False, False, True])
        train(chosen, tmp_path / "run", EVERY, should_stop=lambda: next(stops))
    before = load_checkpoint(checkpoint_path(tmp_path / "run", 4))
    assert (before["in_a_row"], before["taken"]) == (2, 2) and before["watch"]["fault"]
    assert before["parting"]["lowest"].keys() == {"py:train_worlds:other"}
    train(chosen, tmp_path / "run", EVERY, should_stop=lambda: True)
    after = load_checkpoint(checkpoint_path(tmp_path / "run", 5))
    assert (after["in_a_row"], after["taken"]) == (0, 3)
    assert after["watch"] == before["watch"]
    step, low, _ = before["parting"]["lowest"]["py:train_worlds:other"]
    kept = after["parting"]["lowest"]["py:train_worlds:other"]
    assert kept[1] <= low and (kept[0] == step or kept[1] < low)
