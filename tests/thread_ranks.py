"""Ranks as threads of one process: the laws of dividing and combining, without starting processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from processes import PATIENCE

from fdr.errors import PeerError
from fdr.runtime import Combinable, Group
from fdr.runtime.ranks.group import Solo, nothing

T = TypeVar("T")


class _World:
    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=PATIENCE)
        self.values: list[Any] = [None] * size
        self.counts: dict[int, int] = {}
        self.lock = threading.Lock()
        self.failure: BaseException | None = None


class ThreadRank:
    """One rank of a `_World`."""

    def __init__(self, world: _World, rank: int, size: int) -> None:
        self.rank, self.size, self._world, self._counters = rank, size, world, 0

    def gather(self, value: T, while_waiting: Callable[[], None] = nothing) -> list[T]:
        while_waiting()
        self._world.values[self.rank] = value
        self._wait()
        found = list(self._world.values)
        self._wait()
        return found

    def broadcast(self, value: T) -> T:
        return self.gather(value)[0]

    def combine(self, item: Combinable) -> None:
        states: list[list[np.ndarray]] = self.gather(item.state())
        if self.rank == 0:
            for state in states[1:]:
                item.absorb(state)

    def counter(self) -> Callable[[int], int]:
        self._counters += 1
        key = self._counters

        def add(amount: int) -> int:
            with self._world.lock:
                self._world.counts[key] = self._world.counts.get(key, 0) + amount
                return self._world.counts[key]

        return add

    def check_peers(self) -> None:
        if self._world.failure is not None:
            raise PeerError(str(self._world.failure))

    def fail(self, error: BaseException) -> bool:
        with self._world.lock:
            is_first = self._world.failure is None
            self._world.failure = self._world.failure or error
        self._world.barrier.abort()
        return is_first

    def leave(self) -> None:
        self._wait()

    def _wait(self) -> None:
        try:
            self._world.barrier.wait()
        except threading.BrokenBarrierError:
            raise PeerError(str(self._world.failure)) from None


class Warned(Solo):
    """A rank whose peer says `text` whenever the ranks gather their warnings, and nothing else."""

    def __init__(self, text: str) -> None:
        self.text = text

    def gather(self, value: Any, while_waiting: Callable[[], None] = nothing) -> list[Any]:
        are_texts = isinstance(value, list) and all(isinstance(each, str) for each in value)
        return [value, [self.text]] if are_texts else [value]


def on_ranks(size: int, function: Callable[[Group], T]) -> list[T]:
    """`function(group)` on each of `size` ranks at once; their results by rank. The first error is raised."""
    world = _World(size)

    def run(rank: int) -> T:
        group = ThreadRank(world, rank, size)
        try:
            return function(group)
        except BaseException as error:
            group.fail(error)
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
    errors = [future.exception() for future in futures]
    real = [error for error in errors if error is not None and not isinstance(error, PeerError)]
    if real:
        raise real[0]
    return [future.result() for future in futures]
