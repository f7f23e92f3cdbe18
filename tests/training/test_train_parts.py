"""The small parts of a training run: rates, averages, options, watches, logs, grids, draws."""

from __future__ import annotations

import itertools
import json
import math
import sys
import types
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fdr.errors import InputError
from fdr.images import write_grid
from fdr.loss import BatchPopulation, EmaPopulation
from fdr.training import RunOptions, StepRecord, TrainOptions, read_options
from fdr.training.folder import check_folder, locked, write_options
from fdr.training.log import JsonLines, TensorBoard, WeightsAndBiases, group_means, open_sinks, scalars
from fdr.training.options import changed, parse_population
from fdr.training.snapshots import as_bytes
from fdr.training.step import Draws, WeightEmas, decay_at, learning_rate, rows_of
from fdr.training.watch import OverfitWatch

OPTIONS = TrainOptions("g.pt")


class TestSchedule:
    def test_the_line_begins_at_zero_and_ends_at_the_peak(self) -> None:
        rates = [learning_rate(step, peak=2.0, warmup=10, steps=100) for step in range(100)]
        assert rates[0] == 0 and rates[5] == 1.0 and rates[10] == 2.0
        assert rates[55] == pytest.approx(1.0)  # the middle of the cosine
        assert all(a > b for a, b in itertools.pairwise(rates[10:]))
        assert 0 < rates[-1] < 2.0 * (math.pi / 2 / 90) ** 2 * 1.01

    def test_without_warmup_the_first_step_has_the_peak(self) -> None:
        assert learning_rate(0, peak=3.0, warmup=0, steps=7) == 3.0

    def test_the_defaults_are_the_papers(self) -> None:
        """Five epochs of 50 of 1,250 steps."""
        assert (OPTIONS.steps, OPTIONS.warmup, OPTIONS.batch_size) == (62_500, 6_250, 1024)
        assert (OPTIONS.betas, OPTIONS.weight_decay, OPTIONS.clip, OPTIONS.lr) == ((0.9, 0.95), 0.0, None, 1e-6)


class TestWeightEmas:
    @pytest.mark.parametrize(
        ("step", "half_life", "expected"),
        [
            (1, 500, 9.536743e-7),
            (100, 500, 0.87055),
            (10**6, 250, 0.997165),
            (10**6, 500, 0.998581),
            (10**6, 1000, 0.999290),
            (10**6, 2000, 0.999645),
        ],
    )
    def test_published_decays_at_batch_1024(self, step: int, half_life: float, expected: float) -> None:
        assert decay_at(step, 1024, half_life) == pytest.approx(expected, rel=1e-6)

    def test_an_average_is_the_weighted_sum_of_all_weights_seen(self) -> None:
        module = nn.Linear(2, 2).double()
        emas = WeightEmas(module, (0.05, 0.3), batch_size=7)
        states, weights = [module.weight.detach().clone()], {label: [1.0] for label in ("edm_0.05", "edm_0.3")}
        for step in range(1, 30):
            with torch.no_grad():
                module.weight += torch.randn(2, 2, dtype=torch.float64)
            emas.update(step)
            states.append(module.weight.detach().clone())
            for label, half_life in (("edm_0.05", 0.05), ("edm_0.3", 0.3)):
                decay = decay_at(step, 7, half_life)
                weights[label] = [w * decay for w in weights[label]] + [1 - decay]
        for label, row in weights.items():
            expected = sum(w * state for w, state in zip(row, states, strict=True))
            torch.testing.assert_close(emas.shadows[label]["weight"], expected, rtol=1e-12, atol=1e-12)

    def test_half_the_weight_is_older_than_a_half_life(self) -> None:
        """Long after the ramp: h thousand images ago the weights count half."""
        batch, half_life = 10, 1.0
        assert decay_at(10**7, batch, half_life) ** (half_life * 1000 / batch) == pytest.approx(0.5)

    def test_buffers_are_copied(self) -> None:
        module = nn.BatchNorm1d(3)
        emas = WeightEmas(module, (250,), 4)
        module(torch.randn(8, 3))
        emas.update(1)
        assert int(emas.shadows["edm_250"]["num_batches_tracked"]) == 1
        assert torch.equal(emas.shadows["edm_250"]["running_mean"], module.running_mean)

    def test_other_half_lives_are_refused(self) -> None:
        module = nn.Linear(1, 1)
        with pytest.raises(InputError, match="no weight average 'edm_500'"):
            WeightEmas(module, (500,), 4).load(WeightEmas(module, (250,), 4).shadows)


class TestOptions:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"reps": ()}, "No encoder was given"),
            ({"reps": ("a", "b"), "monitor": ("b",)}, "'b' is trained on and watched"),
            ({"steps": 0}, "steps must be at least 1"),
            ({"batch_size": 1}, "batch_size must be at least 2"),
            ({"chunks": 0}, "chunks must be at least 1"),
            ({"lr": 0.0}, "lr must be a number above 0"),
            ({"lr": math.nan}, "lr must be a number above 0"),
            ({"clip": -1.0}, "clip must be a number above 0"),
            ({"betas": (0.9, 1.0)}, "betas are two numbers"),
            ({"ema_kimg": (0.0,)}, "ema_kimg are half-lives above 0"),
            ({"warmup_steps": 62_500}, "warmup_steps must be 0 to 62499"),
            ({"weight_decay": -0.1}, "weight_decay must be 0 or above"),
            ({"solver": "quick"}, "Unknown solver 'quick'"),
            ({"gradient": "row"}, "Unknown gradient 'row'; did you mean 'raw'"),
            ({"dtype": "fp16"}, "Unknown dtype 'fp16'"),
            ({"population": "emma:0.9"}, "Unknown population 'emma:0.9'"),
            ({"population": "ema:1.5"}, "beta is 1.5"),
            ({"population": "queue:many"}, "'many' is no number"),
            ({"population": "ema:many:debiased"}, "'many' is no number"),
            ({"population": "ema:0.9:debased"}, "Unknown batch weight 'debased'; did you mean 'debiased'"),
            ({"population": "ema:0.9:debiased:2"}, "Unknown batch weight 'debiased:2'"),
            ({"population": "batch:plan"}, "Unknown estimator 'plan'; did you mean 'plain'"),
            ({"population": "queue:9", "solver": "local"}, "The solver local does not work on a queue"),
            ({"population": "batch:debiased", "solver": "local"}, "The solver local has no bias that"),
            ({"local_rho": 0.5}, "rho belongs to .*solver local; leave it out with .*solver fast"),
            ({"local_rho": -1.0, "solver": "local"}, "rho must be 0 or above; got -1.0"),
        ],
    )
    def test_what_makes_no_sense_is_one_sentence(self, given: dict, message: str) -> None:
        with pytest.raises(InputError, match=message):
            replace(OPTIONS, **given)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("log_every", -1), ("checkpoint_every", -1), ("keep", 0), ("grid_every", -2), ("eval_count", 0)],
    )
    def test_counts_have_a_least_value(self, name: str, value: int) -> None:
        with pytest.raises(InputError, match=f"must be at least .* got {value}"):
            RunOptions(**{name: value})

    def test_populations(self) -> None:
        assert parse_population("ema") == parse_population("ema:0.999")
        assert parse_population("batch:debiased") == BatchPopulation("debiased")
        assert parse_population("batch") == parse_population("batch:plain") == BatchPopulation()
        assert [replace(OPTIONS, population=text).filled > 0 for text in ("ema:0.9", "batch", "batch:debiased")] == [
            True,
            False,
            False,
        ]
        assert parse_population("queue:7").size == 7  # type: ignore[union-attr]
        assert parse_population("ema:0.9:debiased") == EmaPopulation(0.9, "debiased")
        assert parse_population("ema::debiased") == EmaPopulation(0.999, "debiased")
        assert parse_population("ema:0.9:paper") == parse_population("ema:0.9") == EmaPopulation(0.9)

    def test_what_changed_is_named(self) -> None:
        assert changed(OPTIONS, replace(OPTIONS)) is None
        assert changed(OPTIONS, replace(OPTIONS, lr=1e-5)) == "it was started with --lr 1e-06, not 1e-05"
        assert "--ref imagenet256, not x.npz" in str(changed(OPTIONS, replace(OPTIONS, reference="x.npz")))


class TestFolder:
    def test_options_come_back(self, tmp_path: Path) -> None:
        options = TrainOptions(
            "g.pt",
            "m:f",
            {"width": 8, "kind": [1, 2]},
            value_range=(-1.0, 1.0),
            noise_shape=(3, 4),
            reps=("random",),
            ema_kimg=(1.0,),
        )
        write_options(tmp_path, options)
        assert read_options(tmp_path) == options

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (None, "no run of fdr train"),
            ("{", "damaged"),
            ("[]", "damaged"),
            ('{"schema": "x"}', "has schema 'x'"),
            (
                '{"schema": "fdr-train/1", "fdr_version": "9", "options": {"gen": "g", "speed": 1}}',
                "another version of fdr",
            ),
        ],
    )
    def test_damage_is_one_sentence(self, tmp_path: Path, text: str | None, message: str) -> None:
        if text is not None:
            (tmp_path / "train.json").write_text(text)
        with pytest.raises(InputError, match=message):
            read_options(tmp_path)

    def test_a_folder_of_something_else_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(InputError, match="is no run of fdr train"):
            check_folder(tmp_path, OPTIONS)
        assert (tmp_path / "thesis.tex").exists()

    def test_one_run_at_a_time(self, tmp_path: Path) -> None:
        with locked(tmp_path), pytest.raises(InputError, match="Another process is training"), locked(tmp_path):
            pass
        check_folder(tmp_path, OPTIONS)  # the lock alone makes it no run


class TestOverfitWatch:
    def test_a_watched_encoder_that_rises_while_the_trained_fall(self) -> None:
        watch = OverfitWatch()
        assert watch.look(1, {"a": 10.0}, {"w": 5.0}) == []
        assert watch.look(2, {"a": 9.0}, {"w": 4.0}) == []
        assert watch.look(3, {"a": 8.0}, {"w": 4.1}) == []  # within the noise
        (sentence,) = watch.look(4, {"a": 6.0}, {"w": 5.0})
        assert sentence.startswith("Since step 2 the FD of the trained encoders fell by 33.3%, but that of w")
        assert "rose by 25.0%" in sentence
        assert watch.look(5, {"a": 5.0}, {"w": 6.0}) == []  # said once
        assert watch.look(6, {"a": 5.0}, {"w": 3.0}) == []  # recovered
        assert len(watch.look(7, {"a": 4.0}, {"w": 4.0})) == 1  # and said again

    def test_both_rising_is_no_sign(self) -> None:
        watch = OverfitWatch()
        watch.look(1, {"a": 10.0, "b": 1.0}, {"w": 5.0})
        assert watch.look(2, {"a": 11.0, "b": 1.0}, {"w": 50.0}) == []

    def test_its_state_goes_on(self) -> None:
        watch, other = OverfitWatch(), OverfitWatch()
        watch.look(1, {"a": 10.0}, {"w": 5.0, "v": 1.0})
        watch.look(2, {"a": 9.0}, {"w": 6.0, "v": 0.5})
        other.load_state_dict(json.loads(json.dumps(watch.state_dict())))
        assert other == watch

    def test_nothing_watched_nothing_said(self) -> None:
        assert OverfitWatch().look(1, {"a": 0.0}, {}) == []


RECORD = StepRecord(
    step=3,
    images=12,
    lr=0.1,
    loss=math.nan,
    fd={"a": 1.0, "w": 2.0},
    fdr={"a": 0.5},
    watched=("w",),
    grad_norm=math.inf,
    skipped=0,
    images_per_second=9.0,
    memory=None,
    seconds={"solver": 0.25},
)


class TestLog:
    def test_json_has_no_nan(self, tmp_path: Path) -> None:
        sink = JsonLines(tmp_path / "log.jsonl", 0)
        sink.write("step", asdict(RECORD))
        sink.close()
        (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
        row = json.loads(line, parse_constant=lambda name: pytest.fail(name))
        assert row["kind"] == "step" and row["loss"] is None and row["fd"] == {"a": 1.0, "w": 2.0}

    def test_a_resumed_run_drops_what_its_checkpoint_does_not_know(self, tmp_path: Path) -> None:
        path = tmp_path / "log.jsonl"
        path.write_text("".join(json.dumps({"kind": "step", "step": step}) + "\n" for step in (1, 2, 3, 4)) + '{"st')
        sink = JsonLines(path, 2)
        sink.write("step", {"step": 3, "again": True})
        sink.close()
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]

    @pytest.mark.parametrize("line", ["3", "[]", '{"step": null}', '{"kind": "step"}', "[" * 100_000, "{", ""])
    def test_a_line_that_is_no_row_is_dropped(self, tmp_path: Path, line: str) -> None:
        path, good = tmp_path / "log.jsonl", '{"step": 2}\n'
        path.write_text(f"{good}{line}\n")
        JsonLines(path, 2).close()
        assert path.read_text() == good

    def test_means_are_those_of_groups_whose_encoders_all_have_one(self) -> None:
        groups = {"trained": ("a",), "held_out": ("b", "c")}
        found = group_means({"a": 1.0, "b": 2.0, "c": 6.0}, groups)
        assert found == {"all": 3.0, "trained": 1.0, "held_out": 4.0}
        assert group_means({"a": 1.0, "b": 2.0}, groups) == {"trained": 1.0}
        assert group_means({"a": 1.0}, {"trained": ("a",)}) == {}
        assert scalars("step", {"step": 1, "fdr_k": found})["fdr_k/held_out"] == 4.0

    def test_scalars_are_flat_and_finite(self) -> None:
        found = scalars("step", asdict(RECORD))
        assert found["fd/a"] == 1.0 and found["seconds/solver"] == 0.25
        assert "loss" not in found and "grad_norm" not in found and "watched" not in found
        assert scalars("evaluation", {"step": 1, "fd": {"a": 3.0}}) == {"evaluation/fd/a": 3.0}

    def test_missing_libraries_are_one_sentence(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        monkeypatch.setitem(sys.modules, "wandb", None)
        with pytest.raises(InputError, match="--tensorboard was asked for, but tensorboard cannot be imported"):
            open_sinks(tmp_path, OPTIONS, RunOptions(tensorboard=True), 0)
        with pytest.raises(InputError, match="--wandb was asked for, but wandb cannot be imported"):
            open_sinks(tmp_path, OPTIONS, RunOptions(wandb="project"), 0)

    def test_what_tensorboard_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        told: list[tuple] = []
        writer = types.SimpleNamespace(
            add_scalar=lambda *row: told.append(row), add_text=lambda *row: told.append(row), close=lambda: None
        )
        module = types.SimpleNamespace(SummaryWriter=lambda folder, purge_step: told.append((purge_step,)) or writer)
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
        sink = TensorBoard(tmp_path, 5)
        sink.write("step", asdict(RECORD))
        sink.write("warning", {"step": 4, "text": "look"})
        sink.close()
        assert told[0] == (5,) and ("fd/a", 1.0, 3) in told and ("warning", "look", 4) in told

    def test_a_resumed_run_is_the_same_in_wandb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        logged: list[tuple] = []
        run = types.SimpleNamespace(log=lambda values, step: logged.append((values, step)), finish=lambda: None)
        ids = iter(["first", "second"])
        started: list[dict] = []
        module = types.SimpleNamespace(
            util=types.SimpleNamespace(generate_id=lambda: next(ids)),
            init=lambda **settings: started.append(settings) or run,
        )
        monkeypatch.setitem(sys.modules, "wandb", module)
        for _ in range(2):
            sink = WeightsAndBiases(tmp_path, "project", {"lr": 1})
            sink.write("step", asdict(RECORD))
            sink.close()
        assert [settings["id"] for settings in started] == ["first", "first"]
        assert logged[0][1] == 3 and logged[0][0]["fd/w"] == 2.0


class TestGrid:
    def test_images_lie_row_by_row(self, tmp_path: Path) -> None:
        images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 6, 3), np.uint8)
        write_grid(images, tmp_path / "grid.png")
        sheet = np.asarray(Image.open(tmp_path / "grid.png"))
        assert sheet.shape == (2 * 4 + 2, 3 * 6 + 2 * 2, 3)
        assert [sheet[0, 0, 0], sheet[0, 8, 0], sheet[0, 16, 0], sheet[6, 0, 0], sheet[6, 8, 0]] == [0, 1, 2, 3, 4]
        assert sheet[4, 0, 0] == sheet[6, 16, 0] == 255

    def test_values_are_rounded_and_cut(self) -> None:
        images = torch.tensor([-0.5, 0.0, 0.498, 0.4999, 1.0, 2.0]).reshape(1, 1, 2, 3).expand(1, 3, 2, 3)
        assert as_bytes(images)[0, :, :, 0].ravel().tolist() == [0, 0, 127, 127, 255, 255]


class _Ranks:
    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


class TestDraws:
    draws = Draws(0, (3,), 10, torch.device("cpu"))

    @pytest.mark.parametrize("size", [1, 2, 3])
    @pytest.mark.parametrize("chunks", [1, 3])
    def test_the_batch_of_a_step_depends_on_neither_ranks_nor_chunks(self, size: int, chunks: int) -> None:
        options = replace(OPTIONS, batch_size=10, chunks=chunks)
        parts = [
            self.draws.of_step(4, options, _Ranks(rank, size), chunk)  # type: ignore[arg-type]
            for rank in range(size)
            for chunk in range(chunks)
        ]
        noise, labels = self.draws.of("train", 40, 50)
        assert torch.equal(torch.cat([part[0] for part in parts]), noise)
        assert labels is not None and torch.equal(torch.cat([part[1] for part in parts]), labels)

    @pytest.mark.parametrize("size", [1, 2])
    def test_a_fill_is_divided_exactly(self, size: int) -> None:
        whole = torch.cat([noise for noise, _ in self.draws.batches("fill", 11, 11)])
        ranks = [list(self.draws.batches("fill", 11, 4, _Ranks(r, size))) for r in range(size)]  # type: ignore[arg-type]
        rounds = [torch.cat([rank[i][0] for rank in ranks]) for i in range(3)]
        assert torch.equal(torch.cat(rounds), whole)

    def test_uses_share_no_noise(self) -> None:
        uses = [self.draws.of(use, 0, 5)[0] for use in ("train", "fill", "grid")]
        assert not any(torch.equal(a, b) for a, b in itertools.pairwise(uses))

    def test_rows_of(self) -> None:
        assert [rows_of(_Ranks(rank, 3), 10) for rank in range(3)] == [(0, 3), (3, 6), (6, 10)]  # type: ignore[arg-type]
