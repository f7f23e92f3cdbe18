"""What every rank of `test_two_processes_give_the_number_of_one` runs: one metric over its own part of the images."""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from worlds import TinyEncoder, images

from fdr.torchmetrics import Evaluation, FrechetDistance


def tensors(count: int, seed: int) -> Tensor:
    """uint8 [count, 3, 16, 16]."""
    return torch.from_numpy(images(count, seed)).permute(0, 3, 1, 2)


def parts(rank: int | None) -> tuple[Tensor, Tensor]:
    """Real and generated images of a rank, or all of them. The second rank has no real ones."""
    real, generated = tensors(40, 0), tensors(50, 1)
    if rank is None:
        return real, generated
    return (real, generated[:13]) if rank == 0 else (real[:0], generated[13:])


def filled(rank: int | None) -> FrechetDistance:
    """The metric after its updates, of several batches."""
    metric = FrechetDistance(TinyEncoder())
    real, generated = parts(rank)
    for batch in real.split(16):
        metric.update(batch, real=True)
    for batch in generated.split(7):
        metric.update(batch)
    return metric


def evaluated(rank: int | None) -> Evaluation:
    """A metric of kept features after its updates; the second rank has no real images."""
    metric = Evaluation(TinyEncoder(), ["fd", "kid:all", "is"])
    real, generated = parts(rank)
    metric.update(real, real=True)
    for batch in generated.split(7):
        metric.update(batch)
    return metric


def main(folder: Path, rank: int) -> None:
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(minutes=10))
    metric = filled(rank)
    found = {"value": metric.compute().item(), "own": int(metric.metric_state["generated_sums:tiny:features"][0, 0])}
    metric.update(tensors(5, 2))  # goes on after the sync, from its own images
    found["after"] = metric.compute().item()
    found["evaluation"] = {key: value.item() for key, value in evaluated(rank).compute().items()}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(os.environ["RANK"]))
