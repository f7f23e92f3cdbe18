"""Steps of a run against the same steps by hand: autograd through eigenvalues, formulas of AdamW and of averages."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train_worlds
from loss_worlds import distance
from safetensors.torch import load_file
from torch import Tensor, nn
from train_program import options
from worlds import DIM, TinyEncoder

import fdr
from fdr.errors import FdrError, InputError, RunError
from fdr.runtime import SOLO
from fdr.training import RunOptions, TrainOptions, plan, setup, train
from fdr.training.alarms import PAIRS
from fdr.training.folder import checkpoint_path, load_checkpoint
from fdr.training.step import Draws, Stepper

HERE = Path(__file__).parent
STEPS, BATCH = 4, 24
EVERY = RunOptions(device="cpu", log_every=1, checkpoint_every=1, keep=99, grid_every=None, alarm_every=0)
NEVER = RunOptions(device="cpu", log_every=0, checkpoint_every=0, grid_every=None, alarm_every=0)
FORWARD = train_worlds.Net.forward
ENCODER = "py:train_worlds:tiny"


pytestmark = pytest.mark.usefixtures("one_thread")


def given(folder: Path, **changes: Any) -> TrainOptions:
    plain = options(folder, arch_args={}, monitor=(), fill=0, population="batch", steps=STEPS, batch_size=BATCH)
    return replace(replace(plain, clip=None, warmup_steps=1, lr=1e-2), **changes)


def rows_of(run: Path, kind: str = "step") -> list[dict[str, Any]]:
    return [row for line in (run / "log.jsonl").read_text().splitlines() if (row := json.loads(line))["kind"] == kind]


def state_of(run: Path, step: int) -> dict[str, Any]:
    return load_checkpoint(checkpoint_path(run, step))


def named(state: dict[str, Tensor], name: str) -> Tensor:
    """The weight of the network in the state of the generator around it."""
    return next(value for key, value in state.items() if key.endswith(name))


class Record:
    """Records the noise of every pass in training mode, and torch's seed in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.noise: list[Tensor] = []
        self.seeds: list[int] = []

        def forward(net: Any, noise: Tensor) -> Tensor:
            if net.training:
                self.noise.append(noise.clone())
                self.seeds.append(torch.initial_seed())
            return FORWARD(net, noise)

        monkeypatch.setattr(train_worlds.Net, "forward", forward)


def by_hand(
    options: TrainOptions, reference: fdr.Moments, noise: list[Tensor]
) -> tuple[Any, list[dict[str, float]], Any]:
    """Parameters, a row a step, and averages by half-life."""
    net = train_worlds.Net()
    net.load_state_dict(load_file(options.gen))
    start = {name: value.clone() for name, value in net.state_dict().items()}
    averages = {half_life: dict(start) for half_life in options.ema_kimg}
    first = {name: torch.zeros_like(value) for name, value in net.named_parameters()}
    second = {name: torch.zeros_like(value) for name, value in net.named_parameters()}
    beta1, beta2 = options.betas
    rows = []
    for step in range(options.steps):
        warmup = options.warmup_steps or 0
        part = (step - warmup) / (options.steps - warmup)
        lr = options.lr * (step / warmup if step < warmup else (1 + math.cos(math.pi * part)) / 2)
        features = train_worlds.tiny()(FORWARD(net, noise[step]))["features"]
        fd = distance(features.double(), reference)
        net.zero_grad()
        (fd / (fd.detach() + options.eps)).backward()
        norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in net.parameters()))
        scale = 1.0 if options.clip is None else min(1.0, options.clip / norm)
        with torch.no_grad():
            for name, p in net.named_parameters():
                g = p.grad * scale
                p *= 1 - lr * options.weight_decay
                first[name] = beta1 * first[name] + (1 - beta1) * g
                second[name] = beta2 * second[name] + (1 - beta2) * g**2
                m, v = first[name] / (1 - beta1 ** (step + 1)), second[name] / (1 - beta2 ** (step + 1))
                p -= lr * m / (v.sqrt() + 1e-8)
            for half_life, average in averages.items():
                kept = 0.5 ** (BATCH / min(1000 * half_life, 0.05 * (step + 1) * BATCH))
                averages[half_life] = {n: kept * a + (1 - kept) * net.state_dict()[n] for n, a in average.items()}
        rows.append({"lr": lr, "grad_norm": norm, "fd": fd.item(), "loss": fd.item() / (fd.item() + options.eps)})
    return net.state_dict(), rows, averages


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weight_decay": 3.0},
        {"betas": (0.5, 0.7)},
        {"clip": 1e-6},
        {"eps": 50.0},
        {"chunks": 2},
        {"ema_kimg": (0.001, 0.5)},
        {"lr": 1e-3, "warmup_steps": 3},
    ],
    ids=lambda changes: next(iter(changes), "plain"),
)
def test_steps_equal_those_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    chosen = replace(given(tmp_path), reference=str(train_worlds.reference(tmp_path)), **changes)
    record = Record(monkeypatch)
    train(chosen, tmp_path / "run", EVERY)
    passes = [torch.cat(record.noise[i : i + chosen.chunks]) for i in range(0, len(record.noise), chosen.chunks)]
    noise = passes[:: 2 if chosen.chunks > 1 else 1]  # accumulate passes every chunk twice
    state, rows, averages = by_hand(chosen, fdr.Moments.load(chosen.reference), noise)
    for found, row in zip(rows_of(tmp_path / "run"), rows, strict=True):
        assert found["lr"] == pytest.approx(row["lr"], rel=1e-12)
        assert found["fd"][ENCODER] == pytest.approx(row["fd"], rel=1e-4)
        assert found["loss"] == pytest.approx(row["loss"], rel=1e-4)
        assert found["grad_norm"] == pytest.approx(row["grad_norm"], rel=1e-3)
    final = state_of(tmp_path / "run", STEPS)
    start = load_file(chosen.gen)
    for name, value in state.items():
        moved = float((value - start[name]).norm())
        assert float((named(final["model"], name) - value).norm()) < 1e-2 * moved
        for half_life, average in averages.items():
            gap = named(final["model_ema"]["shadows"][f"edm_{half_life:g}"], name) - average[name]
            assert float(gap.norm()) < 1e-2 * moved


def test_unit_gradients_are_divided_by_the_share_of_the_batch(tmp_path: Path) -> None:
    """A batch has 1 - beta of a filled EMA, so that the norm at the first step is ten times as large."""
    norms = {}
    for gradient in ("raw", "unit"):
        chosen = given(tmp_path, gradient=gradient)
        train(replace(chosen, population="ema:0.9", fill=48, steps=2), tmp_path / gradient, EVERY)
        norms[gradient] = rows_of(tmp_path / gradient)[0]["grad_norm"]
    assert norms["unit"] == pytest.approx(10 * norms["raw"], rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"dtype": "bf16"}, {"encoder_dtype": "bf16"}], ids=str)
def test_bf16_is_used_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str]
) -> None:
    seen: dict[str, set[bool]] = {"dtype": set(), "encoder_dtype": set()}
    encode = TinyEncoder.forward

    def forward(net: Any, noise: Tensor) -> Tensor:
        if net.training:
            seen["dtype"].add(torch.is_autocast_enabled("cpu"))
        return FORWARD(net, noise)

    def encoded(encoder: Any, *rest: Any) -> Any:
        seen["encoder_dtype"].add(torch.is_autocast_enabled("cpu"))
        return encode(encoder, *rest)

    reference = str(train_worlds.reference(tmp_path))
    monkeypatch.setattr(train_worlds.Net, "forward", forward)
    monkeypatch.setattr(TinyEncoder, "forward", encoded)
    train(replace(given(tmp_path, **options), reference=reference, steps=1, warmup_steps=0), tmp_path / "run", NEVER)
    assert seen == {name: {name in options} for name in seen}


def test_every_chunk_of_every_step_has_a_seed_of_its_own_the_same_in_both_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record(monkeypatch)
    train(given(tmp_path, chunks=3), tmp_path / "run", EVERY)
    passes = np.array(record.seeds).reshape(STEPS, 2, 3)
    assert np.array_equal(passes[:, 0], passes[:, 1])
    assert len(np.unique(passes)) == STEPS * 3


class TestSkipped:
    """A step whose gradient is infinite, after the loss was differentiated."""

    @pytest.fixture
    def third_is_infinite(self, monkeypatch: pytest.MonkeyPatch) -> None:
        norm, calls = torch.nn.utils.get_total_norm, []

        def counted(gradients: Any) -> Tensor:
            calls.append(1)
            return torch.tensor(math.inf) if len(calls) == 3 else norm(gradients)

        monkeypatch.setattr(torch.nn.utils, "get_total_norm", counted)

    @pytest.mark.parametrize("population", ["ema:0.9", "queue:64"])
    def test_its_batch_enters_no_population(self, tmp_path: Path, third_is_infinite: None, population: str) -> None:
        chosen = replace(given(tmp_path), population=population)
        train(chosen, tmp_path / "run", EVERY)
        terms = [state_of(tmp_path / "run", step)["loss"]["encoders"][ENCODER]["term"] for step in (1, 2, 3, 4)]
        moved = [not all(torch.equal(a[name], b[name]) for name in a) for a, b in itertools.pairwise(terms)]
        assert moved == [True, False, True]

    def test_averages_count_the_steps_that_were_taken(self, tmp_path: Path, third_is_infinite: None) -> None:
        train(given(tmp_path, ema_kimg=(0.5,)), tmp_path / "run", EVERY)
        states = [state_of(tmp_path / "run", step) for step in range(STEPS + 1)]
        average = dict(states[0]["model"])
        for taken, step in enumerate((1, 2, 4), 1):
            kept = 0.5 ** (BATCH / min(500, 0.05 * taken * BATCH))
            average = {n: kept * a + (1 - kept) * states[step]["model"][n] for n, a in average.items()}
        assert all(torch.equal(states[2]["model"][n], states[3]["model"][n]) for n in average)
        for name, value in average.items():
            found = states[4]["model_ema"]["shadows"]["edm_0.5"][name]
            torch.testing.assert_close(found, value, rtol=1e-6, atol=1e-7)
        assert [row["images"] for row in rows_of(tmp_path / "run")] == [BATCH, 2 * BATCH, 3 * BATCH]

    def test_those_before_a_stop_count_towards_the_most_in_a_row(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda gradients: torch.tensor(math.inf))
        chosen = given(tmp_path, max_skipped=3)
        stops = iter([False, True])
        train(chosen, tmp_path / "run", EVERY, should_stop=lambda: next(stops))
        with pytest.raises(RunError, match="3 steps in a row were skipped; of step 3"):
            train(chosen, tmp_path / "run", EVERY)


def test_encoders_see_so_many_images_at_a_time_as_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: set[int] = set()
    encode = TinyEncoder.forward

    def encoded(encoder: Any, inputs: Tensor, *rest: Any) -> Any:
        sizes.add(len(inputs))
        return encode(encoder, inputs, *rest)

    chosen = replace(given(tmp_path, steps=2), reference=str(train_worlds.reference(tmp_path)))
    monkeypatch.setattr(TinyEncoder, "forward", encoded)
    train(chosen, tmp_path / "run", replace(NEVER, encoder_batch_size=7))
    assert sizes == {7, BATCH % 7}


@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_reaches_the_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tf32: bool) -> None:
    seen: list[bool] = []
    load = setup.load_encoders
    monkeypatch.setattr(setup, "load_encoders", lambda names, how: seen.append(how.tf32) or load(names, how))
    train(given(tmp_path, steps=2, tf32=tf32), tmp_path / "run", NEVER)
    assert seen == [tf32]


@pytest.mark.parametrize(("step", "kind"), [(0, InputError), (1, RunError)])
def test_after_the_first_step_bad_input_is_a_failed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, kind: type[FdrError]
) -> None:
    """Its exit code is 1 and not 2, as the same input was good before."""
    call, calls = fdr.FDLoss.__call__, []

    def refusing(loss: fdr.FDLoss, images: Tensor, **more: Any) -> Any:
        calls.append(1)
        if len(calls) > step:
            raise InputError("no luck")
        return call(loss, images, **more)

    monkeypatch.setattr(fdr.FDLoss, "__call__", refusing)
    with pytest.raises(FdrError, match="no luck") as caught:
        train(given(tmp_path), tmp_path / "run", NEVER)
    assert type(caught.value) is kind


class Normed(nn.Module):
    """Counts the images of training mode, and detaches them in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.noise_shape = (6,)
        self.norm, self.last = nn.BatchNorm1d(6), nn.Linear(6, 3 * 8 * 8)

    def forward(self, noise: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            return torch.sigmoid(self.last(self.norm(noise))).unflatten(1, (3, 8, 8))


def test_the_first_try_leaves_the_generator_as_it_was(tmp_path: Path) -> None:
    generator = fdr.load_generator(Normed())
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    draws = Draws(0, (6,), None, torch.device("cpu"))
    stepper = Stepper(given(tmp_path), generator, None, draws, SOLO)  # type: ignore[arg-type]
    torch.manual_seed(3)
    stepper.check_gradient()
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), drawn)
    assert not generator.training
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_grids_evaluations_and_the_fill_use_noise_that_no_step_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[bool, set[bytes]] = {True: set(), False: set()}

    def forward(net: Any, noise: Tensor) -> Tensor:
        seen[net.training] |= {row.numpy().tobytes() for row in noise}
        return FORWARD(net, noise)

    monkeypatch.setattr(train_worlds.Net, "forward", forward)
    looks = {"grid_every": 2, "grid_size": 5, "eval_every": 2, "eval_count": 30, "alarm_every": 2, "alarm_count": 110}
    often = replace(EVERY, **looks)
    train(given(tmp_path, fill=40, population="ema:0.9"), tmp_path / "run", often)
    assert len(seen[True]) == STEPS * BATCH + STEPS // 2 * (110 - BATCH)
    assert len(seen[False]) >= 5 + 30 + 40 + 2 * PAIRS
    assert len(seen[True] & seen[False]) <= 2  # those of the first try
    assert len(rows_of(tmp_path / "run", "evaluation")) == 2
    assert [row["step"] for row in rows_of(tmp_path / "run", "alarm")] == [0, 2, 4]


def test_the_plan_counts_the_bytes_that_stay(tmp_path: Path) -> None:
    """Weights, their gradient, two moments of AdamW and an average for each half-life; and the population."""
    parameters = 6 * 16 + 16 + 16 * 192 + 192
    weights = 4 * parameters
    for population, kept in (("ema:0.9", 3 * DIM**2 * 8), ("queue:100", 100 * DIM * 4 + 4 * DIM**2 * 8), ("batch", 0)):
        chosen = given(tmp_path, ema_kimg=(1.0, 2.0), population=population, fill=60)
        text = "\n".join(plan(chosen, tmp_path / "run", EVERY, SOLO))
        assert f"; {(weights * 6 + kept) / 1e3:.1f} kB for parameters, AdamW, averages and populations" in text
        assert f"checkpoints of {(weights * 5 + kept) / 1e3:.1f} kB" in text
        assert f"3 sets of weights of {weights / 1e3:.1f} kB" in text
        assert f"to fill with {0 if population == 'batch' else 60} images" in text


def test_a_run_that_is_killed_before_its_first_generator_is_written_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint promises that the generator beside it can be loaded, so it is written last."""

    def full(*_: Any) -> None:
        raise RunError("no space left")

    chosen = given(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("fdr.training.loop.save_generator", full)
        with pytest.raises(RunError, match="no space left"):
            train(chosen, tmp_path / "run", NEVER)
    assert train(chosen, tmp_path / "run", NEVER).is_finished
