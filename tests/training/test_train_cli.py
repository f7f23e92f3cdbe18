"""`fdr train` as a user meets it: exit codes, sentences, signals, resumption, ranks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import train_worlds
from processes import PATIENCE, ended, wait_until
from test_train_parts import RECORD
from worlds import images, npz

from fdr.cli import run
from fdr.cli._train_view import LiveView, PlainView
from fdr.training.alarms import AlarmRecord, FreshFD
from fdr.training.folder import checkpoint_path, list_checkpoints, load_checkpoint

HERE = Path(__file__).parent
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Exit code, stdout and stderr of `fdr ARGS` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("COLUMNS", "160")

    def one(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return one


def start(folder: Path, *more: object, steps: int = 12, fill: int = 40, batch_size: int = 8) -> list[object]:
    """Arguments of a small run."""
    reference = npz(folder / "real.npz", images(40))
    given = ["--gen", train_worlds.weights(folder), "--arch", "train_worlds:Net", "--ref", reference, "--device", "cpu"]
    given += ["--reps", "py:train_worlds:tiny", "--population", "ema:0.9", "--fill", fill, "--batch-size", batch_size]
    return ["train", *given, "--lr", "1e-2", "--steps", steps, "--log-every", 2, "--ema-kimg", "0.1", *more]


def test_a_run_from_start_to_end(call: Call, tmp_path: Path) -> None:
    code, out, err = call(*start(tmp_path), "--monitor", "py:train_worlds:other", "-o", "run")
    assert (code, out) == (0, "finished 12 steps; next: fdr eval --gen run --trust\n"), err
    assert re.search(r"^step 2/12, [\d.]+ images/s, \d+ s left: py:train_worlds:tiny ", err, re.MULTILINE)
    assert "watched py:train_worlds:other" in err
    assert "images/s" in err and "solver" in err and "step 12/12, " in err
    for again in (
        [*start(tmp_path), "--monitor", "py:train_worlds:other", "-o", "run"],
        ["train", "--resume", "run", "--trust"],
    ):
        assert call(*again) == (0, "run has finished already, at step 12; nothing to do.\n", "")
    code, out, err = call("train", "--resume", "run", "--lr", "1e-3", "--trust")
    assert code == 2 and "it was started with --lr 0.01, not 0.001" in err and len(err.splitlines()) == 1
    code, out, err = call(
        "eval", "--gen", "run", "--trust", "--num-images", 20, "--reps", "py:train_worlds:tiny", "--ref", "real.npz"
    )
    assert code == 0 and "py:train_worlds:tiny" in out, err
    assert json.loads(Path("run/generator.json").read_text())["trained_on"] == ["py:train_worlds:tiny"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give --gen PATH and -o RUN to start a run, or --resume RUN"),
        (["--gen", "g.pt"], "Give --gen PATH and -o RUN"),
        (["--resume", "none"], "'none' is no run of fdr train: it has no train.json"),
        (["--resume", "a", "-o", "b"], "--resume names the folder already"),
        (["--gen", "g.pt2", "-o", "r", "--reps", "random"], "The generator g.pt2 does not exist"),
        (["--gen", "g.pt", "-o", "r", "--reps", "incepton"], "Unknown encoder 'incepton'; did you mean 'inception'"),
        (["--gen", "g.pt", "-o", "r", "--monitor", "inception"], "'inception' is trained on and watched"),
        (["--gen", "g.pt", "-o", "r", "--betas", "a,b"], "--betas is a list of numbers; got 'a,b'"),
        (["--gen", "g.pt", "-o", "r", "--population", "ema:2"], "beta is 2.0"),
        (["--gen", "g.pt", "-o", "r", "--keep", "0"], "--keep must be at least 1"),
        (["--gen", "g.pt", "-o", "r", "--reps", "random", "--ref", "demo", "--device", "tpu"], "Unknown device 'tpu'"),
    ],
)
def test_wrong_usage_is_one_sentence_and_leaves_nothing(
    call: Call, tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, out, err = call("train", *arguments)
    assert code == 2 and out == "" and message in err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_dry_run(call: Call, tmp_path: Path) -> None:
    code, out, err = call(*start(tmp_path), "-o", "run", "--dry-run")
    assert code == 0 and not (tmp_path / "run").exists(), err
    assert "12 steps on cpu" in out and "a step: " in out and "checkpoints of" in out


def test_sigterm_saves_and_exits_with_0(call: Call, tmp_path: Path) -> None:
    paths = os.pathsep.join(map(str, (HERE, HERE.parent, HERE.parent.parent)))
    command = [sys.executable, "-m", "fdr", *map(str, start(tmp_path, "-o", "run", steps=100_000))]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "run" / "log.jsonl"
    with ended(process):
        wait_until(lambda: log.exists() and log.stat().st_size, process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    step = max(list_checkpoints(tmp_path / "run"))
    assert step > 0 and f"stopped at step {step} of 100000, saved; go on with: fdr train --resume run --trust" in out
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()][-1] in (step, step - 1)


def test_interrupted_it_saves_and_exits_with_130(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fdr.training.step import Stepper

    step = Stepper.step

    def interrupted(self: Stepper, number: int, is_timed: bool) -> object:
        if number == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, number, is_timed)

    monkeypatch.setattr(Stepper, "step", interrupted)
    code, out, _ = call(*start(tmp_path), "-o", "run")
    assert code == 130 and "stopped at step 5 of 12, saved" in out
    assert list(list_checkpoints(tmp_path / "run"))[-1] == 5
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_resumed_run_does_not_call_any_function_its_folder_names(call: Call, tmp_path: Path) -> None:
    """Of a folder from elsewhere, the factory is called only when the user names it, encoders alike."""
    assert call(*start(tmp_path), "-o", "run")[0] == 0
    code, _, err = call("train", "--resume", "run")
    assert code == 2 and "'run/train.json' asks for 'py:train_worlds:tiny'" in err and "--reps py:train_worlds" in err
    for path in ("train.json", "generator.json"):
        text = (tmp_path / "run" / path).read_text()
        (tmp_path / "run" / path).write_text(
            text.replace("train_worlds:Net", "os:abort").replace('"steps": 12', '"steps": 14')
        )
    code, _, err = call("train", "--resume", "run", "--reps", "py:train_worlds:tiny")
    assert code == 2 and "asks for 'os:abort'" in err and "--arch os:abort" in err
    code, _, err = call("train", "--resume", "run", "--reps", "py:train_worlds:tiny", "--arch", "train_worlds:Net")
    assert code == 2 and "it was started with --arch os:abort" in err


@pytest.mark.slow
def test_two_ranks_give_the_parameters_of_one(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = os.pathsep.join(map(str, (HERE, HERE.parent, HERE.parent.parent)))
    monkeypatch.setenv("PYTHONPATH", paths)
    common = start(tmp_path, "--monitor", "py:train_worlds:other", batch_size=9, fill=41)
    common += ["--alarm-every", 6, "--alarm-images", 109]  # 100 further images in parts of 9, the last one of 1
    assert call(*common, "-o", "one")[0] == 0
    code, _, err = call(*common, "-o", "two", "--gpus", 2)
    assert code == 0, err
    one, two = (load_checkpoint(checkpoint_path(tmp_path / name, 12)) for name in ("one", "two"))
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-4, atol=1e-5)
    assert not list((tmp_path / "two").rglob(".*.tmp"))
    alarms = [_alarms(tmp_path / name) for name in ("one", "two")]
    assert [row["step"] for row in alarms[0]] == [0, 6, 12]
    for a, b in zip(*alarms, strict=True):
        for kind in ("fd", "error", "population", "spread", "noise_sensitivity"):
            assert a[kind] == pytest.approx(b[kind], rel=1e-3)
    assert (one["alarms"]["in_a_row"], one["alarms"]["reported"]) == (two["alarms"]["in_a_row"], [])


def _alarms(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "alarm"]


class TestView:
    def test_lines(self, capsys: pytest.CaptureFixture[str]) -> None:
        view = PlainView()
        with view.running(100, 0):
            view.show(replace(RECORD, lr=0.01))
            view.show(replace(RECORD, step=4, fd_debiased={"w": -0.125, "a": 0.75}))
        first, last = capsys.readouterr().err.splitlines()
        assert first == "step 3/100, 9.0 images/s, 0 s left: a 1 (FDr 0.5), watched w 2; lr 0.01, solver 100%"
        assert last.startswith(
            "step 4/100, 9.0 images/s, 0 s left: a 1 (debiased 0.75, FDr 0.5), watched w 2 (debiased -0.125)"
        )

    def test_a_line_every_30_s_where_no_step_is_logged(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """50 steps of an earlier call took no time here: 10 steps in 40 s leave 160 s for the last 40."""
        clock = [0.0]
        monkeypatch.setattr("time.monotonic", lambda: clock[0])
        view = PlainView()
        with view.running(100, 50):
            for step in range(51, 61):
                clock[0] += 4.0
                view.reached(step)
            assert capsys.readouterr().err == "step 58/100, 2 min 48 s left\n"

    def test_fresh_images_and_means_over_encoders_are_shown(self, capsys: pytest.CaptureFixture[str]) -> None:
        alarm = AlarmRecord(2, 256, {"a": FreshFD(1.25, 0.5, 9.0, "full", 1.0)}, {"a": 1.0})
        record = replace(RECORD, fdr_k={"all": 1.5, "trained": 0.5, "held_out": 2.5})
        view = PlainView()
        with view.running(100, 0):
            view.show_alarm(alarm)
            view.show(record)
        (line,) = capsys.readouterr().err.splitlines()
        assert ": a 1 (FDr 0.5) (fresh 1.25 ± 0.5), watched w 2; FDr^2 1.5, of trained 0.5, of held-out 2.5; lr" in line
        live = LiveView()
        with live.running(100, 0):
            live.show_alarm(alarm)
            live.show(record)
        shown = capsys.readouterr().err
        assert "fresh FD" in shown and "1.25 ± 0.5" in shown and "FDr^2 1.5, of trained 0.5, of held-out 2.5" in shown

    def test_distances_of_classes_are_shown(self, capsys: pytest.CaptureFixture[str]) -> None:
        record = replace(RECORD, class_distance={"a": 0.25, "w": 3.0})
        for view in (PlainView(), LiveView()):
            with view.running(100, 0):
                view.show(record)
            shown = " ".join(capsys.readouterr().err.split())
            assert "class distance of a 0.25, of w 3" in shown
            with view.running(100, 0):
                view.show(replace(RECORD, step=5))
            assert "class distance" not in capsys.readouterr().err

    def test_live_table(self, capsys: pytest.CaptureFixture[str]) -> None:
        view = LiveView()
        with view.running(100, 0):
            view.show(RECORD)
            view.reached(4)
            view.show(replace(RECORD, fd={"a": 0.5, "w": 3.0}, skipped=2, fd_debiased={"a": 0.4375}))
        shown = capsys.readouterr().err
        assert (
            "-50.0%" in shown
            and "+50.0%" in shown
            and "watched" in shown
            and "2 skipped" in shown
            and "0.4375" in shown
        )
        assert "step 4/100" in shown
