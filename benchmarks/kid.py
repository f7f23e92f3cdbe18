"""KID on cached features: fdr beside torch-fidelity, with the same subsets.

    python benchmarks/kid.py --counts 2000,5000,10000 --repeats 3

Features are drawn: 2,048 non-negative values, of the size of Inception's. Each side runs in a process of its own, and
only `kid` of the features is timed. Memory is the peak above the features. The number of threads is OMP_NUM_THREADS.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np

WIDTH = 2048
SIDES = ("torch-fidelity", "fdr")


def features(count: int, shift: float, seed: int) -> np.ndarray:
    """float32 [count, 2048]"""
    random = np.random.default_rng(seed)
    return np.maximum(0.4 * np.abs(random.standard_normal((count, WIDTH), np.float32)) + np.float32(shift), 0)


def measure(side: str, count: int) -> dict[str, Any]:
    """KID of `count` samples and as many reference images, in this process."""
    import torch

    from fdr.metrics import Context, load_metrics

    samples, reference = features(count, 0.01, 1), features(count, 0.0, 2)
    metric = load_metrics("kid")["kid"]
    if side == "torch-fidelity":
        from torch_fidelity.metric_kid import kid_features_to_metric
    torch.ones(64, 64) @ torch.ones(64, 64)
    before = harness.resident_mib()
    harness.reset_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    if side == "fdr":
        score = metric.scores(samples, reference, Context())["kid"]
        mean, std, stderr = score.value, score.details["subset_std"], score.stderr
    else:
        pair = torch.from_numpy(samples), torch.from_numpy(reference)
        mean, std = kid_features_to_metric(*pair, verbose=False).values()
        stderr = None
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {
        "mean": mean, "std": std, "stderr": stderr, "wall_s": wall, "cpu_s": cpu, "mib": harness.peak_mib() - before,
    }  # fmt: skip


def main() -> None:
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--counts", default="2000,5000,10000", help="numbers of images of either side")
    options = parser.parse_args()
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    environment = harness.environment_with(threads)
    found: dict[str, dict[str, Any]] = {}
    for count in map(int, options.counts.split(",")):
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for _ in range(options.repeats):
            for side in SIDES:
                runs[side].append(
                    harness.in_child(Path(__file__), "measure", environment=environment, side=side, count=count)
                )
        found[str(count)] = {
            side: {
                key: statistics.median(run[key] for run in turns) if turns[0][key] is not None else None
                for key in turns[0]
            }
            for side, turns in runs.items()
        }
    print(harness.machine_line("torch-fidelity", threads=threads), end="\n\n")
    print(harness.table(HEADER, [row for count, sides in found.items() for row in rows(count, sides)], num_text=2))
    harness.write_json(options.json, results=found, threads=threads)


HEADER = ("images", "side", "wall s", "CPU s", "peer / fdr, wall", "CPU", "memory, MiB", "KID", "std over subsets")


def rows(count: str, sides: dict[str, dict[str, Any]]) -> list[list[str]]:
    """The lines of one number of images."""
    peer, own = (sides[side] for side in SIDES)
    found = []
    for side in SIDES:
        run = sides[side]
        ratios = ["", ""] if side != "fdr" else [f"{peer[key] / own[key]:.1f}" for key in ("wall_s", "cpu_s")]
        found.append(
            [f"{int(count):,}", side, f"{run['wall_s']:.2f}", f"{run['cpu_s']:.2f}", *ratios, f"{run['mib']:.0f}",
             f"{run['mean']:.7g}", f"{run['std']:.5g}"]
        )  # fmt: skip
    return found


if __name__ == "__main__":
    main()
