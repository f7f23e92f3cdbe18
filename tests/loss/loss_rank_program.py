"""What every rank of tests/training/test_loss_ranks.py runs; `trained` is what the test runs alone, too."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from loss_worlds import ClassGenerator, drawn, generator, labels_of_step, make_conditional_loss, make_loss, noise
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import fdr
from fdr.errors import FdrError, InputError, NonFiniteError, PeerError, RunError
from fdr.loss import frozen_basis as _frozen_basis
from fdr.runtime.ranks.tensor_group import BUCKET, TensorRanks

STEPS = 20
NUM_ENCODERS = 3  # two for rank 0 and one for rank 1
DEBIASED = fdr.EmaPopulation(0.7, "debiased")
CARRIED = fdr.EmaPopulation(0.9, "debiased", lag_correction=True)
UNBIASED: dict[str, dict[str, Any]] = {
    "local": {"population": fdr.EmaPopulation(0.7), "solver": "local"},
    "local-batch": {"population": fdr.BatchPopulation(), "solver": "local"},
    "debiased-batch": {"population": fdr.BatchPopulation("debiased")},
}
SPLIT = 14
"""Of 24 images rank 0 makes so many: parts need not be equal."""
RANKED = ((0, 220), (220, 400))
"""Of 400 images of the fill."""
OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, betas=(0.9, 0.95)),
}


def part() -> tuple[int, int]:
    """Which images of a step are this rank's."""
    if not dist.is_initialized():
        return 0, 24
    return ((0, SPLIT), (SPLIT, 24))[dist.get_rank()]


def summed(net: nn.Module) -> None:
    """The gradients of all ranks, added."""
    for parameter in net.parameters():
        dist.all_reduce(parameter.grad, dist.ReduceOp.SUM)


def filled(**options: Any) -> fdr.FDLoss:
    """Every rank brings its part; the last rank's ends later than the first's."""
    loss = make_loss(NUM_ENCODERS, **{"population": fdr.EmaPopulation(0.9), **options})
    images = generator(1)(drawn(77, 50, 5)).detach()
    if dist.is_initialized():
        images = images[:12] if dist.get_rank() == 0 else images[12:]
    loss.fill(images.split(15))
    return loss


def trained(optimizer: str, wrap: str = "none", **options: Any) -> tuple[Tensor, fdr.FDLoss, list[float]]:
    """The parameters after `STEPS`, the loss, and the FD of the first encoder by step."""
    net, loss, fds = generator(), filled(**options), []
    inner, previous = net, None
    size = dist.get_world_size() if dist.is_initialized() else 1
    if wrap == "ddp":
        net = DistributedDataParallel(net)
    elif wrap == "fsdp":
        from torch.distributed.fsdp import fully_shard

        net = fully_shard(net, mesh=dist.init_device_mesh("cpu", (size,)))
    optim = OPTIMIZERS[optimizer](net.parameters())
    for step in range(STEPS):
        optim.zero_grad()
        before = None if previous is None else previous(noise(step, *part())).detach()
        out = loss(net(noise(step, *part())), previous=before)
        averaging = size if wrap in ("ddp", "fsdp") else 1  # both divide the sum of gradients by the ranks
        (averaging * out.total).backward()
        if wrap == "sum":
            summed(net)
        if getattr(options.get("population"), "lag_correction", False):
            previous = copy.deepcopy(inner)
        optim.step()
        fds.append(out.fd["e0"])
    whole = [p.full_tensor() if wrap == "fsdp" else p for p in inner.parameters()]  # type: ignore[operator]
    return torch.cat([p.detach().flatten() for p in whole]), loss, fds


def accumulated(wrap: str = "none") -> Tensor:
    """The gradient of one batch in two chunks."""
    net, loss = generator(), filled()
    start, stop = part()
    middle = (start + stop) // 2
    loss.accumulate(lambda i: net(noise(0, *((start, middle), (middle, stop))[i])), 2)
    if wrap == "sum":
        summed(net)
    return torch.cat([p.grad.flatten() for p in net.parameters()])  # type: ignore[union-attr]


def conditional() -> dict[str, Any]:
    """Five steps with labels: the parameters, what the output says, and the state."""
    net, loss = ClassGenerator(), make_conditional_loss(NUM_ENCODERS)
    optim = torch.optim.SGD(net.parameters(), lr=0.05)
    start, stop = part()
    filling = [
        (net(noise(s, start, stop), labels_of_step(s, start, stop)), labels_of_step(s, start, stop)) for s in (7, 8)
    ]
    loss.fill(filling)
    for step in range(5):
        optim.zero_grad()
        labels = labels_of_step(step, start, stop)
        out = loss(net(noise(step, start, stop), labels), labels)
        out.total.backward()
        if dist.is_initialized():
            summed(net)
        optim.step()
    parameters = torch.cat([p.detach().flatten() for p in net.parameters()])
    values = [list(out.class_distance.values()), list(out.conditional_scale.values()), [float(out.total.detach())]]
    return {"parameters": parameters, "values": values, "state": loss.state_dict()}


def fast_routes() -> list[list[str]]:
    """How each step of each encoder was solved by the fast solver, with lives of 9 steps."""
    _frozen_basis.MAX_AGE = 9
    loss = make_loss(NUM_ENCODERS, population=fdr.EmaPopulation(0.9999), solver="fast")
    net = generator()
    start, stop = RANKED[dist.get_rank()] if dist.is_initialized() else (0, 400)
    loss.fill([net(drawn(78, 400, 5)).detach()[start:stop]])
    routes = []
    for step in range(30):
        out = loss(net(noise(step, *part())))
        out.total.backward()
        routes.append([out.diagnostics[name].route for name in out.fd])
    return routes


def errors() -> dict[str, Any]:
    """One rank has the fault, and both hear of it; the loss can be used afterwards."""
    told: dict[str, Any] = {}
    net, loss = generator(), filled()
    images = net(noise(0, *part())).detach()
    broken = images.clone()
    if dist.get_rank() == 1:
        broken[2] = float("nan")
    try:
        loss(broken)
    except NonFiniteError as error:
        told["nan"] = str(error)
    if "e1" in loss._terms._terms:
        evaluate = loss._terms._terms["e1"].evaluate

        def failing(features: Tensor) -> None:
            loss._terms._terms["e1"].evaluate = evaluate  # type: ignore[method-assign]
            raise RunError("no luck here")

        loss._terms._terms["e1"].evaluate = failing  # type: ignore[assignment, method-assign]
    try:
        loss(images)
    except FdrError as error:
        told["failed"] = str(error)
        told["is_peer"] = isinstance(error, PeerError)
    told["fd"] = loss(images).fd
    loss.commit()
    try:
        loss.fill(images)
    except InputError as error:
        told["late fill"] = str(error)
    try:
        loss.load_state_dict(make_loss(NUM_ENCODERS).state_dict() | {"version": 0})
    except InputError as error:
        told["load"] = str(error)
    return told


def exchanged() -> dict[str, Any]:
    """What the ranks hear of each other: of no rows at all, of rows on one rank, in two dtypes, not contiguous."""
    assert dist.group.WORLD is not None
    ranks, rank = TensorRanks(dist.group.WORLD, torch.device("cpu")), dist.get_rank()
    rows = torch.arange(12.0).reshape(3, 4).T  # [4, 3], not contiguous
    sums = [torch.full((2, 3), 1.0 + rank).T, torch.full((BUCKET,), float(rank)), torch.ones(1, dtype=torch.float64)]
    ranks.sum_tensors(sums)
    found = {
        "none": ranks.gather_rows(torch.empty(0, 3)),
        "one": ranks.gather_rows(rows if rank == 1 else torch.empty(0, 3)),
        "two dtypes": ranks.gather_rows(rows.double() if rank == 0 else rows[:1]),
        "shared": ranks.share_tensor(rows if rank == 1 else torch.zeros(4, 3), owner=1),
        "words": (ranks.gather(f"rank {rank}"), ranks.share(["of 1"] if rank == 1 else None, owner=1)),
        "any": [ranks.is_any(rank == one) for one in (0, 1, 2)],
        "sums": [float(sums[0][0, 0]), float(sums[1][-1]), float(sums[2])],
    }
    return {
        name: (value[0], [value[1].start, value[1].stop]) if _is_rows(value) else value for name, value in found.items()
    }


def _is_rows(value: Any) -> bool:
    return isinstance(value, tuple) and isinstance(value[1], slice)


@contextmanager
def rules_of_nccl() -> Iterator[list[str]]:
    """NCCL takes contiguous tensors of one shape and dtype on all ranks; gloo forgives more. The calls made inside."""
    seen: list[str] = []

    def checked(name: str, call: Callable[..., Any], num_tensors: int) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            for argument in arguments[:num_tensors]:
                tensors = argument if isinstance(argument, list) else [argument]
                assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in tensors), name
                facts: list[Any] = [None] * dist.get_world_size()
                plain["all_gather_object"](facts, [(list(t.shape), t.dtype, t.device.type) for t in tensors])
                assert facts[1:] == facts[:-1], (name, facts)
            seen.append(name)
            return call(*arguments, **options)

        return run

    plain = {name: getattr(dist, name) for name in ("all_gather", "broadcast", "all_reduce", "all_gather_object")}
    try:
        for name, num_tensors in {"all_gather": 2, "broadcast": 1, "all_reduce": 1}.items():
            setattr(dist, name, checked(name, plain[name], num_tensors))
        yield seen
    finally:
        for name, call in plain.items():
            setattr(dist, name, call)


def main(folder: Path, rank: int, size: int, wraps: list[str]) -> None:
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(minutes=10))
    found: dict[str, Any] = {"owned": list(filled()._terms._terms)}
    for optimizer in OPTIMIZERS:
        for wrap in wraps:
            found[f"{optimizer}-{wrap}"], loss, found[f"fds-{optimizer}-{wrap}"] = trained(optimizer, wrap)
    found["state"] = loss.state_dict()
    found["debiased"], _, _ = trained("adamw", "sum", population=DEBIASED)
    found["carried"], _, found["fds-carried"] = trained("adamw", "sum", population=CARRIED)
    for name, options in UNBIASED.items():
        found[name], _, found[f"fds-{name}"] = trained("adamw", "sum", **options)
    found["accumulated"] = accumulated("sum")
    found["conditional"] = conditional()
    found["errors"] = errors()
    with rules_of_nccl() as seen:
        found["exchanged"] = exchanged()
        found["strict"], _, _ = trained("sgd", "sum")
    found["calls"] = sorted(set(seen))
    found["routes"] = fast_routes()
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()
    os._exit(0)  # modules of DDP keep gloo's threads, and one that frees a tensor at Python's end aborts the process


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), sys.argv[2:])
