"""A killed search goes on where it was; what it finds on disk cannot mislead it; processes find what one does."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from neighbour_program import OPTIONS, sets
from neighbour_worlds import CountedRows, assert_is, brute_force, drawn, least_memory

from fdr.cli._ranks import start_ranks
from fdr.errors import RunError
from fdr.ifid.neighbours import ArrayRows, LatentRows, Neighbours, SearchOptions, nearest, plan_search
from fdr.ifid.neighbours import state as search_state

PROGRAM = str(Path(__file__).parent / "neighbour_program.py")


def killed(state: Path, kill_at: int, kind: str) -> bool:
    """True when a search in a process of its own was killed at that read."""
    command = [sys.executable, PROGRAM, str(state.parent), str(state), str(kill_at), kind]
    return subprocess.run(command, timeout=300, capture_output=True).returncode == -signal.SIGKILL


def searched(state: Path | None, kind: str) -> tuple[Neighbours, int]:
    """What is found here, and how many shards were read."""
    queries, references = sets(kind)
    rows = CountedRows(references, 64)
    return nearest(ArrayRows(queries, 7), rows, OPTIONS, state=state, state_key="these"), len(rows.reads)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize(
    ("kind", "kills"),
    [
        ("offset", (9, 14)),  # both in the first step
        ("offset", (30,)),  # while candidates are ranked again
        ("crowd", (50, 12)),  # while all is searched anew, twice
    ],
)
def test_a_killed_search_goes_on(tmp_path: Path, kind: str, kills: tuple[int, ...]) -> None:
    """After each kill at most two shards are read again: the one at work and the one read ahead."""
    state = tmp_path / "state"
    assert all(killed(state, kill_at, kind) for kill_at in kills)
    found, reads = searched(state, kind)
    again = sum(kills) + reads - searched(None, kind)[1]
    assert again <= len(kills) * 5  # with the first shard, for its dtype and for the shift
    assert_is(found, brute_force(*sets(kind), 10, "cosine"))
    assert not list(state.glob("running-*"))


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    command = [sys.executable, PROGRAM, str(tmp_path), str(tmp_path / "state"), "-1", "offset"]
    assert [process.wait(timeout=120) for process in start_ranks(command, 2)] == [0, 0]
    expected = brute_force(*sets("offset"), 10, "cosine")
    for rank in range(2):
        found = np.load(tmp_path / f"{rank}.npz")
        np.testing.assert_array_equal(found["query_rows"], np.arange(30))
        for name, array in zip(("rows", "distances", "squared"), expected, strict=True):
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_process_grows_by_no_more_than_the_limit(tmp_path: Path) -> None:
    """Far less than the latents: 150 queries of 20,000 values are 12 MB, 320 references 26 MB."""
    limit = 14 * 2**20
    command = [sys.executable, str(Path(PROGRAM).with_name("neighbour_memory.py")), str(tmp_path), str(limit)]
    done = subprocess.run(command, timeout=300, capture_output=True, check=True, text=True)
    for grown in map(int, done.stdout.split()):
        assert 0.2 * limit < grown <= limit + 2**20  # the interpreter allocates, too


class Fails(CountedRows):
    """Fails at a given read."""

    def __init__(self, values: torch.Tensor, shard_size: int, fail_at: int) -> None:
        super().__init__(values, shard_size)
        self.fail_at = fail_at

    def read(self, start: int, stop: int) -> tuple[np.ndarray, torch.Tensor]:
        if len(self.reads) == self.fail_at:
            raise RunError("the disk is gone")
        return super().read(start, stop)


class TestState:
    """What is on disk."""

    @pytest.fixture(autouse=True)
    def every_shard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(search_state, "_SAVE_SHARE", 0)

    def find(self, rows: LatentRows, state: Path, seed: int = 1, key: str = "a", top_k: int = 5) -> Neighbours:
        options = SearchOptions(top_k, device="cpu", precision="float32")
        return nearest(ArrayRows(drawn("offset", 9, 12, seed)), rows, options, state=state, state_key=key)

    @pytest.fixture
    def begun(self, tmp_path: Path) -> Path:
        """The folder of a search that failed halfway."""
        with pytest.raises(RunError, match="the disk is gone"):
            self.find(Fails(drawn("offset", 400, 12, 2), 16, 12), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["running-000000000-000000009.npz"]
        return tmp_path

    def expected(self, seed: int = 1, top_k: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return brute_force(drawn("offset", 9, 12, seed), drawn("offset", 400, 12, 2), top_k, "cosine")

    def reads(self, state: Path, **changes: object) -> int:
        """Shards that a search reads which finds what is right."""
        rows = CountedRows(drawn("offset", 400, 12, 2), 16)
        seed, top_k = int(changes.get("seed", 1)), int(changes.get("top_k", 5))  # type: ignore[call-overload]
        assert_is(self.find(rows, state, **changes), self.expected(seed, top_k))  # type: ignore[arg-type]
        return len(rows.reads)

    def test_it_is_taken_up(self, begun: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        whole = self.reads(tmp_path_factory.mktemp("other"))
        assert self.reads(begun) <= whole - 8
        assert self.reads(begun) == 1  # what is finished is kept; one shard is read for its dtype

    @pytest.mark.parametrize("change", [{"key": "b", "seed": 3}, {"top_k": 4}])
    def test_that_of_another_search_is_not(self, begun: Path, change: dict[str, object]) -> None:
        whole = self.reads(begun / "other", **change)
        assert self.reads(begun, **change) == whole

    @pytest.mark.parametrize("how", ["short", "flipped", "empty", "text", "pickle", "rows"])
    def test_what_is_damaged_is_not(self, begun: Path, how: str) -> None:
        whole = self.reads(begun / "other")
        (path,) = begun.glob("running-*")
        data = bytearray(path.read_bytes())
        if how == "rows":
            with np.load(path) as file:
                arrays = dict(file)
            arrays["rows"] = arrays["rows"] + 10_000
            np.savez(path, **arrays)
        elif how == "pickle":
            np.savez(path, digest=np.array(["x", None], object))
        else:
            data[len(data) // 2] ^= 255
            path.write_bytes({"short": data[:-100], "flipped": data, "empty": b"", "text": b"no archive"}[how])
        assert self.reads(begun) == whole

    def test_another_division_of_the_queries_begins_anew(self, begun: Path) -> None:
        rows = ArrayRows(drawn("offset", 9, 12, 1), 2), ArrayRows(drawn("offset", 400, 12, 2), 16)
        options = SearchOptions(5, device="cpu", precision="float32")
        options = replace(options, memory=least_memory(*rows, options) + 10_000)
        assert plan_search(*rows, options).num_blocks > 1
        found = nearest(*rows, options, state=begun, state_key="a")
        assert_is(found, self.expected())
