"""Several ranks give what one process gives: exact shards, sums in float64, one cache, one error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from thread_ranks import on_ranks
from worlds import TinyEncoder, folder, images, npz

import fdr
from fdr.errors import InputError, PeerError, RunError
from fdr.evaluation import measure
from fdr.features import Extraction, ExtractionOptions
from fdr.frechet import Sums
from fdr.images import ImageOptions, open_images
from fdr.images.digests import file_digests
from fdr.metrics import CollectedFeatures, Need
from fdr.runtime import (
    SOLO,
    Group,
    SharedTask,
    part_of,
    propagate_failures,
    rank_device,
    rank_environment,
    rank_place,
    share_processors,
)
from fdr.runtime.ranks.group import Solo
from fdr.runtime.ranks.place import RankPlace


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.features.extraction.SHARD_SIZE", 16)


class _Rank:
    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@given(st.integers(0, 200), st.integers(1, 20))
def test_the_parts_are_contiguous_and_of_even_length(count: int, size: int) -> None:
    parts = [part_of(_Rank(rank, size), list(range(count))) for rank in range(size)]  # type: ignore[arg-type]
    assert [item for part in parts for item in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def rows_of(group: Group, path: Path, cache: Path | None, counts: list[int] | None = None) -> dict[int, np.ndarray]:
    encoder = TinyEncoder()
    options = ExtractionOptions(cache, batch_size=5, num_workers=0, group=group)
    extraction = Extraction(open_images(path), [encoder], None, options)
    found = {}
    for block in extraction:
        found |= dict(zip(block.rows.tolist(), block.features["tiny"]["features"].copy(), strict=True))
    if counts is not None:
        counts.append(encoder.num_seen)
    return found


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("has_cache", [False, True])
def test_ranks_divide_the_images_exactly(tmp_path: Path, size: int, has_cache: bool) -> None:
    source = npz(tmp_path / "a.npz", images(75))  # 5 shards, the last one short; with 7 ranks two have nothing
    alone = rows_of(SOLO, source, None)
    cache = tmp_path / "cache" if has_cache else None
    counts: list[int] = []
    found = on_ranks(size, lambda group: rows_of(group, source, cache, counts))
    assert sorted(row for part in found for row in part) == list(range(75))
    assert sum(counts) == 75
    for part in found:
        for row, features in part.items():
            np.testing.assert_array_equal(features, alone[row])


def test_ranks_write_one_cache_that_one_process_reads(tmp_path: Path) -> None:
    source = npz(tmp_path / "a.npz", images(75))
    alone = rows_of(SOLO, source, None)
    on_ranks(3, lambda group: rows_of(group, source, tmp_path / "cache"))
    counts: list[int] = []
    warm = rows_of(SOLO, source, tmp_path / "cache", counts)
    assert counts == [0]
    np.testing.assert_array_equal(np.stack(list(warm.values())), np.stack(list(alone.values())))
    on_ranks(2, lambda group: rows_of(group, source, tmp_path / "cache", counts))
    assert counts == [0, 0, 0]


def test_what_is_missing_is_divided_evenly(tmp_path: Path) -> None:
    """A run that was killed when it had the first half goes on with all ranks."""
    source = npz(tmp_path / "a.npz", images(128))
    rows_of(SOLO, source, tmp_path / "cache")
    entry = next((tmp_path / "cache").iterdir())
    for shard in sorted(entry.glob("shard-*.h5"))[4:]:
        shard.unlink()
    counts: list[int] = []
    with pytest.warns(fdr.errors.FdrWarning, match="damaged"):  # here, since filters of warnings are not per thread
        Extraction(open_images(source), [TinyEncoder()], None, ExtractionOptions(tmp_path / "cache"))
    on_ranks(2, lambda group: rows_of(group, source, tmp_path / "cache", counts))
    assert counts == [32, 32]


def test_bad_images_are_known_to_every_rank(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", images(60))
    for index in (3, 40):
        (path / f"{index:04d}.png").write_bytes(b"no image")

    def bad(group: Group) -> list[int]:
        options = ImageOptions(on_bad="skip", max_bad=0.1)
        extraction = Extraction(
            open_images(path, options), [TinyEncoder()], None, ExtractionOptions(num_workers=0, group=group)
        )
        assert sum(len(block.rows) for block in extraction) == (31, 27)[group.rank]
        return [image.row for image in extraction.bad]

    assert on_ranks(2, bad) == [[3, 40]] * 2


def test_a_failure_on_one_rank_ends_all(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", images(60))
    (path / "0050.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"0050\.png"):
        on_ranks(3, lambda group: rows_of(group, path, tmp_path / "cache"))


def test_ranks_that_see_other_images_are_refused(tmp_path: Path) -> None:
    sources = [npz(tmp_path / f"{i}.npz", images(40, seed=i)) for i in range(2)]
    with pytest.raises(RunError, match="do not see the same files"):
        on_ranks(2, lambda group: rows_of(group, sources[group.rank], None))


def test_ranks_with_other_encoders_are_refused(tmp_path: Path) -> None:
    source = npz(tmp_path / "a.npz", images(20))

    def run(group: Group) -> None:
        Extraction(
            open_images(source), [TinyEncoder(weights="seed:" + "1" * group.rank)], None, ExtractionOptions(group=group)
        )

    with pytest.raises(RunError, match="do not see the same images or encoders"):
        on_ranks(2, run)


def test_a_generator_cannot_be_divided() -> None:
    def run(group: Group) -> None:
        Extraction(open_images(iter(images(4))), [TinyEncoder()], None, ExtractionOptions(group=group))

    with pytest.raises(InputError, match="2 ranks cannot divide it"):
        on_ranks(2, run)


def test_ranks_hash_a_part_of_the_files_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(tmp_path / "a", images(30))
    files = sorted(path.iterdir())
    monkeypatch.setenv("FDR_CACHE", str(tmp_path / "one"))
    alone = file_digests(files, "scope")
    monkeypatch.setenv("FDR_CACHE", str(tmp_path / "many"))
    hashed: list[str] = []
    from fdr.images import digests

    original = digests._hash
    monkeypatch.setattr(digests, "_hash", lambda key, *rest: hashed.append(key) or original(key, *rest))
    assert on_ranks(4, lambda group: file_digests(files, "scope", group)) == [alone] * 4
    assert sorted(hashed) == sorted(map(str, files))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_sums_of_parts_combine_to_those_of_the_whole(counts: list[int], seed: int) -> None:
    x = np.random.default_rng(seed).normal(3, 1, (sum(counts) + 2, 6)).astype(np.float32)
    whole, parts = Sums(None), [Sums(None) for _ in [*counts, 2]]
    whole.add(x)
    start = 0
    for part, count in zip(parts, [*counts, 2], strict=True):
        part.add(x[start : start + count])
        start += count
    for part in parts[1:]:
        parts[0].absorb(part.state())
    expected, found = whole.finish(1), parts[0].finish(1)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-12, atol=1e-12)
    assert found[2] == expected[2]
    assert (found[3] is None) == (expected[3] is None)  # the factor of few samples survives
    if found[3] is not None and expected[3] is not None:
        np.testing.assert_allclose(found[3], expected[3], rtol=1e-12, atol=1e-12)


class TestFacts:
    """Who this process is, from what launchers set."""

    def test_nothing_set_is_one_process(self) -> None:
        assert rank_place({}) == RankPlace()

    def test_torchrun(self) -> None:
        env = {"RANK": "5", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
        env |= {"MASTER_ADDR": "node0", "MASTER_PORT": "29500", "TORCHELASTIC_USE_AGENT_STORE": "True"}
        facts = rank_place(env)
        assert (facts.rank, facts.size, facts.local_rank, facts.local_size) == (5, 16, 1, 4)
        assert facts.rendezvous == "env://" and facts.has_store

    def test_our_own_launcher_speaks_torchruns_language(self) -> None:
        facts = rank_place(rank_environment(1, 3, 1234, 99))
        assert (facts.rank, facts.size, facts.local_size, facts.launcher) == (1, 3, 3, 99)
        assert not facts.has_store

    @pytest.mark.parametrize(
        ("nodes", "host"),
        [("gpu[003-006,009],cpu1", "gpu003"), ("alone", "alone"), ("a1,a2", "a1"), ("n[7]-ib,m", "n7-ib")],
    )
    def test_slurm_step(self, nodes: str, host: str) -> None:
        env = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "6", "SLURM_LOCALID": "2", "SLURM_JOB_ID": "123456"}
        env |= {"SLURM_STEP_NODELIST": nodes, "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}
        facts = rank_place(env)
        assert (facts.rank, facts.size, facts.local_rank, facts.local_size) == (6, 8, 2, 4)
        assert facts.rendezvous == f"tcp://{host}:23456?rank=6&world_size=8"

    def test_every_variable_of_torchrun_counts(self) -> None:
        env = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
        assert rank_place(env) == RankPlace(1, 4, 1, 4, endpoint=("node0", 29500))
        env |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "3"}
        env |= {"FDR_LAUNCHER": "77", "FDR_LISTENER": "5"}
        expected = RankPlace(1, 4, 0, 2, endpoint=("node0", 29500), launcher=77, listener=5, attempt="3")
        assert rank_place(env) == expected

    def test_what_our_launcher_gives_a_rank(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fdr.runtime.ranks.place.available_cpus", lambda: 8)
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        env = rank_environment(2, 3, 1234, 99)
        assert env["OMP_NUM_THREADS"] == "2" and "FDR_LISTENER" not in env
        assert rank_place(env) == RankPlace(2, 3, 2, 3, endpoint=("127.0.0.1", 1234), launcher=99)
        assert rank_place(rank_environment(0, 3, 1234, 99, 7)).listener == 7
        assert rank_environment(0, 100, 1234, 99)["OMP_NUM_THREADS"] == "1"
        monkeypatch.setenv("OMP_NUM_THREADS", "5")
        assert rank_environment(2, 3, 1234, 99)["OMP_NUM_THREADS"] == "5"

    def test_ranks_of_one_machine_share_its_processors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        set_to: list[int] = []
        monkeypatch.setattr("fdr.runtime.ranks.place.available_cpus", lambda: 8)
        monkeypatch.setattr(torch, "set_num_threads", set_to.append)
        assert share_processors(RankPlace(0, 16, 0, 4)) == 2
        assert share_processors(RankPlace(0, 16, 0, 16)) == 1
        assert share_processors(RankPlace()) == 8
        assert set_to == [2, 1]

    def test_a_batch_script_of_slurm_is_one_process(self) -> None:
        assert rank_place({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"}).size == 1

    @pytest.mark.parametrize(
        ("env", "message"),
        [
            ({"WORLD_SIZE": "2"}, "RANK is not set"),
            ({"WORLD_SIZE": "two"}, "no number"),
            ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "expected 0 to 1"),
        ],
    )
    def test_contradictions(self, env: dict[str, str], message: str) -> None:
        with pytest.raises(InputError, match=message):
            rank_place(env)

    def test_devices(self) -> None:
        facts = RankPlace(1, 2, 1, 2)
        assert rank_device("cpu", facts) == "cpu"
        with pytest.raises(InputError, match="cannot be divided among 2 ranks"):
            rank_device("cuda:1", facts)

    def test_gpus_are_needed_for_gpus(self) -> None:
        import torch

        if torch.cuda.is_available():
            pytest.skip("needs a machine without a GPU")
        with pytest.raises(InputError, match="this machine has 0"):
            rank_device("auto", RankPlace(1, 2, 1, 2), needs_gpu=True)


def test_the_first_failure_is_the_one_that_is_raised() -> None:
    class Watching(Solo):
        def __init__(self, is_first: bool) -> None:
            self.is_first, self.seen = is_first, list[BaseException]()

        def fail(self, error: BaseException) -> bool:
            self.seen.append(error)
            return self.is_first

    error = InputError("mine")
    for group, kind in ((Watching(True), InputError), (Watching(False), PeerError)):
        with pytest.raises(kind) as caught, propagate_failures(group):
            raise error
        assert group.seen == [error]
        assert caught.value.exit_code == 2  # type: ignore[attr-defined]


def test_progress_is_the_sum_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.runtime.progress.EXCHANGE_INTERVAL", 0.0)

    class Task:
        def __init__(self) -> None:
            self.advanced, self.resumed = 0.0, 0.0

        def advance(self, amount: float = 1) -> None:
            self.advanced += amount

        def resume(self, amount: float) -> None:
            self.resumed += amount

    def run(group: Group) -> tuple[float, float, int]:
        task = Task()
        shared = SharedTask(task, group)
        for _ in range(3):
            shared.advance(2 + group.rank)
        shared.resume(10)
        group.gather(None)
        shared.advance()
        return task.advanced, task.resumed, shared.done

    assert on_ranks(3, run) == [(27, 30, 57)] * 3


def features_of(group: Group, path: Path, cache: Path | None, count: int | None = None) -> np.ndarray | None:
    source = open_images(path, ImageOptions(on_bad="skip", max_bad=0.1))
    extraction = Extraction(source, [TinyEncoder()], None, ExtractionOptions(cache, 5, 0, group=group))
    need = Need("features", CollectedFeatures)
    measured = measure(extraction, {"tiny": [Need("features"), need]})
    return None if measured is None else measured.collected["tiny", need]


@pytest.mark.filterwarnings("ignore:1 of 5 shards of the feature cache")
@pytest.mark.parametrize("size", [2, 3, 7])
def test_features_of_all_ranks_come_in_the_order_of_the_images(tmp_path: Path, size: int) -> None:
    root = folder(tmp_path / "f", images(75))
    (root / "0020.png").write_bytes(b"")
    alone = features_of(SOLO, root, tmp_path / "one")
    assert alone is not None and alone.shape == (74, 12)
    found = on_ranks(size, lambda group: features_of(group, root, tmp_path / "many"))
    assert found[0] is not None and found[1:] == [None] * (size - 1)
    np.testing.assert_array_equal(found[0], alone)
    shards = sorted((tmp_path / "many").rglob("*.h5"))
    shards[1].unlink()  # what is missing is divided otherwise than the whole
    again = on_ranks(size, lambda group: features_of(group, root, tmp_path / "many"))
    np.testing.assert_array_equal(again[0], alone)
