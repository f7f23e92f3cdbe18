"""The ranks of a training program exchange features, gradients and small values over the program's process group.

A rank sends all tensors from one device: its own GPU where the group has NCCL, else the CPU. NCCL needs contiguous
tensors on that GPU, of one shape and dtype on all ranks, so everything here is sent in that form.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from fdr.errors import InputError
from fdr.runtime.ranks.group import SOLO, Group, Solo, TensorGroup, link_kept

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed import ProcessGroup

T = TypeVar("T")

BUCKET = 8_000_000
"""Gradient elements that are summed in one message: raising it takes more memory and fewer messages."""


def tensor_ranks(group: Group | ProcessGroup | None, device: torch.device) -> TensorGroup:
    """The ranks that train together: those of `group`, else of the program's process group, else this process alone.

    `device` is the one that this rank computes on.
    """
    import torch.distributed as dist

    if isinstance(group, Solo) or not (dist.is_available() and dist.is_initialized()):
        return SOLO
    process_group = group if isinstance(group, dist.ProcessGroup) else dist.group.WORLD
    assert process_group is not None
    return SOLO if dist.get_world_size(process_group) == 1 else TensorRanks(process_group, device)


def link_of(backends: Mapping[str, str], device: torch.device) -> torch.device:
    """The device from which a rank that computes on `device` sends, by a group of these backends, {"cuda": "nccl"}.

    It is the rank's own GPU with NCCL, else the CPU, or the current GPU where the group has no CPU backend. Raises
    `InputError` for a group that has neither.
    """
    import torch

    has_nccl = backends.get("cuda") == "nccl"
    if has_nccl and (device.type == "cuda" or "cpu" not in backends):
        index = device.index if device.type == "cuda" else None
        return torch.device("cuda", torch.cuda.current_device() if index is None else index)
    if "cpu" in backends:
        return torch.device("cpu")
    raise InputError(
        f"The process group of the program has the backends {dict(backends)}; expected NCCL, or one for the CPU, such "
        "as cpu:gloo,cuda:nccl."
    )


class TensorRanks:
    """Ranks of a training program, over a process group (NCCL, gloo or both)."""

    def __init__(self, process_group: ProcessGroup, device: torch.device) -> None:
        import torch.distributed as dist

        self.rank, self.size = dist.get_rank(process_group), dist.get_world_size(process_group)
        self._group = process_group
        self._link = link_of(_backends(dist.get_backend_config(process_group)), device)

    def gather(self, value: T) -> list[T]:
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        with self._on_own_device(), link_kept():
            dist.all_gather_object(values, value, group=self._group)
        return values

    def gather_rows(self, rows: Tensor) -> tuple[Tensor, slice]:
        import torch
        import torch.distributed as dist

        counts, dtype = self._counts(rows)
        if not any(counts):
            return rows, slice(0, 0)
        sent = torch.zeros((max(counts), *rows.shape[1:]), dtype=dtype, device=self._link)
        sent[: len(rows)] = rows
        received = [torch.empty_like(sent) for _ in counts]
        with link_kept():
            dist.all_gather(received, sent, group=self._group)
        parts = [part[:count] for part, count in zip(received, counts, strict=True)]
        start = sum(counts[: self.rank])
        return torch.cat(parts).to(rows.device), slice(start, start + len(rows))

    def share(self, value: T | None, owner: int) -> T:
        import torch.distributed as dist

        box = [value]
        with self._on_own_device(), link_kept():
            dist.broadcast_object_list(box, src=dist.get_global_rank(self._group, owner), group=self._group)
        return box[0]  # type: ignore[return-value]

    def share_tensor(self, tensor: Tensor, owner: int) -> Tensor:
        import torch
        import torch.distributed as dist

        if self.rank == owner:
            sent = tensor.contiguous().to(self._link)
        else:
            sent = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._link)
        with link_kept():
            dist.broadcast(sent, src=dist.get_global_rank(self._group, owner), group=self._group)
        return sent.to(tensor.device)

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        import torch
        import torch.distributed as dist

        for part in _buckets(tensors):
            sent = torch.cat([tensor.flatten() for tensor in part]).to(self._link)
            with link_kept():
                dist.all_reduce(sent, group=self._group)
            sums = sent.to(part[0].device).split([tensor.numel() for tensor in part])
            for tensor, total in zip(part, sums, strict=True):
                tensor.copy_(total.view_as(tensor))

    def is_any(self, condition: bool) -> bool:
        import torch

        count = torch.tensor([float(condition)], device=self._link)
        self.sum_tensors([count])
        return bool(count > 0)

    def _counts(self, rows: Tensor) -> tuple[list[int], torch.dtype]:
        """The rows of each rank, and their dtype: float64 if any rank has it, since a rank without rows cannot know."""
        import torch
        import torch.distributed as dist

        own = torch.tensor([len(rows), rows.dtype == torch.float64], dtype=torch.int64, device=self._link)
        received = [torch.empty_like(own) for _ in range(self.size)]
        with link_kept():
            dist.all_gather(received, own, group=self._group)
        counts, are_double = torch.stack(received).T.tolist()
        return counts, torch.float64 if any(are_double) else rows.dtype

    @contextlib.contextmanager
    def _on_own_device(self) -> Iterator[None]:
        """Make this rank's GPU the current one: objects sent over NCCL become tensors on the current GPU."""
        import torch

        with torch.cuda.device(self._link) if self._link.type == "cuda" else contextlib.nullcontext():
            yield


def _backends(config: str) -> dict[str, str]:
    """ "cpu:gloo,cuda:nccl" -> {"cpu": "gloo", "cuda": "nccl"}."""
    pairs = (part.partition(":") for part in config.split(","))
    return {device: backend for device, _, backend in pairs}


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive tensors of one dtype and device, of some `BUCKET` elements together: few messages, little memory."""
    part: list[Tensor] = []
    size = 0
    for tensor in tensors:
        is_other = bool(part) and (tensor.dtype, tensor.device) != (part[0].dtype, part[0].device)
        if is_other or size >= BUCKET:
            yield part
            part, size = [], 0
        part.append(tensor)
        size += tensor.numel()
    if part:
        yield part
