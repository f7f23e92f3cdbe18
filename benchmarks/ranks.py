"""What ranks cost: one process beside itself as a rank of one, and beside two ranks on the same processors.

    python benchmarks/ranks.py                       # 2,048 drawn images, FID-Inception with seeded weights
    python benchmarks/ranks.py --reps random --count 8192 --repeats 5 --json out.json

"solo" is `fdr.evaluate` in one process; "rank of 1" the same with a group of one over gloo, so that every exchange
really happens; both in CPU seconds of this process, taking turns. "two ranks" is the command `fdr eval --gpus 2
--device cpu`, each rank with half the threads, beside `fdr eval` with all of them, in wall seconds with the start of
the processes, and without (the time of `fdr eval` on 16 images taken off each). The FDs must agree to 1e-6.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np

sys.path.insert(0, str(harness.TEST_HELPERS))


def main() -> None:
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--count", type=int, default=2048)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--reps", default="inception")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        make_world(world, options)
        found = group_of_one(world, options) | two_ranks(world, options)
    print(f"{options.count} images, {options.reps}, medians of {options.repeats}; {harness.machine_line()}\n")
    print(harness.table(("measured", "value"), ([key, f"{value:.4g}"] for key, value in found.items())))
    harness.write_json(options.json, images=options.count, reps=options.reps, results=found)


def make_world(world: Path, options: argparse.Namespace) -> None:
    """Images, weights, and the reference as a statistics file."""
    from inception_state import save_inception_state

    from fdr.images import procedural

    for name, seed, count in (("samples", 1, options.count), ("real", 2, 256), ("few", 3, 16)):
        array = np.stack([procedural.draw(seed, index, options.side) for index in range(count)])
        np.savez(world / f"{name}.npz", arr_0=array)
    save_inception_state(world)
    os.environ["FDR_WEIGHTS"] = str(world)
    run("stats", world / "real.npz", "-o", world / "ref", "--reps", options.reps, "--no-cache", "--device", "cpu")


def run(*arguments: Any) -> str:
    """The stdout of one fdr command, whose processes take their number of threads themselves."""
    environment = {**os.environ, "PYTHONPATH": harness.python_path()}
    environment.pop("OMP_NUM_THREADS", None)
    return harness.run([sys.executable, "-m", "fdr", *map(str, arguments)], environment).stdout


def group_of_one(world: Path, options: argparse.Namespace) -> dict[str, float]:
    """CPU seconds with and without a group of one."""
    import torch.distributed as dist

    import fdr
    from fdr.runtime import SOLO, Group
    from fdr.runtime.ranks.place import RankPlace
    from fdr.runtime.ranks.process_group import Ranks

    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    assert isinstance(dist.group.WORLD, dist.ProcessGroup)
    one = Ranks(RankPlace(), dist.PrefixStore("fdr", store), dist.group.WORLD)
    encoder = fdr.load_encoder(options.reps, device="cpu")

    def evaluate(group: Group) -> Callable[[], Any]:
        return lambda: fdr.evaluate(world / "samples.npz", world / "ref", encoder, group=group)

    turns = harness.take_turns({"solo": evaluate(SOLO), "one": evaluate(one)}, options.repeats)
    solo, grouped = turns["solo"].cpu_s, turns["one"].cpu_s
    return {"solo CPU s": solo, "rank of 1 CPU s": grouped, "rank of 1 / solo": grouped / solo}


def two_ranks(world: Path, options: argparse.Namespace) -> dict[str, float]:
    """Wall seconds of one process with all threads, and of two ranks with half each."""

    def command(samples: str, *more: str) -> Callable[[], float]:
        common = ("--ref", world / "ref", "--reps", options.reps, "--no-cache", "--device", "cpu", "--json", "-")
        return lambda: json.loads(run("eval", world / f"{samples}.npz", *common, *more))["results"][0]["value"]

    sides = {
        "one": command("samples"),
        "two": command("samples", "--gpus", "2"),
        "few, one": command("few"),
        "few, two": command("few", "--gpus", "2"),
    }
    turns = harness.take_turns(sides, options.repeats, warm_up=False)
    one, two, few_one, few_two = (turn.wall_s for turn in turns.values())
    apart = abs(turns["one"].result / turns["two"].result - 1)
    assert apart < 1e-6, apart
    return {
        "one process s": one,
        "two ranks s": two,
        "two / one": two / one,
        "two / one without start": (two - few_two) / (one - few_one),
        "FD apart by": apart,
    }


if __name__ == "__main__":
    main()
