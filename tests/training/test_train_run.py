"""Whole runs in a folder: killed and resumed, stopped, finished, changed, skipped, divided, published."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import train_program
import train_worlds
from processes import PATIENCE
from train_program import SPARSE, STEPS, options

import fdr
from fdr.errors import InputError, RunError
from fdr.training import RunOptions, plan, train
from fdr.training.folder import checkpoint_path, list_checkpoints, load_checkpoint, prune, save_checkpoint

HERE = Path(__file__).parent


pytestmark = pytest.mark.usefixtures("one_thread")


def final(run: Path, step: int = STEPS) -> dict[str, Any]:
    return load_checkpoint(checkpoint_path(run, step))


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Bit for bit, through nested containers."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{where}/{index}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def log_of(run: Path, kind: str = "step") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


EVERYWHERE = [*(f"step {step}" for step in range(1, STEPS)), *(f"write {write}" for write in range(1, 24))]


@pytest.mark.parametrize(
    "places", [["step 7", "write 15"], pytest.param(EVERYWHERE, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_killed_and_resumed_it_is_the_uninterrupted_run_bit_for_bit(tmp_path: Path, places: list[str]) -> None:
    """Weights, averages, moments of Adam, populations; and the log, but for what a clock says."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parent, HERE.parent.parent)))}
    done = subprocess.run(
        [sys.executable, HERE / "train_program.py", tmp_path, *places],
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    train_program.go(tmp_path, tmp_path / "whole")
    expected = final(tmp_path / "whole")
    timings = ("images_per_second", "memory", "seconds")
    rows = [{k: v for k, v in row.items() if k not in timings} for row in log_of(tmp_path / "whole")]
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    for place in places:
        assert_same(final(tmp_path / place), expected, place)
        found = [{k: v for k, v in row.items() if k not in timings} for row in log_of(tmp_path / place)]
        assert found == rows, place
        assert not list((tmp_path / place).rglob(".*.tmp"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder, and a finished run in it."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        train_program.go(folder, folder / "run")
    return folder, folder / "run"


class TestRun:
    """One finished run, looked at from all sides."""

    def test_fd_falls(self, world: tuple[Path, Path]) -> None:
        rows = log_of(world[1])
        assert rows[-1]["fd"]["py:train_worlds:tiny"] < rows[0]["fd"]["py:train_worlds:tiny"]
        assert rows[0]["watched"] == ["py:train_worlds:other"]
        assert all(rows[-1]["fd_debiased"][name] < rows[-1]["fd"][name] for name in rows[-1]["fd"])
        assert rows[-1]["images"] == STEPS * 8 and rows[-1]["skipped"] == 0
        assert set(rows[0]["seconds"]) == {"generator", "encoders", "solver", "rest"}

    def test_what_lies_there(self, world: tuple[Path, Path]) -> None:
        names = {path.name for path in world[1].iterdir()} - {".lock"}
        weights = {name for name in names if name.startswith("weights-")}
        assert len(weights) == 3  # the trained ones and two averages
        assert names - weights == {"train.json", "log.jsonl", "generator.json", "checkpoints", "grids", "reference"}
        assert list(list_checkpoints(world[1])) == [10, 12]
        grids = {path.name for path in (world[1] / "grids").iterdir()}
        assert grids == {"reals.png", *(f"step-{step:08d}.png" for step in (0, 5, 10, 12))}

    def test_the_run_is_a_generator(self, world: tuple[Path, Path]) -> None:
        state = final(world[1])
        online, average = (fdr.load_generator(world[1], ema=ema, trust=True) for ema in ("none", "edm_0.002"))
        assert_same(dict(online.state_dict()), dict(state["model"]))
        assert_same(dict(average.state_dict()), dict(state["model_ema"]["shadows"]["edm_0.002"]))
        path = checkpoint_path(world[1], STEPS)
        again = fdr.load_generator(path, "train_worlds:Net", arch_args={"dropout": 0.2}, ema="none")
        assert_same(dict(again.state_dict()), dict(state["model"]))

    def test_a_finished_run_says_so_and_changes_nothing(self, world: tuple[Path, Path]) -> None:
        before = {path: path.stat().st_mtime_ns for path in world[1].rglob("*")}
        result = train_program.go(*world)
        assert result.had_finished and result.is_finished
        assert {path: path.stat().st_mtime_ns for path in world[1].rglob("*")} == before

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"lr": 1e-3}, "lr=0.01, not 0.001"),
            ({"seed": 1}, "seed=0, not 1"),
            ({"monitor": ()}, r"--monitor py:train_worlds:other, not \(none\)"),
            ({"population": "ema:0.99"}, "--population ema:0.9, not ema:0.99"),
            ({"steps": 20}, "steps=12, not 20"),
        ],
    )
    def test_an_option_that_moves_parameters_cannot_change(
        self, world: tuple[Path, Path], change: dict, named: str
    ) -> None:
        with pytest.raises(InputError, match=f"cannot go on with these options: it was started with {named}"):
            train(options(world[0], **change), world[1], SPARSE)

    def test_only_the_image_noise_of_the_seed_moves_the_grid(self, world: tuple[Path, Path], tmp_path: Path) -> None:
        other = replace(options(world[0]), lr=1e-9)
        train(other, tmp_path / "still", SPARSE)
        first = (world[1] / "grids" / "step-00000000.png").read_bytes()
        assert (tmp_path / "still" / "grids" / "step-00000012.png").read_bytes() == first
        assert (world[1] / "grids" / "step-00000012.png").read_bytes() != first


class Killer:
    """Says stop after `count` steps."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def test_stopped_by_the_caller_it_saves_and_goes_on(tmp_path: Path) -> None:
    stopped = train_program.go(tmp_path, tmp_path / "run", Killer(7))
    assert (stopped.step, stopped.is_finished) == (7, False)
    assert 7 in list_checkpoints(tmp_path / "run")
    assert train_program.go(tmp_path, tmp_path / "run").is_finished
    train_program.go(tmp_path, tmp_path / "whole")
    assert_same(final(tmp_path / "run"), final(tmp_path / "whole"))


@pytest.mark.parametrize("population", ["queue:64", "batch", "ema:0.8:debiased"])
@pytest.mark.parametrize("chunks", [1, 2])
def test_every_population_resumes(tmp_path: Path, population: str, chunks: int) -> None:
    given = options(tmp_path, population=population, chunks=chunks, batch_size=32)
    train(given, tmp_path / "run", SPARSE, should_stop=Killer(6))
    train(given, tmp_path / "run", SPARSE)
    train(given, tmp_path / "whole", SPARSE)
    assert_same(final(tmp_path / "run"), final(tmp_path / "whole"))


@pytest.mark.parametrize("kind", ["factory", "torchscript", "export"])
def test_every_kind_of_generator_is_trained_and_resumed(tmp_path: Path, kind: str) -> None:
    """A conditional one of one channel in [-1, 1]; the source is gone when the run goes on."""
    torch.manual_seed(0)
    network = train_worlds.ClassNet()
    given = options(tmp_path, arch=None, arch_args={}, num_classes=5, noise_shape=(4,), value_range=(-1.0, 1.0))
    example = torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)
    path = tmp_path / "source.pt"
    if kind == "factory":
        torch.save(network.state_dict(), path)
        given = replace(given, arch="train_worlds:ClassNet")
    elif kind == "torchscript":
        torch.jit.trace(network, example).save(path)
    else:
        path = tmp_path / "source.pt2"
        batch = torch.export.Dim("batch", min=1, max=1024)
        torch.export.save(torch.export.export(network, example, dynamic_shapes=({0: batch}, {0: batch})), path)
    given = replace(given, gen=str(path))
    train(given, tmp_path / "whole", SPARSE)
    train(given, tmp_path / "run", SPARSE, should_stop=Killer(6))
    path.unlink()
    train(given, tmp_path / "run", SPARSE)
    assert_same(final(tmp_path / "run"), final(tmp_path / "whole"))
    rows = [row["fd"]["py:train_worlds:tiny"] for row in log_of(tmp_path / "whole")]
    assert rows[-1] < rows[0]


def test_chunks_change_rounding_only(tmp_path: Path) -> None:
    plain = options(tmp_path, arch_args={}, fill=200, lr=1e-3)
    train(plain, tmp_path / "one", SPARSE)
    train(replace(plain, chunks=3), tmp_path / "three", SPARSE)
    one, three = final(tmp_path / "one")["model"], final(tmp_path / "three")["model"]
    for name, value in one.items():
        torch.testing.assert_close(three[name], value, rtol=1e-4, atol=1e-5)


def test_what_is_logged_drawn_and_evaluated_moves_no_parameter(tmp_path: Path) -> None:
    given = options(tmp_path)
    often = {"log_every": 1, "checkpoint_every": 1, "grid_every": 1}
    busy = RunOptions(device="cpu", **often, grid_size=3, eval_every=4, eval_count=20)
    idle = RunOptions(device="cpu", log_every=99, checkpoint_every=99, grid_every=None)
    torch.manual_seed(5)
    train(given, tmp_path / "busy", busy)
    drawn = torch.rand(1)
    train(given, tmp_path / "idle", idle)
    busy_state, idle_state = ({**final(tmp_path / name), "parting": None} for name in ("busy", "idle"))
    assert_same(busy_state, idle_state)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)  # the caller's own randomness is left alone
    assert [row["step"] for row in log_of(tmp_path / "busy", "evaluation")] == [4, 8, 12]
    report = json.loads((tmp_path / "busy" / "evaluations" / "step-00000012.json").read_text())
    values = {row["encoder"]: row["value"] for row in report["results"]}
    assert values == log_of(tmp_path / "busy", "evaluation")[-1]["fd"]
    assert set(values) == {"py:train_worlds:tiny", "py:train_worlds:other"}


class TestSkipped:
    """A step without a finite gradient changes nothing and is counted."""

    @staticmethod
    def broken_at(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
        from fdr.training.step import Draws

        draw = Draws.of_step

        def drawn(self: Draws, step: int, *rest: Any) -> Any:
            noise, labels = draw(self, step, *rest)
            return (noise * float("nan") if step in steps else noise), labels

        monkeypatch.setattr(Draws, "of_step", drawn)

    def test_it_is_counted_and_left_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken_at(monkeypatch, {3})
        given = options(tmp_path)
        train(given, tmp_path / "run", replace(SPARSE, log_every=1, checkpoint_every=1, keep=99))
        (row,) = log_of(tmp_path / "run", "skipped")
        assert row["step"] == 4 and "non-finite features for 8 of 8 images" in row["text"]
        before, after = final(tmp_path / "run", 3), final(tmp_path / "run", 4)
        for part in ("model", "model_ema", "optimizer", "loss"):
            # the rate of the schedule is all that a skipped step sets
            a, b = before[part], after[part]
            if part == "optimizer":
                a, b = a["state"], b["state"]
            assert_same(dict(a), dict(b), part)
        assert final(tmp_path / "run")["taken"] == STEPS - 1
        assert log_of(tmp_path / "run")[-1]["skipped"] == 1

    def test_too_many_in_a_row_end_the_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken_at(monkeypatch, {2, 4, 5, 6})
        with pytest.raises(RunError, match="3 steps in a row were skipped; of step 7 the reason is: Encoder"):
            train(options(tmp_path, max_skipped=3), tmp_path / "run", SPARSE)
        assert [row["step"] for row in log_of(tmp_path / "run", "skipped")] == [3, 5, 6, 7]

    def test_an_infinite_gradient_is_skipped(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        norm = torch.nn.utils.get_total_norm
        calls: list[int] = []

        def counted(gradients: Any) -> Any:
            calls.append(1)
            return torch.tensor(float("inf")) if len(calls) == 2 else norm(gradients)

        monkeypatch.setattr(torch.nn.utils, "get_total_norm", counted)
        result = train(options(tmp_path), tmp_path / "run", SPARSE)
        assert result.skipped == 1
        (row,) = log_of(tmp_path / "run", "skipped")
        assert row["text"].startswith("the norm of the gradient is inf")


class TestCheckpoints:
    def test_newest_and_milestones_stay(self, tmp_path: Path) -> None:
        for step in range(0, 100, 10):
            save_checkpoint(tmp_path, step, {})
        prune(tmp_path, keep=2, milestone_every=30)
        assert list(list_checkpoints(tmp_path)) == [0, 30, 60, 80, 90]

    @pytest.mark.parametrize("content", [b"", b"nonsense", None])
    def test_damage_is_one_sentence(self, tmp_path: Path, content: bytes | None) -> None:
        path = save_checkpoint(tmp_path, 3, {"weights": torch.zeros(1000)})
        path.write_bytes(path.read_bytes()[:900] if content is None else content)
        with pytest.raises(InputError, match=r"is damaged .*remove it to resume from an earlier one"):
            load_checkpoint(path)

    def test_a_flipped_bit_is_found(self, tmp_path: Path) -> None:
        weights = torch.arange(1000, dtype=torch.float32)
        path = save_checkpoint(tmp_path, 3, {"weights": weights})
        data = bytearray(path.read_bytes())
        data[data.index(weights.numpy().tobytes()) + 402] ^= 1
        path.write_bytes(data)
        with pytest.raises(
            InputError, match=r"is damaged \(its member .* does not agree with its checksum\); remove it"
        ):
            load_checkpoint(path)

    def test_another_file_is_refused(self, tmp_path: Path) -> None:
        torch.save({"model": {}}, tmp_path / "x.pt")
        with pytest.raises(InputError, match="no checkpoint of fdr train"):
            load_checkpoint(tmp_path / "x.pt")

    def test_nothing_is_unpickled(self, tmp_path: Path) -> None:
        import pickle

        path = checkpoint_path(tmp_path, 1)
        path.parent.mkdir()
        path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded"), protocol=2))
        with pytest.raises(InputError, match="is damaged"):
            load_checkpoint(path)
        assert not (tmp_path / "exploded").exists()


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_the_plan_leaves_nothing(tmp_path: Path) -> None:
    given = options(tmp_path)
    lines = list(plan(given, tmp_path / "run", replace(SPARSE, eval_every=4), fdr.runtime.SOLO))
    assert not (tmp_path / "run").exists()
    text = "\n".join(lines)
    assert "report.html" not in text
    for part in ("new, 12 steps on cpu", "FD of py:train_worlds:tiny", "watched: py:train_worlds:other", "a step: "):
        assert part in text
    for part in ("refreshes: ", "memory: ", "time: about ", "2 checkpoints of ", "a grid of 4 images", "a report on"):
        assert part in text
    train(given, tmp_path / "run", SPARSE)
    (line,) = plan(given, tmp_path / "run", SPARSE, fdr.runtime.SOLO)
    assert line.endswith("has finished already, at step 12; nothing would be done")


def test_a_generator_without_parameters_cannot_be_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = train_worlds.Net.__init__

    def init(self: Any, **arguments: Any) -> None:
        frozen(self, **arguments)
        self.requires_grad_(False)

    monkeypatch.setattr(train_worlds.Net, "__init__", init)
    with pytest.raises(InputError, match="no parameter that wants a gradient"):
        train(options(tmp_path), tmp_path / "run", SPARSE)


def test_memory_for_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends with the options to change, and with the original error behind it; its checkpoints stay."""
    forward = train_worlds.Net.forward

    def hungry(self: torch.nn.Module, noise: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, noise)

    monkeypatch.setattr(train_worlds.Net, "forward", hungry)
    with pytest.raises(
        RunError, match=r"2.00 GiB .*a training step .*encoder.batch.size.*chunks.*batch.size"
    ) as caught:
        train(options(tmp_path), tmp_path / "run", SPARSE)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert list_checkpoints(tmp_path / "run")


def test_an_evaluation_that_fails_is_told_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator makes one NaN in its evaluation at step 4, and in no step."""
    forward = train_worlds.Net.forward

    def broken(self: torch.nn.Module, noise: torch.Tensor) -> torch.Tensor:
        images = forward(self, noise)
        if not self.training and len(list_checkpoints(tmp_path / "run")) > 0:
            images = images.clone()
            images[0, 0, 0, 0] = float("nan")
        return images

    monkeypatch.setattr(train_worlds.Net, "forward", broken)
    often = replace(SPARSE, eval_every=4, eval_count=8, grid_every=None)
    with pytest.warns(fdr.errors.FdrWarning, match="evaluation of step 4 failed, and the run goes on: .*not finite"):
        result = train(options(tmp_path), tmp_path / "run", often)
    assert result.is_finished and result.skipped == 0
    assert any("evaluation of step 4 failed" in entry["text"] for entry in log_of(tmp_path / "run", "warning"))
