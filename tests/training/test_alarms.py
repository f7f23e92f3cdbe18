"""The collapse alarm: a drifting mode that the population does not show, healthy runs, sensitivities, stop, resume."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train_worlds
from test_train_run import assert_same
from torch import Tensor, nn
from train_program import options

import fdr
from fdr.cli import run as command
from fdr.errors import FdrWarning, InputError, RunError
from fdr.frechet import Moments, frechet_distance
from fdr.training import RunOptions, TrainOptions, plan, train
from fdr.training.alarms import (
    ERRORS,
    FLOOR,
    LEAST_COUNT,
    LEAST_SENSITIVITY,
    MARGIN,
    PAIRS,
    REPEATS,
    USUAL_COUNT,
    USUAL_EVERY,
    AlarmPlan,
    AlarmRecord,
    CollapseAlarm,
    FreshFD,
)
from fdr.training.folder import checkpoint_path, list_checkpoints, load_checkpoint, save_checkpoint
from fdr.training.fresh import fresh_fd

HERE = Path(__file__).parent
ENCODER = "py:train_worlds:tiny"
DIM = 24
SPREAD = torch.arange(1, DIM + 1, dtype=torch.float64) ** -0.5
EXACT = Moments(np.zeros(DIM), np.diag(SPREAD.numpy() ** 2))
PAGE = HERE.parents[1] / "docs" / "alarms.md"
TRACE = float(SPREAD.square().sum())


pytestmark = pytest.mark.usefixtures("one_thread")


# ------------------------------------------------------------------------------------------- the failure, in features

Draw = Callable[[int, int, torch.Generator], Tensor]


def healthy(step: int, count: int, drawn: torch.Generator) -> Tensor:
    return torch.randn(count, DIM, generator=drawn, dtype=torch.float64) * SPREAD


def collapsed(step: int, count: int, drawn: torch.Generator) -> Tensor:
    """All samples of a step are near one point, which moves over the whole distribution of the data."""
    mode = healthy(step, 1, torch.Generator().manual_seed(1000 + step))
    return mode + 0.1 * healthy(step, count, drawn)


def followed(draw: Draw, seed: int, beta: float, start: Draw = healthy) -> tuple[list[float], list[int]]:
    """The FD of an EMA over 200 steps of such features, and the steps at which the alarm sees a gap, each 20 steps."""
    drawn, batch, count = torch.Generator().manual_seed(seed), 64, 128
    loss = fdr.FDLoss(
        {"e": lambda images: images.flatten(1)[:, :DIM]},
        {"e": EXACT},
        fdr.EmaPopulation(beta),
        fdr.LossOptions("exact"),
    )

    def images(rows: Tensor) -> Tensor:
        return torch.nn.functional.pad(rows, (0, 3 * 9 - DIM)).view(-1, 3, 3, 3)

    loss._is_range_checked = True  # the features are no images
    loss.fill(images(start(0, 2000, drawn)))
    alarm, found, gaps = CollapseAlarm(), [], []
    for step in range(1, 201):
        out = loss(images(draw(step, batch, drawn)))
        loss.commit()
        found.append(out.fd["e"])
        if step % 20 == 0:
            rows = torch.cat([out.features["e"], draw(step, count - batch, drawn)])
            if alarm.look(AlarmRecord(step, count, {"e": fresh_fd(rows, EXACT)}, out.fd), ["e"]) or alarm.in_a_row:
                gaps.append(step)
    return found, gaps


@pytest.mark.parametrize("beta", [0.99, 0.999])
def test_a_drifting_mode_that_the_population_does_not_show_is_seen_within_200_steps(beta: float) -> None:
    found, gaps = followed(collapsed, 0, beta)
    assert max(found) < 0.1 * TRACE, "the population looks well"
    assert f"| beta {beta} | {found[59]:.3f} | {found[199]:.3f} | {max(found):.3f} |" in PAGE.read_text(
        encoding="utf-8"
    )
    assert gaps == list(range(20, 201, 20)), "every alarm has a gap, so that the third stops the run"


@pytest.mark.parametrize("seed", range(4))
def test_a_healthy_run_has_no_gap(seed: int) -> None:
    assert followed(healthy, seed, 0.99)[1] == []


def test_a_generator_that_improves_fast_is_better_than_its_population_and_no_collapse() -> None:
    def improving(step: int, count: int, drawn: torch.Generator) -> Tensor:
        return healthy(step, count, drawn) + 4 * math.exp(-step / 40) * SPREAD

    found, gaps = followed(improving, 0, 0.99, improving)
    assert gaps == [] and found[100] > TRACE / 3, "the population lags far behind"


# ---------------------------------------------------------------------------------------------------- fresh distances


@pytest.mark.parametrize("count", [100, 400])
def test_the_fd_of_fresh_features_is_debiased_against_an_exact_reference(count: int) -> None:
    rows = 1.2 * healthy(0, count, torch.Generator().manual_seed(count)) + 0.2
    expected = fdr.debiased_frechet_distance(rows, EXACT, stderr="influence")
    counted = Moments(EXACT.mu, EXACT.sigma, 5000)  # an EMA takes it as exact, whatever its count
    found = fresh_fd(rows, counted)
    assert (found.value, found.error) == (expected.value, expected.stderr)
    true = frechet_distance(Moments(np.full(DIM, 0.2), 1.44 * EXACT.sigma), EXACT)
    assert abs(found.value - true) < 3 * found.error
    assert found.trace == pytest.approx(TRACE)


def test_below_the_dimensions_the_error_has_a_part_for_what_is_extrapolated() -> None:
    dim = 160
    exact = Moments(np.zeros(dim), np.diag(np.arange(1.0, dim + 1) ** -1.0))
    rows = torch.randn(100, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fresh_fd(rows * torch.arange(1, dim + 1) ** -0.5, exact)
    assert found.regime == "extrapolated" and abs(found.value) < 3 * found.error


def test_equal_images_have_the_fd_of_a_point() -> None:
    rows = torch.full((120, DIM), 0.5)
    found = fresh_fd(rows, EXACT)
    assert found.value == pytest.approx(0.25 * DIM + TRACE) and found.error == 0 and found.regime == "bound"
    assert found.is_above(0.1)


def test_where_leverages_do_not_allow_a_value_it_is_a_lower_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is FD itself where the covariances are proportional."""

    def refuse(*_: Any, **__: Any) -> None:
        raise RunError("repeated features")

    monkeypatch.setattr("fdr.training.fresh.debiased_frechet_distance", refuse)
    drawn = torch.Generator().manual_seed(0)
    found = fresh_fd(0.5 * healthy(0, 4000, drawn) + 0.1, EXACT)
    assert abs(found.value - (0.25 * TRACE + 0.01 * DIM)) < 3 * found.error < 0.1
    other = fresh_fd(healthy(0, 4000, drawn) * SPREAD, EXACT)
    true = frechet_distance(Moments(np.zeros(DIM), np.diag(SPREAD.numpy() ** 4)), EXACT)
    assert other.value < true
    values = [fresh_fd(0.5 * healthy(0, 200, drawn) + 0.1, EXACT) for _ in range(60)]
    spread = np.std([value.value for value in values])
    assert np.mean([value.error for value in values]) == pytest.approx(spread, rel=0.3)


# ------------------------------------------------------------------------------------------------------------ the plan


@pytest.mark.parametrize(
    ("batch", "dim", "expected"),
    [
        (1024, 2048, (100, 1024, 0)),
        (64, 2048, (550, 1024, 960)),
        (64, 512, (150, 256, 192)),
        (2000, 512, (100, 2000, 0)),
    ],
)
def test_the_usual_plan_costs_one_percent_in_images(batch: int, dim: int, expected: tuple[int, int, int]) -> None:
    found = AlarmPlan.of(RunOptions(), batch, {"a": dim, "b": 12})
    assert (found.every, found.count, found.extra) == expected
    assert (found.extra + 72) / 3 / batch / found.every < 0.011


def test_a_chosen_plan() -> None:
    assert AlarmPlan.of(RunOptions(alarm_every=7, alarm_count=600), 64, {"a": 2048}) == AlarmPlan(7, 600, 536)
    assert AlarmPlan.of(RunOptions(alarm_every=0), 64, {"a": 2048}).every == 0
    with pytest.raises(InputError, match=r"alarm_count=300 is too few for the 2048 features of a: .* needs 512 images"):
        AlarmPlan.of(RunOptions(alarm_count=300), 64, {"b": 12, "a": 2048})
    with pytest.raises(InputError, match="Unknown on_collapse 'halt'"):
        RunOptions(on_collapse="halt")


def test_the_page_has_the_thresholds_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"fresh FD − {ERRORS:g} errors  >  {1 + MARGIN:g} · FD of the population + {FLOOR:g} · tr S_p" in text
    assert f"{REPEATS} alarms in a row (`REPEATS`), {LEAST_SENSITIVITY:.0%}".replace("%", " %") in text
    assert f"{PAIRS} pairs of images" in text and f"every {USUAL_EVERY} steps or so" in text
    assert f"at least {USUAL_COUNT} (`--alarm-images`)" in text and f"at least {LEAST_COUNT} images" in text


# -------------------------------------------------------------------------------------------------------- by itself


def record(step: int, fresh: float, population: float = 1.0, error: float = 0.1, **more: Any) -> AlarmRecord:
    return AlarmRecord(step, 256, {"a": FreshFD(fresh, error, 10.0, "full", 1.0)}, {"a": population}, **more)


class TestCollapseAlarm:
    def test_a_gap_counts_from_four_errors_half_the_population_and_a_hundredth_of_the_trace(self) -> None:
        """1.5 x 1.0 + 0.01 x 10 + 4 x 0.1 = 2.0."""
        assert not FreshFD(1.99, 0.1, 10.0, "full", 1.0).is_above(1.0)
        assert FreshFD(2.01, 0.1, 10.0, "full", 1.0).is_above(1.0)
        assert FreshFD(0.51, 0.1, 10.0, "full", 1.0).is_above(-3.0), "a population below 0 counts as 0"

    def test_a_gap_is_said_once_and_again_when_it_came_back(self) -> None:
        alarm = CollapseAlarm()
        (text,) = alarm.look(record(10, 5.0), ["a"])
        assert text.startswith(
            "The 256 fresh images at step 10 have an FD of a of 5 ± 0.1 and 100% of the reference's "
        )
        assert "the generator has moved on from its population (an overshoot, or modes that change)" in text
        assert alarm.look(record(20, 5.0), ["a"]) == [] and alarm.in_a_row == 2
        assert alarm.look(record(30, 1.0), ["a"]) == [] and alarm.in_a_row == 0
        assert len(alarm.look(record(40, 5.0), ["a"])) == 1 and alarm.in_a_row == 1

    def test_the_best_checkpoint_is_that_of_the_best_fresh_images_before_the_gap(self) -> None:
        alarm = CollapseAlarm()
        for step, fresh in ((10, 1.4), (20, 0.9), (30, 1.3), (40, 5.0)):
            alarm.look(record(step, fresh), ["a"])
        assert alarm.best_checkpoint([0, 10, 20, 30, 40]) == 20
        assert alarm.best_checkpoint([0, 10, 30, 40]) == 30
        assert alarm.best_checkpoint([40]) is None
        assert CollapseAlarm().best_checkpoint([0]) == 0

    @pytest.mark.parametrize(
        ("kind", "words"), [("noise", "other noise, at the same label,"), ("label", "other labels")]
    )
    def test_images_that_follow_their_input_too_little(self, kind: str, words: str) -> None:
        alarm = CollapseAlarm()
        looks = [
            alarm.look(record(step, 1.0, **{f"{kind}_sensitivity": {"a": value}}), ["a"])
            for step, value in ((0, 0.8), (10, 0.281), (20, 0.279), (30, 0.1), (40, 0.5), (50, 0.2))
        ]
        assert [len(look) for look in looks] == [0, 0, 1, 0, 0, 1]
        assert words in looks[2][0] and "35% of what they did at the start, under a" in looks[2][0]

    def test_features_that_are_not_finite(self) -> None:
        alarm = CollapseAlarm()
        (text,) = alarm.look(AlarmRecord(10, 256, {}, {"a": 1.0}, {"a": 3}), ["a"])
        assert text.startswith("3 of 256 fresh images at step 10 have features of a that are not finite")
        assert alarm.in_a_row == 0 and alarm.scores == {}

    def test_its_state_goes_on(self, tmp_path: Path) -> None:
        alarm, other = CollapseAlarm(), CollapseAlarm()
        alarm.look(record(10, 1.0, noise_sensitivity={"a": 0.5}), ["a"])
        alarm.look(record(20, 5.0), ["a"])
        other.load_state_dict(load_checkpoint(save_checkpoint(tmp_path, 20, alarm.state_dict())))
        assert other == alarm and alarm.good_step == 10


# -------------------------------------------------------------------------------------------------------- whole runs

OFTEN = RunOptions(device="cpu", log_every=10, checkpoint_every=20, grid_every=None, alarm_every=10, alarm_count=128)


def given(folder: Path, arch: str = "train_worlds:DriftingNet", **changes: Any) -> TrainOptions:
    """A run that has little to learn; the reference is what its generator makes."""
    usual: dict[str, Any] = {
        "gen": str(start(folder, arch)),
        "arch": arch,
        "arch_args": {},
        "reference": str(train_worlds.own_reference(folder)),
        "monitor": (),
        "population": "ema:0.99",
        "fill": 1000,
        "batch_size": 32,
        "steps": 80,
        "lr": 1e-5,
        "ema_kimg": (),
    }
    return replace(options(folder), **{**usual, **changes})


def start(folder: Path, arch: str) -> Path:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = folder / "start.safetensors"
    save_file(getattr(train_worlds, arch.partition(":")[2])().state_dict(), path)
    return path


def log_of(run: Path, kind: str) -> list[dict[str, Any]]:
    return [row for line in (run / "log.jsonl").read_text().splitlines() if (row := json.loads(line))["kind"] == kind]


@pytest.mark.filterwarnings("ignore::fdr.errors.FdrWarning")
def test_a_collapsing_run_is_stopped_with_a_checkpoint_and_names_the_best_earlier_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    stop = replace(OFTEN, on_collapse="stop", keep=1)
    chosen = given(tmp_path, arch_args={"healthy": 25})
    with pytest.raises(
        RunError, match=r"was stopped: at 3 alarms in a row, the last at step 50.*so the generator has "
    ):
        train(chosen, run, stop)
    assert list(list_checkpoints(run)) == [20, 50], "that of before the gap stays, whatever --keep says"
    (said,) = [row["text"] for row in log_of(run, "warning") if "was stopped" in row["text"]]
    assert "the best checkpoint from before is" in said and "step-00000020.pt" in said
    rows = {row["step"]: row for row in log_of(run, "alarm")}
    assert list(rows) == [0, 10, 20, 30, 40, 50]
    trace = float(Moments.load(tmp_path / "own.npz").sigma.trace())
    assert rows[50]["population"][ENCODER] < 0.1 * trace < 0.4 * trace < rows[50]["fd"][ENCODER]
    assert rows[50]["noise_sensitivity"][ENCODER] < 0.1 * rows[0]["noise_sensitivity"][ENCODER]
    with pytest.raises(RunError, match="at 4 alarms in a row"):  # the same command goes on, to the next alarm
        train(chosen, run, stop)
    assert train(chosen, run, OFTEN).is_finished


def test_a_collapsing_run_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(FdrWarning) as caught:
        train(given(tmp_path, steps=50), tmp_path / "run", OFTEN)
    texts = [str(warning.message) for warning in caught]
    assert [text[:40] for text in texts] == [
        "The 128 fresh images at step 20 have an ",
        "Images with other noise, at the same lab",
        "At 3 alarms in a row, the last at step 4",
    ]
    assert "the best checkpoint from before is" in texts[2] and "on_collapse='stop' ends such a run" in texts[2]
    assert [row["text"][:40] for row in log_of(tmp_path / "run", "warning")] == [text[:40] for text in texts]


@pytest.mark.filterwarnings("ignore::fdr.errors.FdrWarning")
def test_a_run_that_overshoots_a_long_population_is_seen_and_not_called_a_collapse(tmp_path: Path) -> None:
    """The population of 100 steps improves on, while the generator, which has passed the reference, gets worse."""
    chosen = given(tmp_path, "train_worlds:Net", lr=3e-3, steps=120)
    train(replace(chosen, reference=str(train_worlds.reference(tmp_path))), tmp_path / "run", OFTEN)
    texts = [row["text"] for row in log_of(tmp_path / "run", "warning")]
    assert "the generator has moved on from its population" in texts[0]
    assert "so the generator is no more where its population is" in texts[1]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_healthy_run_is_not_warned_of(tmp_path: Path, seed: int) -> None:
    """pytest makes an error of every warning. The run learns: its fresh images are ahead of the population."""
    chosen = given(tmp_path, "train_worlds:Net", lr=1e-3, seed=seed, population="ema:0.9")
    reference = str(train_worlds.reference(tmp_path))
    train(replace(chosen, reference=reference), tmp_path / "run", OFTEN)
    rows = log_of(tmp_path / "run", "alarm")
    assert len(rows) == 9 and not log_of(tmp_path / "run", "warning")
    first = rows[0]["noise_sensitivity"][ENCODER]
    assert 0 < first < 5 and all(row["noise_sensitivity"][ENCODER] > 0.7 * first for row in rows)
    assert rows[2]["fd"][ENCODER] < rows[2]["population"][ENCODER]
    assert rows[-1]["population"][ENCODER] < 0.6 * rows[1]["population"][ENCODER]
    assert rows[-1]["label_sensitivity"] == {}


class Normalised(train_worlds.Net):
    """With a normalisation in training mode, whose buffers every batch changes, and dropout."""

    def __init__(self) -> None:
        super().__init__(dropout=0.2)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, noise: Tensor) -> Tensor:
        return super().forward(self.norm(noise))


@pytest.mark.filterwarnings("ignore::fdr.errors.FdrWarning")
def test_alarms_change_nothing_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_worlds, "Normalised", Normalised, raising=False)
    chosen = given(tmp_path, "train_worlds:Normalised", steps=6, lr=1e-2, chunks=2)
    for name, every in (("with", 2), ("without", 0)):
        train(chosen, tmp_path / name, replace(OFTEN, alarm_every=every))
    a, b = (load_checkpoint(checkpoint_path(tmp_path / name, 6)) for name in ("with", "without"))
    assert a.pop("alarms")["scores"].keys() == {2, 4, 6} and b.pop("alarms")["scores"] == {}
    assert_same(a, b)


@pytest.mark.filterwarnings("ignore::fdr.errors.FdrWarning")
def test_a_resumed_run_has_the_alarms_of_an_uninterrupted_one(tmp_path: Path) -> None:
    chosen = given(tmp_path, steps=40)
    train(chosen, tmp_path / "whole", OFTEN)
    count = iter(range(99))
    assert train(chosen, tmp_path / "parts", OFTEN, should_stop=lambda: next(count) == 24).step == 25
    train(chosen, tmp_path / "parts", OFTEN)
    assert_same(*(load_checkpoint(checkpoint_path(tmp_path / name, 40)) for name in ("whole", "parts")))
    assert log_of(tmp_path / "whole", "alarm") == log_of(tmp_path / "parts", "alarm")


@pytest.mark.filterwarnings("ignore::fdr.errors.FdrWarning")
def test_a_checkpoint_of_before_there_were_alarms_goes_on(tmp_path: Path) -> None:
    chosen, run = given(tmp_path, steps=40), tmp_path / "run"
    train(chosen, run, OFTEN, should_stop=lambda: True)
    state = load_checkpoint(checkpoint_path(run, 1))
    del state["alarms"], state["watch"]["first"]
    save_checkpoint(run, 1, {key: value for key, value in state.items() if key not in ("schema", "step")})
    assert train(chosen, run, OFTEN).is_finished
    assert load_checkpoint(checkpoint_path(run, 40))["alarms"]["in_a_row"] == 3


def test_the_population_is_compared_without_its_bias(tmp_path: Path) -> None:
    train(given(tmp_path, "train_worlds:Net", steps=10, population="ema:0.9"), tmp_path / "run", OFTEN)
    (_, alarm), (step,) = log_of(tmp_path / "run", "alarm"), log_of(tmp_path / "run", "step")
    assert alarm["population"] == step["fd_debiased"] and step["fd_debiased"][ENCODER] < step["fd"][ENCODER]


def test_chunks_give_the_alarms_of_the_whole_batch(tmp_path: Path) -> None:
    for chunks in (1, 3):
        chosen = given(tmp_path, "train_worlds:Net", steps=10, chunks=chunks)
        train(chosen, tmp_path / str(chunks), OFTEN)
    whole, parts = (log_of(tmp_path / name, "alarm")[1] for name in ("1", "3"))
    for kind in ("fd", "error", "population", "spread", "noise_sensitivity"):
        assert parts[kind] == pytest.approx(whole[kind], rel=1e-4, abs=1e-9)


def test_labels_are_followed_too(tmp_path: Path) -> None:
    chosen = given(tmp_path, "train_worlds:ClassNet", steps=10, reference=str(train_worlds.reference(tmp_path)))
    train(chosen, tmp_path / "run", OFTEN)
    (first, last) = log_of(tmp_path / "run", "alarm")
    assert 0.05 < first["label_sensitivity"][ENCODER] < 3 and last["label_sensitivity"][ENCODER] > 0
    assert first["label_sensitivity"] != first["noise_sensitivity"]


def test_sensitivities_are_mean_distances_of_pairs(tmp_path: Path) -> None:
    """Against the images themselves: a network that adds its label's row to its noise."""
    chosen = given(tmp_path, "train_worlds:ClassNet", steps=1, reference=str(train_worlds.reference(tmp_path)))
    train(chosen, tmp_path / "run", OFTEN)
    found = log_of(tmp_path / "run", "alarm")[0]
    from fdr.generators import load_generator
    from fdr.training.step import Draws

    net = load_generator(chosen.gen, chosen.arch)
    draws = Draws(0, (4,), 5, torch.device("cpu"))
    noise, labels = draws.of("sensitivity", 0, 2 * PAIRS)
    assert labels is not None
    encode = lambda z, c: train_worlds.tiny()(net.run(z, c, "here"))["features"].double()  # noqa: E731
    first, same = encode(noise[:PAIRS], labels[:PAIRS]), encode(noise[PAIRS:], labels[:PAIRS])
    moved = encode(noise[:PAIRS], (labels[:PAIRS] + torch.arange(PAIRS) % 4 + 1) % 5)
    unit = math.sqrt(2 * float(Moments.load(chosen.reference).sigma.trace()))
    assert found["noise_sensitivity"][ENCODER] == pytest.approx(float((first - same).norm(dim=1).mean()) / unit)
    assert found["label_sensitivity"][ENCODER] == pytest.approx(float((first - moved).norm(dim=1).mean()) / unit)


def test_signs_are_looked_for_at_alarms_where_nothing_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        train_worlds.Net,
        "forward",
        lambda net, z: (
            torch.sigmoid(net.last.bias * 0 + 200.0).expand(len(z), -1).unflatten(1, (3, 8, 8)).repeat(1, 1, 2, 2)
        ),
    )
    chosen = given(tmp_path, "train_worlds:Net", steps=10)
    with (
        pytest.raises(RunError, match="has learned nothing"),
        pytest.warns(FdrWarning, match="All 32 images of step 10"),
    ):
        train(chosen, tmp_path / "run", replace(OFTEN, log_every=0))


def test_divergence_is_measured_from_the_first_step_in_a_resumed_run_too(tmp_path: Path) -> None:
    chosen, run = given(tmp_path, "train_worlds:Net", steps=20), tmp_path / "run"
    train(chosen, run, OFTEN, should_stop=lambda: True)
    first = load_checkpoint(checkpoint_path(run, 1))["watch"]["first"]
    train(chosen, run, OFTEN)
    assert load_checkpoint(checkpoint_path(run, 20))["watch"]["first"] == first and first[ENCODER] > 0


def test_the_dry_run_says_how_often_and_how_many(tmp_path: Path) -> None:
    lines = list(plan(given(tmp_path), tmp_path / "run", OFTEN, fdr.runtime.SOLO))
    assert "alarm: every 10 steps, 128 fresh images, 96 of them made for it" in lines
    assert not any(
        line.startswith("alarm")
        for line in plan(given(tmp_path), tmp_path / "run", replace(OFTEN, alarm_every=0), fdr.runtime.SOLO)
    )


def test_the_command_stops_with_one_sentence_and_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = given(tmp_path)
    typed = ["--gen", chosen.gen, "--arch", chosen.arch, "--reps", ENCODER, "--ref", chosen.reference, "--steps", 60]
    typed += ["--population", "ema:0.99", "--fill", 500, "--batch-size", 32, "--lr", "1e-5", "--grid-every", 0]
    typed += ["--alarm-every", 10, "--alarm-images", 128, "--on-collapse", "stop", "--device", "cpu", "--quiet"]
    assert command(["train", *map(str, typed), "-o", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fdr: error: Run ") and "was stopped: at 3 alarms in a row" in line
