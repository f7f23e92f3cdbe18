"""Real processes: torchrun's and our own launcher, one report, one error, no orphans."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from processes import PATIENCE, ended, exit_codes
from rank_program import audit, evaluate, interpolate
from worlds import TinyEncoder, images, npz

from fdr.cli import run
from fdr.cli._ranks import _watch, start_ranks
from fdr.runtime import SOLO, rank_environment

HERE = Path(__file__).parents[1]
PROGRAM = str(HERE / "rank_program.py")


def answers(folder: Path, size: int, *arguments: str) -> tuple[list[dict], list[int]]:
    """What `size` ranks of the program say, started as `--gpus` starts them, and their exit codes."""
    processes = start_ranks([sys.executable, PROGRAM, str(folder), *arguments], size)
    codes = exit_codes(processes)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)], codes


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """75 samples (5 shards of 16, the last one short) and 50 reference images."""
    folder = tmp_path_factory.mktemp("sets")
    return str(npz(folder / "a.npz", images(75, seed=1))), str(npz(folder / "b.npz", images(50, seed=2)))


@pytest.fixture(scope="module")
def found(sets: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What three ranks say that evaluate, then interpolate, and then audit."""
    answered, codes = answers(tmp_path_factory.mktemp("ranks"), 3, *sets, "ifid", "audit")
    assert codes == [0, 0, 0], answered
    return answered


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """`evaluate` and `interpolate` set these in this process, too; they must be gone afterwards."""
    monkeypatch.setattr("fdr.features.extraction.SHARD_SIZE", 16)
    monkeypatch.setattr("fdr.ifid.latents.SHARD_SIZE", 16)


def test_three_processes_give_the_report_of_one(sets: tuple[str, str], found: list[dict]) -> None:
    alone = evaluate(*sets, SOLO)
    assert [answer["rank"] for answer in found] == [0, 1, 2]
    assert sum(answer["seen"] for answer in found) == 125
    assert min(answer["seen"] for answer in found) > 0
    for answer in found:
        assert answer["values"] == pytest.approx(alone, rel=1e-9)


def test_three_processes_interpolate_as_one(sets: tuple[str, str], found: list[dict]) -> None:
    alone = interpolate(*sets, SOLO)
    for answer in found:
        assert answer["ifid"] == pytest.approx(alone, rel=1e-9)


def test_three_processes_audit_as_one(sets: tuple[str, str], found: list[dict]) -> None:
    """They divide the images among them; rank 0 alone has the report, for which the others wait."""
    alone = audit(*sets, SOLO, TinyEncoder())
    assert alone is not None
    assert [answer["audit"] is None for answer in found] == [False, True, True]
    assert sum(answer["again"] for answer in found) == 125 and min(answer["again"] for answer in found) > 0
    together = found[0]["audit"]
    assert together["fd"] == pytest.approx(alone["fd"], rel=1e-9)
    assert together["samples"]["digest"] == alone["samples"]["digest"]
    for one, other in zip(together["matchings"], alone["matchings"], strict=True):
        assert one["fd"] == pytest.approx(other["fd"], rel=1e-6)
        assert one["control"] == pytest.approx(other["control"], rel=1e-6)


def test_torchrun(sets: tuple[str, str], tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run([*torchrun, PROGRAM, tmp_path, *sets], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    values = [json.loads((tmp_path / f"{rank}.json").read_text())["values"] for rank in range(2)]
    assert values[0] == values[1] == pytest.approx(evaluate(*sets, SOLO), rel=1e-9)


def test_the_failure_of_one_rank_ends_all_with_its_sentence(sets: tuple[str, str], tmp_path: Path) -> None:
    found, codes = answers(tmp_path, 2, *sets, "fail")
    (peer,), (own,) = (answer.values() for answer in found)
    assert own.startswith("Encoder 'tiny' failed on a batch of 8 images") and ": no luck here. " in own
    assert peer == f"Rank 1 of 2 failed: {own}"
    assert codes == [1, 1]


class TestLauncher:
    """`--gpus N`."""

    def test_one_report_from_two_processes(self, sets: tuple[str, str], capfd: pytest.CaptureFixture[str]) -> None:
        common = ["eval", sets[0], "--ref", sets[1], "--reps", "random", "--no-cache", "--device", "cpu", "--json", "-"]
        assert run([*common, "--gpus", "2"]) == 0, capfd.readouterr().err
        together = json.loads(capfd.readouterr().out)
        assert run(common) == 0
        alone = json.loads(capfd.readouterr().out)
        assert together["run"]["ranks"] == 2
        assert together["results"][0]["value"] == pytest.approx(alone["results"][0]["value"], rel=1e-6)
        assert together["results"][0]["signature"] == alone["results"][0]["signature"]

    def test_an_error_is_said_once(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        command = ["eval", str(tmp_path / "no.npz"), "--reps", "random", "--ref", "demo", "--device", "cpu"]
        assert run([*command, "--gpus", "2"]) == 2
        assert capfd.readouterr().err.count("does not exist") == 1

    def test_a_killed_rank_ends_the_others(self, capfd: pytest.CaptureFixture[str]) -> None:
        codes = ["import time; time.sleep(600)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
        processes = [subprocess.Popen([sys.executable, "-c", code]) for code in codes]
        with ended(*processes):
            assert _watch(processes) == 1
            assert processes[0].poll() == -signal.SIGKILL
        assert "Rank 1 of 2 was ended by SIGKILL" in capfd.readouterr().err

    def test_an_exit_code_is_passed_on(self) -> None:
        processes = [subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"]) for code in (0, 3)]
        assert _watch(processes) == 3

    def test_ranks_end_with_their_launcher(self, sets: tuple[str, str]) -> None:
        """A rank whose launcher is another process than its parent takes it for dead, and ends."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            port, held = listener.getsockname()[1], listener.fileno()
            ranks = [
                subprocess.Popen(
                    [sys.executable, PROGRAM, ".", *sets],
                    env=rank_environment(rank, 2, port, launcher=1, listener=None if rank else held),
                    pass_fds=() if rank else (held,),
                    stderr=subprocess.DEVNULL,
                )
                for rank in range(2)
            ]
        assert exit_codes(ranks) == [1, 1]
