"""How ranks wait for each other, combine, fail and are found dead: over a store in memory, without processes."""

from __future__ import annotations

import queue
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch.distributed as dist
from processes import PATIENCE, wait_until

from fdr.errors import InputError, PeerError, RunError
from fdr.runtime.ranks import process_group
from fdr.runtime.ranks.place import RankPlace
from fdr.runtime.ranks.process_group import LOST_AFTER, Ranks

World = Callable[[int], list[Ranks]]


@pytest.fixture
def world() -> Iterator[World]:
    made: list[Ranks] = []

    def make(size: int) -> list[Ranks]:
        store = dist.HashStore()
        ranks = [Ranks(RankPlace(rank, size, has_store=True), store, None) for rank in range(size)]  # type: ignore[arg-type]
        made.extend(ranks)
        return ranks

    yield make
    for rank in made:
        rank._fall_silent()


class Trace:
    """An accumulator that knows in which order the ranks were added."""

    def __init__(self, rank: int) -> None:
        self.order = [rank]

    def state(self) -> list[np.ndarray]:
        return [np.array(self.order)]

    def absorb(self, state: list[np.ndarray]) -> None:
        self.order += state[0].tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9])
def test_ranks_combine_along_a_tree(world: World, size: int) -> None:
    """Every rank counts once, in the order of ranks, in as many steps as the tree is high."""
    ranks = world(size)
    links = {(a, b): queue.Queue[list[np.ndarray]]() for a in range(size) for b in range(size)}
    received = [0] * size

    def receive(source: int, target: int) -> list[np.ndarray]:
        received[target] += 1
        return links[source, target].get(timeout=PATIENCE)

    for rank in ranks:
        own = rank.rank
        rank._send = lambda arrays, to, own=own: links[own, to].put(arrays)  # type: ignore[method-assign]
        rank._receive = lambda source, own=own: receive(source, own)  # type: ignore[method-assign]
    items = [Trace(rank) for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        list(pool.map(lambda pair: pair[0].combine(pair[1]), zip(ranks, items, strict=True)))
    assert items[0].order == list(range(size))
    assert sum(received) == size - 1 and received[0] == (size - 1).bit_length()


def test_nobody_passes_a_meeting_before_all_are_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "POLL_INTERVAL", 0.005)
    ranks, passed, looks = world(3), [], []
    threads = [
        threading.Thread(target=lambda rank=rank: (rank._meet(lambda: looks.append(1)), passed.append(rank.rank)))
        for rank in ranks
    ]
    for thread in threads[:2]:
        thread.start()
    wait_until(lambda: len(looks) > 9)  # both have looked several times
    assert passed == []
    threads[2].start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(passed) == [0, 1, 2]


def test_a_counter_is_shared_and_each_one_is_new(world: World) -> None:
    ranks = world(2)
    first, second = ([rank.counter() for rank in ranks] for _ in range(2))
    assert [first[0](3), first[1](4), first[0](0)] == [3, 7, 7]
    assert [second[1](1), second[0](1)] == [1, 2]


def test_the_first_failure_ends_the_others_with_its_words_and_its_exit_code(world: World) -> None:
    ranks = world(3)
    assert ranks[1].fail(InputError("a word, and  another")) and not ranks[2].fail(RunError("later"))
    ranks[1].check_peers()  # its own failure is no news
    for rank in (ranks[0], ranks[2]):
        with pytest.raises(PeerError, match=r"^Rank 1 of 3 failed: a word, and  another$") as caught:
            rank.check_peers()
        assert caught.value.exit_code == 2
        rank.check_peers()  # asks once a second at most
        rank._last_check -= 1.1
        with pytest.raises(PeerError):
            rank.check_peers()


def test_an_error_without_a_text_or_a_code_has_its_name_and_code_1(world: World) -> None:
    ranks = world(2)
    assert ranks[0].fail(KeyboardInterrupt())
    with pytest.raises(PeerError, match=r"Rank 0 of 2 failed: KeyboardInterrupt$") as caught:
        ranks[1].check_peers()
    assert caught.value.exit_code == 1


def test_a_rank_that_ends_because_of_another_says_nothing_new(world: World) -> None:
    ranks = world(2)
    assert ranks[0].fail(PeerError("Rank 1 of 2 failed: x"))
    ranks[1].check_peers()


def test_a_waiting_rank_meets_the_failure_of_another(world: World) -> None:
    ranks = world(2)
    ranks[1].fail(RunError("full disk"))
    with pytest.raises(PeerError, match="full disk"):
        ranks[0]._meet()


def test_a_rank_without_a_heartbeat_is_found_dead(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = world(2)
    for rank in ranks:
        rank._fall_silent()
    now = 1000.0
    monkeypatch.setattr(process_group, "time", types.SimpleNamespace(monotonic=lambda: now))
    store, watching = ranks[0]._store, ranks[0]
    watching._check_beats()
    now += LOST_AFTER
    watching._check_beats()  # the limit itself is not above it
    store.set("beat/1", "100")
    now += 1
    watching._check_beats()
    now += LOST_AFTER
    watching._check_beats()
    now += 1
    with pytest.raises(RunError, match=r"^Rank 1 of 2 has given no sign of life for 90 s"):
        watching._check_beats()


def test_every_rank_gives_signs_of_life_until_it_leaves(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "BEAT_INTERVAL", 0.01)
    (rank,) = world(1)
    first = int(rank._store.get("beat/0"))  # waits for it
    wait_until(lambda: int(rank._store.get("beat/0")) > first)
    assert first >= 1
    rank._fall_silent()
    assert not rank._beating.is_alive()
