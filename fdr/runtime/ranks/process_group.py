"""The processes of one run: how they find each other, and how the failure of one ends them all.

The ranks of an evaluation exchange moments and small values, never features, and do so through the CPU (gloo), so that
the devices need no link to each other. `tensor_group.py` holds the ranks of a training program; only these two files
use torch.distributed.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fdr.errors import InputError, PeerError, RunError, first_line
from fdr.runtime.ranks.group import SOLO, Combinable, Group, link_kept, nothing
from fdr.runtime.ranks.place import RankPlace, rank_place

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup, Store

T = TypeVar("T")

BEAT_INTERVAL = 5.0
"""Seconds between two heartbeats of a rank."""
LOST_AFTER = 90.0
"""Seconds without a heartbeat after which a rank counts as dead; raising it delays the end of a broken run."""
POLL_INTERVAL = 0.05
_CHECK_INTERVAL = 1.0
_TIMEOUT = timedelta(minutes=10)
"""The time limit for ranks to find each other, and for one exchange, which starts when all have arrived."""


@dataclass(frozen=True)
class _Failure:
    """The message that a failing rank leaves for the others."""

    rank: int
    exit_code: int
    text: str

    def encode(self) -> str:
        return f"{self.rank} {self.exit_code} {self.text}"

    @classmethod
    def decode(cls, data: bytes) -> _Failure:
        rank, exit_code, text = data.decode().split(" ", 2)
        return cls(int(rank), int(exit_code), text)


class Ranks:
    """Processes that run the same program, joined over gloo and a key-value store.

    A waiting rank checks the failures and heartbeats of the others: a rank that raised an error ends the run within
    seconds, one that died silently within `LOST_AFTER`.
    """

    def __init__(self, place: RankPlace, store: Store, process_group: ProcessGroup) -> None:
        self.rank = place.rank
        self.size = place.size
        self._place = place
        self._store = store
        self._group = process_group
        self._meetings = 0
        self._counters = 0
        self._beats: dict[int, tuple[bytes, float]] = {}
        self._last_check = 0.0
        self._has_left = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True, name="fdr-heartbeat")
        self._beating.start()
        atexit.register(self._fall_silent)

    def broadcast(self, value: T) -> T:
        import torch.distributed as dist

        self._meet()
        box = [value if self.rank == 0 else None]
        with link_kept():
            dist.broadcast_object_list(box, src=self._global(0), group=self._group)
        return box[0]  # type: ignore[return-value]

    def gather(self, value: T, while_waiting: Callable[[], None] = nothing) -> list[T]:
        import torch.distributed as dist

        self._meet(while_waiting)
        values: list[Any] = [None] * self.size
        with link_kept():
            dist.all_gather_object(values, value, group=self._group)
        return values

    def combine(self, item: Combinable) -> None:
        """Combine along a binary tree: 64 ranks take six steps, and the order depends on `size` alone."""
        self._meet()
        step = 1
        while step < self.size:
            if self.rank % (2 * step) == step:
                self._send(item.state(), self.rank - step)
                return
            if self.rank + step < self.size:
                item.absorb(self._receive(self.rank + step))
            step *= 2

    def counter(self) -> Callable[[int], int]:
        self._counters += 1
        key = f"count/{self._counters}"

        def add(amount: int) -> int:
            with link_kept():
                return self._store.add(key, amount)

        return add

    def check_peers(self) -> None:
        now = time.monotonic()
        if now - self._last_check > _CHECK_INTERVAL:
            self._last_check = now
            self._raise_failure()

    def fail(self, error: BaseException) -> bool:
        if isinstance(error, PeerError):
            return True  # it says already that another was first
        failure = _Failure(self.rank, getattr(error, "exit_code", 1), str(error) or type(error).__name__)
        try:
            first = _Failure.decode(self._store.compare_set("failure", "", failure.encode()))
        except RuntimeError:  # the store may be what failed
            return True
        if self.rank == 0 and not self._place.has_store:
            time.sleep(3 * _CHECK_INTERVAL)  # the store ends with this process: let the others read it
        return first == failure

    def leave(self) -> None:
        import torch.distributed as dist

        with contextlib.suppress(PeerError, RunError):
            self._meet()
        self._fall_silent()
        if self._place.is_ours:
            dist.destroy_process_group()
            del self._group  # the last reference ends gloo's threads; one that frees a tensor at Python's end aborts it

    def _send(self, arrays: list[np.ndarray], rank: int) -> None:
        import torch
        import torch.distributed as dist

        target = self._global(rank)
        with link_kept():
            dist.send_object_list([[(array.shape, array.dtype.str) for array in arrays]], target, group=self._group)
            for array in arrays:
                if array.size:
                    dist.send(torch.from_numpy(np.ascontiguousarray(array)).view(-1), target, group=self._group)

    def _receive(self, rank: int) -> list[np.ndarray]:
        import torch
        import torch.distributed as dist

        source = self._global(rank)
        headers: list[list[tuple[tuple[int, ...], str]]] = [[]]
        with link_kept():
            dist.recv_object_list(headers, source, group=self._group)
            arrays = [np.empty(shape, dtype) for shape, dtype in headers[0]]
            for array in arrays:
                if array.size:
                    dist.recv(torch.from_numpy(array).view(-1), source, group=self._group)
        return arrays

    def _global(self, rank: int) -> int:
        import torch.distributed as dist

        return dist.get_global_rank(self._group, rank)

    def _meet(self, while_waiting: Callable[[], None] = nothing) -> None:
        """Wait until every rank is here, or one has failed."""
        self._meetings += 1
        key = f"meeting/{self._meetings}"
        with link_kept():
            here = self._store.add(key, 1)
        last_look = time.monotonic()
        while here < self.size:
            while_waiting()
            self.check_peers()
            if time.monotonic() - last_look > BEAT_INTERVAL:
                last_look = time.monotonic()
                self._check_beats()
            time.sleep(POLL_INTERVAL)
            with link_kept():
                here = self._store.add(key, 0)

    def _raise_failure(self) -> None:
        with link_kept():
            if not self._store.check(["failure"]):
                return
            failure = _Failure.decode(self._store.get("failure"))
        if failure.rank != self.rank:
            raise PeerError(f"Rank {failure.rank} of {self.size} failed: {failure.text}", failure.exit_code)

    def _fall_silent(self) -> None:
        """Stop the heartbeat: a thread that is inside the store when Python ends would abort the process."""
        self._has_left.set()
        self._beating.join(BEAT_INTERVAL)
        atexit.unregister(self._fall_silent)

    def _beat(self) -> None:
        """Send heartbeats from a thread, and end this process when its launcher is gone."""
        count = 0
        while not self._has_left.is_set():
            count += 1
            if self._place.launcher is not None and os.getppid() != self._place.launcher:
                os._exit(1)
            try:
                self._store.set(f"beat/{self.rank}", str(count))
            except Exception:  # the store is gone, and with it the run; the main thread says so
                return
            self._has_left.wait(BEAT_INTERVAL)

    def _check_beats(self) -> None:
        now = time.monotonic()
        for rank in range(self.size):
            with link_kept():
                beat = self._store.get(f"beat/{rank}") if self._store.check([f"beat/{rank}"]) else b""
            last, since = self._beats.get(rank, (None, now))
            self._beats[rank] = (beat, since if beat == last else now)
            if rank != self.rank and now - self._beats[rank][1] > LOST_AFTER:
                raise RunError(
                    f"Rank {rank} of {self.size} has given no sign of life for {LOST_AFTER:.0f} s: it was killed, or "
                    "its machine is gone; what was cached stays, and the same command resumes."
                )


@functools.cache
def join_ranks() -> Group:
    """The group that the environment describes (torchrun, `accelerate launch`, Slurm, `fdr --gpus`), else `SOLO`.

    Where the program has already made a process group, its ranks form the group. Raises `InputError` for an
    environment that contradicts itself, `RunError` when the ranks do not find each other.
    """
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return _join_existing()
    place = rank_place()
    if place.size == 1:
        return SOLO
    if not dist.is_available():
        raise InputError(
            f"{place.size} ranks were started, but this torch has no torch.distributed; start one process."
        )
    try:
        store = dist.PrefixStore(f"fdr/{place.attempt}", _store(place))
        dist.init_process_group("gloo", store=store, rank=place.rank, world_size=place.size, timeout=_TIMEOUT)
    except (RuntimeError, ValueError, OSError) as error:
        raise RunError(
            f"Rank {place.rank} of {place.size} did not find the others ({first_line(error)}); check that every rank "
            "was started with the same MASTER_ADDR and MASTER_PORT, or pass --gpus 1 to run this process alone."
        ) from error
    assert dist.group.WORLD is not None
    return Ranks(place, store, dist.group.WORLD)


def _store(place: RankPlace) -> Store:
    import torch.distributed as dist

    if place.launcher is None:
        return next(iter(dist.rendezvous(place.rendezvous, place.rank, place.size, timeout=_TIMEOUT)))[0]
    is_main = place.rank == 0
    return dist.TCPStore(*place.endpoint, place.size, is_main, _TIMEOUT, master_listen_fd=place.listener)


def _join_existing() -> Group:
    import torch.distributed as dist

    if dist.get_world_size() == 1:
        return SOLO
    store = dist.PrefixStore("fdr", dist.distributed_c10d._get_default_store())
    place = RankPlace(dist.get_rank(), dist.get_world_size(), has_store=False, is_ours=False)
    process_group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
    assert isinstance(process_group, dist.ProcessGroup)
    return Ranks(place, store, process_group)
