"""A killed search goes on with its block; files on disk cannot mislead it; processes find what one finds."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from neighbour_program import in_three_blocks, sets
from neighbour_worlds import ArrayRows, CountedRows, assert_is, brute_force, drawn
from processes import PATIENCE, exit_codes

from fdr.cli._ranks import start_ranks
from fdr.neighbours import Neighbours, SearchOptions, nearest

PROGRAM = str(Path(__file__).parent / "neighbour_program.py")


def killed(state: Path, kill_at: int, kind: str) -> bool:
    """True when a search in a process of its own was killed at that read."""
    command = [sys.executable, PROGRAM, str(state.parent), str(state), str(kill_at), kind]
    return subprocess.run(command, timeout=PATIENCE, capture_output=True).returncode == -signal.SIGKILL


def searched(state: Path | None, kind: str) -> tuple[Neighbours, int]:
    """What is found here, and how many shards were read."""
    queries, references = sets(kind)
    rows = CountedRows(references, 64)
    asked = in_three_blocks(queries, references)
    return nearest(ArrayRows(queries, 7), rows, asked, state=state, state_key="these"), len(rows.reads)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("kind", ["offset", "crowd"])
def test_a_killed_search_goes_on_with_the_block_it_was_at(tmp_path: Path, kind: str) -> None:
    """Killed in the second block of three, it searches two of them."""
    state = tmp_path / "state"
    whole = searched(None, kind)[1]
    assert killed(state, whole // 2, kind)
    assert [path.name for path in state.glob("found-*")] == ["found-000000000-000000010.npz"]
    found, reads = searched(state, kind)
    assert reads == whole * 2 // 3
    assert_is(found, brute_force(*sets(kind), 10, "cosine"))
    assert searched(state, kind)[1] == 0
    assert len(list(state.iterdir())) == 3


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    command = [sys.executable, PROGRAM, str(tmp_path), str(tmp_path / "state"), "-1", "offset"]
    assert exit_codes(start_ranks(command, 2)) == [0, 0]
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
    done = subprocess.run(command, timeout=PATIENCE, capture_output=True, check=True, text=True)
    for grown in map(int, done.stdout.split()):
        assert 0.2 * limit < grown <= limit + 2**20  # the interpreter allocates, too


class TestState:
    """What is on disk."""

    def reads(self, state: Path, key: str = "a", num_queries: int = 9, top_k: int = 5, **changes: Any) -> int:
        """Shards that a search reads which finds what is right."""
        metric, labels = changes.get("metric", "cosine"), changes.get("labels")
        x, y = drawn("offset", num_queries, 12, changes.get("seed", 1)), drawn("offset", 100, 12, 2)
        rows = CountedRows(y, changes.get("shard_size", 16))
        options = SearchOptions(top_k, metric, device="cpu", precision="float32")
        found = nearest(ArrayRows(x), rows, options, state=state, state_key=key, labels=labels)
        assert_is(found, brute_force(x, y, top_k, metric, labels=labels))
        return len(rows.reads)

    def test_a_finished_search_is_not_repeated(self, tmp_path: Path) -> None:
        assert self.reads(tmp_path) > 0
        assert [path.name for path in tmp_path.iterdir()] == ["found-000000000-000000009.npz"]
        assert self.reads(tmp_path) == 0

    @pytest.mark.parametrize(
        "change",
        [
            {"key": "b", "seed": 3},
            {"top_k": 4},
            {"metric": "l2"},
            {"shard_size": 32},
            {"num_queries": 8},
            {"labels": (np.arange(9) % 2, np.arange(100) % 2)},
        ],
    )
    def test_the_result_of_another_search_is_not_taken(self, tmp_path: Path, change: dict[str, Any]) -> None:
        self.reads(tmp_path)
        assert self.reads(tmp_path, **change) > 0

    @pytest.mark.parametrize("how", ["short", "flipped", "empty", "text", "pickle", "shape", "dtype", "missing"])
    def test_a_damaged_result_is_searched_again(self, tmp_path: Path, how: str) -> None:
        self.reads(tmp_path)
        (path,) = tmp_path.iterdir()
        data = bytearray(path.read_bytes())
        with np.load(path) as file:
            arrays = dict(file)
        if how == "pickle":
            np.savez(path, **{**arrays, "rows": np.array(["x", None], object)})
        elif how == "shape":
            np.savez(path, **{**arrays, "rows": arrays["rows"][:-1]})
        elif how == "dtype":
            np.savez(path, **{**arrays, "distances": arrays["distances"].astype(np.float32)})
        elif how == "missing":
            np.savez(path, **{name: array for name, array in arrays.items() if name != "squared"})
        else:
            data[len(data) // 2] ^= 255
            path.write_bytes({"short": data[:-100], "flipped": data, "empty": b"", "text": b"no archive"}[how])
        assert self.reads(tmp_path) > 0
        assert self.reads(tmp_path) == 0
