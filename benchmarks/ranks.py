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
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "encoders")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2048)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--reps", default="inception")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        make_world(world, options)
        found = {"facts": facts(options), **group_of_one(world, options), **two_ranks(world, options)}
    for key, value in found.items():
        print(f"{key}: {value}")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


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


def run(*arguments: Any) -> tuple[float, str]:
    """Wall seconds and stdout of one fdr command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("OMP_NUM_THREADS", None)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "fdr", *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - began, done.stdout


def group_of_one(world: Path, options: argparse.Namespace) -> dict[str, float]:
    """CPU seconds with and without a group of one."""
    import torch.distributed as dist

    import fdr
    from fdr.runtime import SOLO, Group
    from fdr.runtime.ranks.facts import RankFacts
    from fdr.runtime.ranks.process_group import Ranks

    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    assert isinstance(dist.group.WORLD, dist.ProcessGroup)
    one = Ranks(RankFacts(), dist.PrefixStore("fdr", store), dist.group.WORLD)
    encoder = fdr.load_encoder(options.reps, device="cpu")

    def evaluate(group: Group) -> Callable[[], None]:
        return lambda: (fdr.evaluate(world / "samples.npz", world / "ref", encoder, group=group), None)[1]

    evaluate(SOLO)()
    solo, grouped = alternate(options.repeats, cpu_seconds(evaluate(SOLO)), cpu_seconds(evaluate(one)))
    return {"solo CPU s": solo, "rank of 1 CPU s": grouped, "rank of 1 / solo": grouped / solo}


def two_ranks(world: Path, options: argparse.Namespace) -> dict[str, float]:
    """Wall seconds of one process with all threads, and of two ranks with half each."""
    values: dict[str, float] = {}

    def command(name: str, samples: str, *more: str) -> Callable[[], float]:
        def timed() -> float:
            common = ("--ref", world / "ref", "--reps", options.reps, "--no-cache", "--device", "cpu", "--json", "-")
            seconds, text = run("eval", world / f"{samples}.npz", *common, *more)
            values[name] = json.loads(text)["results"][0]["value"]
            return seconds

        return timed

    one, two, few_one, few_two = alternate(
        options.repeats,
        command("one", "samples"),
        command("two", "samples", "--gpus", "2"),
        command("few", "few"),
        command("few", "few", "--gpus", "2"),
    )
    assert abs(values["one"] / values["two"] - 1) < 1e-6, values
    return {
        "one process s": one,
        "two ranks s": two,
        "two / one": two / one,
        "two / one without start": (two - few_two) / (one - few_one),
        "FD apart by": abs(values["one"] / values["two"] - 1),
    }


def cpu_seconds(function: Callable[[], None]) -> Callable[[], float]:
    def timed() -> float:
        began = time.process_time()
        function()
        return time.process_time() - began

    return timed


def alternate(repeats: int, *timed: Callable[[], float]) -> list[float]:
    """Medians; the functions take turns."""
    rounds = [[function() for function in timed] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def facts(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
        "images": options.count,
        "reps": options.reps,
        "repeats": options.repeats,
    }


if __name__ == "__main__":
    main()
