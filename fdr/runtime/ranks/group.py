"""What the ranks of a run exchange, in an evaluation and in training, and the groups of a single process.

`process_group.py` and `tensor_group.py` hold the groups of several processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from fdr.errors import PeerError, first_line

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

T = TypeVar("T")


def nothing() -> None:
    """The default for `while_waiting`: it does nothing."""


class Combinable(Protocol):
    """An accumulator that ranks combine: `a.absorb(b.state())` adds everything in `b` to `a`."""

    def state(self) -> list[np.ndarray]:
        """The arrays that `absorb` needs; empty when nothing was accumulated."""

    def absorb(self, state: list[np.ndarray]) -> None:
        """Add the state of another accumulator."""


class Group(Protocol):
    """The ranks of a run. Every rank calls the same methods in the same order; rank 0 is the main one."""

    rank: int
    size: int

    def broadcast(self, value: T) -> T:
        """Return rank 0's value on every rank."""

    def gather(self, value: T, while_waiting: Callable[[], None] = nothing) -> list[T]:
        """Return the values of all ranks on every rank."""

    def combine(self, item: Combinable) -> None:
        """Add all ranks' items to that of rank 0; on other ranks `item` must not be used afterwards."""

    def counter(self) -> Callable[[int], int]:
        """A counter shared by all ranks: the function adds to it and returns the sum over all ranks."""

    def check_peers(self) -> None:
        """Raise `PeerError` when another rank has failed; it looks at most once a second."""

    def fail(self, error: BaseException) -> bool:
        """Tell the others that this rank ends with `error`; returns False when another rank failed first."""

    def leave(self) -> None:
        """End the run: wait for the other ranks, then leave the group."""


class TensorGroup(Protocol):
    """The ranks of a training program, which exchange features and gradients in every step.

    Every rank calls the same methods in the same order.
    """

    rank: int
    size: int

    def gather(self, value: T) -> list[T]:
        """Return the small values of all ranks on every rank."""

    def gather_rows(self, rows: Tensor) -> tuple[Tensor, slice]:
        """All ranks' rows [n, D] in rank order, and the slice of this rank's rows; n >= 0 may differ between ranks."""

    def share(self, value: T | None, owner: int) -> T:
        """Return the value of rank `owner` on every rank; the values of other ranks are ignored."""

    def share_tensor(self, tensor: Tensor, owner: int) -> Tensor:
        """Return the tensor of rank `owner` on every rank; other ranks pass one of the same shape and dtype."""

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over all ranks, in place; shapes and dtypes are the same on every rank."""

    def is_any(self, condition: bool) -> bool:
        """True on every rank when `condition` is true on at least one."""


class Solo:
    """One process, in an evaluation or in training: there is nothing to exchange."""

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

    def gather_rows(self, rows: Tensor) -> tuple[Tensor, slice]:
        return rows, slice(0, len(rows))

    def share(self, value: T | None, owner: int) -> T:
        return value  # type: ignore[return-value]

    def share_tensor(self, tensor: Tensor, owner: int) -> Tensor:
        return tensor

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        return None

    def is_any(self, condition: bool) -> bool:
        return condition


SOLO = Solo()


@contextlib.contextmanager
def propagate_failures(group: Group) -> Iterator[None]:
    """Report any error raised in this context to the other ranks, so that none waits and only the first is shown."""
    try:
        yield
    except BaseException as error:
        if not group.fail(error):
            raise PeerError("Another rank failed first.", getattr(error, "exit_code", 1)) from error
        raise


def run_on_rank0(group: Group, function: Callable[[], T]) -> T:
    """Call `function` on rank 0 and return its result on every rank; needs `propagate_failures` for its errors."""
    return group.broadcast(function() if group.rank == 0 else None)  # type: ignore[return-value]


def part_of(group: Group | TensorGroup, items: Sequence[T]) -> Sequence[T]:
    """This rank's contiguous part of `items`; the parts of two ranks differ in length by one at most."""
    return items[len(items) * group.rank // group.size : len(items) * (group.rank + 1) // group.size]


@contextlib.contextmanager
def link_kept() -> Iterator[None]:
    """Turn a failed exchange with the other ranks into a `PeerError`: one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        raise PeerError(f"The connection to the other ranks was lost ({first_line(error)}).") from error
