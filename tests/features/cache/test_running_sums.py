"""Running sums on disk: exact for the shards they list, resumed from any number of files, never counted twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fdr.features import BadRow, RunningSums, resume, sums_files
from fdr.frechet import Sums

ROWS = np.random.default_rng(0).normal(1, 2, (60, 5)).astype(np.float32)
SPANS = [(0, 20), (20, 40), (40, 60)]


def summed(*spans: tuple[int, int]) -> RunningSums:
    found = RunningSums(
        {"pool": Sums(None)}, set(spans), [BadRow(start, f"{start}.png", "broken") for start, _ in spans]
    )
    for start, stop in spans:
        found.sums["pool"].add(ROWS[start:stop])
    return found


def assert_equal(found: RunningSums, *spans: tuple[int, int]) -> None:
    expected = Sums(None)
    for start, stop in sorted(spans):
        expected.add(ROWS[start:stop])
    assert found.spans == set(spans)
    for mine, theirs in zip(found.sums["pool"].finish(1)[:3], expected.finish(1)[:3], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)


def test_round_trip(tmp_path: Path) -> None:
    summed(SPANS[0], SPANS[2]).save(tmp_path / "sums-a.fdr")
    found, files = resume(tmp_path, ["pool"])
    assert_equal(found, SPANS[0], SPANS[2])
    assert files == [tmp_path / "sums-a.fdr"]
    assert sorted(found.bad) == [BadRow(0, "0.png", "broken"), BadRow(40, "40.png", "broken")]


def test_files_of_several_ranks_add_up(tmp_path: Path) -> None:
    summed(SPANS[0]).save(tmp_path / "sums-a.fdr")
    summed(SPANS[1], SPANS[2]).save(tmp_path / "sums-b.fdr")
    assert_equal(resume(tmp_path, ["pool"])[0], *SPANS)


def test_a_kill_between_writing_and_removing_counts_nothing_twice(tmp_path: Path) -> None:
    summed(SPANS[0]).save(tmp_path / "sums-a.fdr")
    summed(SPANS[0], SPANS[1]).save(tmp_path / "sums-b.fdr")  # b has taken in a, and was to remove it
    assert_equal(resume(tmp_path, ["pool"])[0], SPANS[0], SPANS[1])


def test_saving_removes_what_was_taken_in(tmp_path: Path) -> None:
    summed(SPANS[0]).save(tmp_path / "sums-a.fdr")
    found, files = resume(tmp_path, ["pool"])
    found.save(tmp_path / "sums-b.fdr", files)
    assert sums_files(tmp_path) == [tmp_path / "sums-b.fdr"]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_a_damaged_file_is_left_out(tmp_path: Path, damage: str) -> None:
    summed(SPANS[1]).save(tmp_path / "sums-good.fdr")
    path = tmp_path / "sums-bad.fdr"
    summed(SPANS[0]).save(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"NUMPY", data.index(b"pool/2")) + 128  # inside the values of the scatter
    data[at] ^= 255
    content = {"cut": data[:-40], "flip": data, "empty": b"", "other": b"PK no archive"}[damage]
    path.write_bytes(content)
    assert_equal(resume(tmp_path, ["pool"])[0], SPANS[1])


def test_a_file_without_a_wanted_output_is_left_out(tmp_path: Path) -> None:
    summed(SPANS[0]).save(tmp_path / "sums-a.fdr")
    assert resume(tmp_path, ["pool", "spatial"])[0].spans == set()


def test_a_file_of_another_format_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("fdr.features.cache.running_sums.SCHEMA", "fdr-sums/2")
        summed(SPANS[0]).save(tmp_path / "sums-a.fdr")
    assert resume(tmp_path, ["pool"])[0].spans == set()


def test_saving_again_under_the_same_name_keeps_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sums-a.fdr"
    summed(SPANS[0]).save(path)
    found, files = resume(tmp_path, ["pool"])
    found.absorb(summed(SPANS[1]))
    found.save(path, files)
    assert sums_files(tmp_path) == [path]
    total, _ = resume(tmp_path, ["pool"])
    mu, scatter, count = total.sums["pool"].finish(1)[:3]
    both = ROWS[:40].astype(np.float64)
    assert (total.spans, count) == (set(SPANS[:2]), 40)
    np.testing.assert_allclose(mu, both.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scatter, np.cov(both.T), rtol=1e-12)
    assert sorted(row for row, _, _ in total.bad) == [0, 20]
