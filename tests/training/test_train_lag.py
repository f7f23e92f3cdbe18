"""`--lag-correction`: the noise of a step under the weights of the step before, its randomness, its checkpoints."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import train_worlds
from test_train_run import assert_same
from torch import Tensor, nn
from train_program import options

import fdr
from fdr.errors import InputError
from fdr.runtime import SOLO
from fdr.training import RunOptions, TrainOptions, plan, train
from fdr.training.folder import OPTIONS_NAME, checkpoint_path, load_checkpoint, read_options
from fdr.training.previous import PreviousWeights

HERE = Path(__file__).parent
STEPS = 5
EVERY = RunOptions(device="cpu", log_every=1, checkpoint_every=1, keep=99, grid_every=None, alarm_every=0)
FORWARD = train_worlds.Net.forward


class NormNet(train_worlds.Net):
    """With dropout, and a normalisation that counts the batches it has seen."""

    def __init__(self) -> None:
        super().__init__(dropout=0.2)
        self.norm = nn.BatchNorm1d(16)

    def forward(self, noise: Tensor) -> Tensor:
        hidden = self.drop(torch.tanh(self.norm(self.first(noise))))
        return nn.functional.interpolate(torch.sigmoid(self.last(hidden)).unflatten(1, (3, 8, 8)), scale_factor=2)


pytestmark = pytest.mark.usefixtures("one_thread")


def given(folder: Path, **changes: Any) -> TrainOptions:
    """An EMA of the small world, on one watched encoder and one that is trained on."""
    plain = options(folder, lag_correction=True, steps=STEPS, batch_size=12, reference=str(reference(folder)))
    return replace(replace(plain, arch_args={}, monitor=(), ema_kimg=(), lr=0.05, warmup_steps=0, clip=None), **changes)


def with_norm(folder: Path, **changes: Any) -> TrainOptions:
    torch.manual_seed(0)
    torch.save(NormNet().state_dict(), folder / "norm.pt")
    return given(folder, gen=str(folder / "norm.pt"), arch="test_train_lag:NormNet", **changes)


def reference(folder: Path) -> Path:
    path = folder / "moments.npz"
    return path if path.is_file() else train_worlds.reference(folder)


def state_of(run: Path, step: int) -> dict[str, Any]:
    return load_checkpoint(checkpoint_path(run, step))


def norms(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row["grad_norm"] for row in rows if row["kind"] == "step"]


class Passes:
    """Records every pass in training mode: noise, weights, seed, and whether it has a gradient."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[Tensor, Tensor, int, bool]] = []

        def forward(net: Any, noise: Tensor) -> Tensor:
            if net.training:
                weight = net.first.weight.detach().clone()
                self.seen.append((noise.clone(), weight, torch.initial_seed(), torch.is_grad_enabled()))
            return FORWARD(net, noise)

        monkeypatch.setattr(train_worlds.Net, "forward", forward)


@pytest.mark.parametrize("chunks", [1, 2])
def test_the_noise_of_a_step_passes_under_the_weights_of_the_step_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    passes = Passes(monkeypatch)
    train(given(tmp_path, chunks=chunks), tmp_path / "run", EVERY)
    seen = passes.seen[2:]  # the first two are the check that the generator repeats itself
    first, later = seen[: chunks if chunks == 1 else 2 * chunks], seen[chunks if chunks == 1 else 2 * chunks :]
    weights = [next(v for k, v in state_of(tmp_path / "run", s)["model"].items() if "first.w" in k) for s in range(6)]
    assert all(torch.equal(weight, weights[0]) for _, weight, _, _ in first)
    per_step = 2 if chunks == 1 else 3 * chunks
    assert len(later) == (STEPS - 1) * per_step
    for step in range(1, STEPS):
        found = later[(step - 1) * per_step : step * per_step]
        old = [made for made in found if torch.equal(made[1], weights[step - 1])]
        new = [made for made in found if torch.equal(made[1], weights[step])]
        assert len(old) == chunks and len(new) == per_step - chunks
        for made in old:
            assert not made[3]
            assert any(torch.equal(made[0], other[0]) and made[2] == other[2] for other in new)


def test_the_loss_of_a_step_is_that_of_the_loop_of_ones_own(tmp_path: Path) -> None:
    """The gradients of a run, against the same steps with `FDLoss` and a second network."""
    chosen = given(tmp_path, fill=0)
    train(chosen, tmp_path / "run", EVERY)
    net, old = train_worlds.Net(), None
    loss = fdr.FDLoss(
        {"e": train_worlds.tiny()},
        fdr.Moments.load(chosen.reference),
        fdr.EmaPopulation(0.9, lag_correction=True),
        fdr.LossOptions("exact"),
    )
    from fdr.training.step import Draws

    draws = Draws(0, (6,), None, torch.device("cpu"))
    for step, norm in enumerate(norms(tmp_path / "run")):
        state = {k.removeprefix("network."): v for k, v in state_of(tmp_path / "run", step)["model"].items()}
        net.load_state_dict(state)
        net.zero_grad()
        noise, _ = draws.of("train", 12 * step, 12 * step + 12)
        loss(net(noise), previous=None if old is None else old(noise).detach()).total.backward()
        found = torch.nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None])
        assert float(found) == pytest.approx(norm, rel=1e-4)
        old = train_worlds.Net()
        old.load_state_dict(state)


def test_it_changes_the_gradient_from_the_second_step_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The floor, which a generator far from the reference meets at once, is out of the way."""
    monkeypatch.setattr("fdr.loss.transport.FLOOR", 1e-9)
    for name, is_corrected in (("with", True), ("without", False)):
        train(given(tmp_path, lag_correction=is_corrected, solver="exact", fill=600), tmp_path / name, EVERY)
    carried, plain = norms(tmp_path / "with"), norms(tmp_path / "without")
    assert carried[0] == pytest.approx(plain[0], rel=1e-4)
    assert all(abs(a / b - 1) > 1e-3 for a, b in zip(carried[1:], plain[1:], strict=True))


def test_every_second_step_may_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are those of two steps before."""
    passes = Passes(monkeypatch)
    train(given(tmp_path, lag_every=2), tmp_path / "run", EVERY)
    weights = [next(v for k, v in state_of(tmp_path / "run", s)["model"].items() if "first.w" in k) for s in range(6)]
    old = [weight for _, weight, _, has_gradient in passes.seen[2:] if not has_gradient]
    assert [[torch.equal(one, other) for other in weights].index(True) for one in old] == [0, 2]


@pytest.mark.parametrize("chunks", [1, 2])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, chunks: int) -> None:
    """With dropout and a normalisation, whose buffers see every batch once where no chunks repeat it."""
    chosen = with_norm(tmp_path, chunks=chunks)
    train(chosen, tmp_path / "whole", EVERY)
    stops = iter([False, False, True])
    assert train(chosen, tmp_path / "halves", EVERY, should_stop=lambda: next(stops)).step == 3
    train(chosen, tmp_path / "halves", EVERY)
    expected = state_of(tmp_path / "whole", STEPS)
    assert_same(state_of(tmp_path / "halves", STEPS), expected)
    counted = next(value for name, value in expected["model"].items() if name.endswith("num_batches_tracked"))
    assert int(counted) == STEPS * (1 if chunks == 1 else 2 * chunks)
    before = state_of(tmp_path / "whole", STEPS - 1)["model"]
    assert all(torch.equal(v, before[k]) for k, v in expected["previous"].items() if k.endswith(("weight", "bias")))


def test_a_skipped_step_leaves_the_weights_that_made_the_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = iter(range(99))

    def broken(net: Any, noise: Tensor) -> Tensor:
        is_third = net.training and torch.is_grad_enabled() and next(passes) == 2
        return FORWARD(net, noise) * (float("nan") if is_third else 1.0)

    monkeypatch.setattr(train_worlds.Net, "forward", broken)
    train(given(tmp_path), tmp_path / "run", EVERY)
    before, after = state_of(tmp_path / "run", 2), state_of(tmp_path / "run", 3)
    assert after["taken"] == 2
    assert_same(after["previous"], before["previous"])
    assert_same(after["loss"], before["loss"])
    last = state_of(tmp_path / "run", 4)["previous"]
    assert all(torch.equal(value, after["model"][name]) for name, value in last.items())


class OwnNoise(train_worlds.Net):
    """Draws noise that no seed of torch fixes."""

    drawn = itertools.count()

    def forward(self, noise: Tensor) -> Tensor:
        return super().forward(noise + 0.5 * (next(self.drawn) % 2))


def test_a_generator_that_draws_noise_of_its_own_is_refused(tmp_path: Path) -> None:
    chosen = given(tmp_path, arch="test_train_lag:OwnNoise")
    with pytest.raises(InputError, match=r"draws noise of its own.*leave out --lag-correction"):
        train(chosen, tmp_path / "run", EVERY)
    with pytest.raises(InputError, match="draws noise of its own"):
        list(plan(chosen, tmp_path / "planned", EVERY, SOLO))


def test_noise_that_torchs_seed_fixes_is_no_noise_of_its_own(tmp_path: Path) -> None:
    """Dropout is such noise."""
    train(given(tmp_path, arch_args={"dropout": 0.5}, steps=2), tmp_path / "run", EVERY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"population": "queue:100"}, "the population is 'queue:100'; choose --population ema:BETA"),
        ({"population": "batch"}, "the population is 'batch'"),
        ({"lag_every": 0}, "--lag-every must be at least 1"),
        ({"solver": "newton-schulz"}, "newton-schulz needs a positive definite covariance"),
    ],
)
def test_what_it_does_not_go_with_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        given(tmp_path, **changes)


def test_a_dry_run_counts_the_weights_and_the_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[bool] = []
    forward = lambda net, noise: (passes.append(torch.is_grad_enabled()), FORWARD(net, noise))[1]  # noqa: E731
    monkeypatch.setattr(train_worlds.Net, "forward", forward)
    weights, texts = 4 * (6 * 16 + 16 + 16 * 192 + 192), {}
    for is_corrected in (True, False):
        lines = plan(given(tmp_path, lag_correction=is_corrected), tmp_path / "run", EVERY, SOLO)
        texts[is_corrected] = "\n".join(lines)
        assert passes[-2:] == ([True, False] if is_corrected else [True, True])
        assert ("lag correction: " in texts[is_corrected]) == is_corrected
    assert "for parameters, the previous weights, AdamW, averages and populations" in texts[True]
    sizes = [float(text.split("checkpoints of ")[1].split(" kB")[0]) for text in (texts[True], texts[False])]
    assert sizes[0] - sizes[1] == pytest.approx(weights / 1e3, abs=0.11)


def test_a_run_folder_of_before_goes_on_without(tmp_path: Path) -> None:
    train(given(tmp_path, lag_correction=False, steps=2), tmp_path / "run", EVERY)
    path = tmp_path / "run" / OPTIONS_NAME
    data = json.loads(path.read_text())
    del data["options"]["lag_correction"]
    path.write_text(json.dumps(data))
    assert read_options(tmp_path / "run").lag_correction is False


def test_weights_of_another_generator_are_refused() -> None:
    previous = PreviousWeights(train_worlds.Net())
    with pytest.raises(InputError, match="not those of this generator"):
        previous.load({"first.weight": torch.zeros(2)})


def test_an_error_in_the_pass_gives_the_generator_its_weights_back() -> None:
    net = train_worlds.Net()
    previous = PreviousWeights(net)
    previous.remember()
    with torch.no_grad():
        net.first.weight += 1
    own = net.first.weight.clone()
    with pytest.raises(ValueError, match="no luck"), previous.in_place():
        torch.testing.assert_close(net.first.weight, own - 1)
        raise ValueError("no luck")
    assert torch.equal(net.first.weight, own)
