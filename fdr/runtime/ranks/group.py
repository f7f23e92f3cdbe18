"""The ranks of a run: what they tell each other, in evaluation and in training, and the groups of one.

`fdr.runtime.ranks.process_group` and `fdr.runtime.ranks.tensor_group` have the groups of several processes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from fdr.errors import PeerError, first_line
from fdr.runtime.progress import ProgressTask

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

T = TypeVar("T")

EXCHANGE_INTERVAL = 0.1
"""Seconds between two looks at what the other ranks have done: more looks cost time, fewer make a bar jump."""


def nothing() -> None:
    """What to do while waiting, unless there is something."""


class Combinable(Protocol):
    """What ranks accumulate and combine: `a.absorb(b.state())` makes `a` the accumulation of both."""

    def state(self) -> list[np.ndarray]:
        """All that `absorb` needs; empty when nothing was accumulated."""

    def absorb(self, state: list[np.ndarray]) -> None:
        """Take in what another has accumulated."""


class Group(Protocol):
    """The ranks of a run. Every rank calls the same methods in the same order; rank 0 is the main one."""

    rank: int
    size: int

    def broadcast(self, value: T) -> T:
        """Main's value, on every rank."""

    def gather(self, value: T, while_waiting: Callable[[], None] = nothing) -> list[T]:
        """The values of all ranks, on every rank."""

    def combine(self, item: Combinable) -> None:
        """Make main's `item` the accumulation of all ranks' items; on other ranks it is used up."""

    def counter(self) -> Callable[[int], int]:
        """A common count: the function adds to it and returns the sum over all ranks."""

    def check_peers(self) -> None:
        """Raise `PeerError` when another rank has failed; at most one look a second."""

    def fail(self, error: BaseException) -> bool:
        """Tell the others that this rank ends with `error`; False when another was first to fail."""

    def leave(self) -> None:
        """The end of the run: wait for the others, then part."""


class Solo:
    """One process: nothing to exchange."""

    rank = 0
    size = 1

    def broadcast(self, value: T) -> T:
        return value

    def gather(self, value: T, while_waiting: Callable[[], None] = nothing) -> list[T]:
        return [value]

    def combine(self, item: Combinable) -> None:
        return None

    def counter(self) -> Callable[[int], int]:
        total = 0

        def add(amount: int) -> int:
            nonlocal total
            total += amount
            return total

        return add

    def check_peers(self) -> None:
        return None

    def fail(self, error: BaseException) -> bool:
        return True

    def leave(self) -> None:
        return None


SOLO: Group = Solo()


class TensorGroup(Protocol):
    """The ranks of a training program, which exchange features and gradients in every step.

    Every rank calls the same methods in the same order.
    """

    rank: int
    size: int

    def gather(self, value: T) -> list[T]:
        """The small values of all ranks, on every rank."""

    def gather_rows(self, rows: Tensor) -> tuple[Tensor, slice]:
        """The rows [n, D] of all ranks in the order of the ranks, and where this rank's are; n >= 0 may differ."""

    def share(self, value: T | None, owner: int) -> T:
        """The value of rank `owner`, on every rank; what others give is ignored."""

    def share_tensor(self, tensor: Tensor, owner: int) -> Tensor:
        """The tensor of rank `owner`, on every rank; others give one of its shape and dtype."""

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Make each tensor the sum of all ranks', in place; the same shapes and dtypes on every rank."""

    def is_any(self, fact: bool) -> bool:
        """True on every rank when `fact` is true on one."""


class SoloTensors:
    """One process: its rows are all."""

    rank = 0
    size = 1

    def gather(self, value: T) -> list[T]:
        return [value]

    def gather_rows(self, rows: Tensor) -> tuple[Tensor, slice]:
        return rows, slice(0, len(rows))

    def share(self, value: T | None, owner: int) -> T:
        return value  # type: ignore[return-value]

    def share_tensor(self, tensor: Tensor, owner: int) -> Tensor:
        return tensor

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        return None

    def is_any(self, fact: bool) -> bool:
        return fact


SOLO_TENSORS: TensorGroup = SoloTensors()


@contextlib.contextmanager
def propagate_failures(group: Group) -> Iterator[None]:
    """Whatever this rank raises inside is told to the others, so that none waits for it, and only one is heard."""
    try:
        yield
    except BaseException as error:
        if not group.fail(error):
            raise PeerError("Another rank failed first.", getattr(error, "exit_code", 1)) from error
        raise


class SharedTask:
    """The progress of work that the ranks divide: what all of them have done, shown by the `task` of the main one."""

    def __init__(self, task: ProgressTask, group: Group) -> None:
        self._shows = (task.advance, task.resume)
        self._counts = (group.counter(), group.counter())
        self._done = [0, 0]
        self._waiting = [0, 0]
        self._next = 0.0

    def advance(self, amount: int = 0) -> None:
        """This rank has done `amount` more; 0 only looks what the others have done."""
        self._add(0, amount)

    def resume(self, amount: int) -> None:
        """This rank has found `amount` done by an earlier run."""
        self._add(1, amount)

    def _add(self, kind: int, amount: int) -> None:
        self._waiting[kind] += amount
        now = time.monotonic()
        if amount and now < self._next:
            return
        self._next = now + EXCHANGE_INTERVAL
        for which, (show, count) in enumerate(zip(self._shows, self._counts, strict=True)):
            done = count(self._waiting[which])
            if done > self._done[which]:
                show(done - self._done[which])
            self._done[which], self._waiting[which] = done, 0

    @property
    def done(self) -> int:
        """Units that all ranks had done at the last look."""
        return sum(self._done)


def run_on_rank0(group: Group, function: Callable[[], T]) -> T:
    """`function()` of the main rank, on every rank; called within `propagate_failures`, an error reaches all."""
    return group.broadcast(function() if group.rank == 0 else None)  # type: ignore[return-value]


def part_of(group: Group, items: list[T]) -> list[T]:
    """This rank's contiguous part of `items`; the parts of all ranks differ in length by one at most."""
    return items[len(items) * group.rank // group.size : len(items) * (group.rank + 1) // group.size]


@contextlib.contextmanager
def link_kept() -> Iterator[None]:
    """An exchange with the other ranks: when it fails, one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        raise PeerError(f"The connection to the other ranks was lost ({first_line(error)}).") from error
