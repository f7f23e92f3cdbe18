"""Precision, recall, density and coverage beside torch-fidelity and prdc: values, seconds and memory.

    python benchmarks/neighbourhoods.py --count 10000 --repeats 3

Every side runs in a process of its own, in turns, on the same drawn features (`precision_recall.features`, or
`--gaussian`). Memory is the peak above that of the features. The number of threads is OMP_NUM_THREADS; prdc asks for
eight of its own kind. Needs torch-fidelity 0.4, and prdc 0.2 with scikit-learn; a side whose package is missing is left
out.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
from pathlib import Path
from typing import Any

import harness
import numpy as np
from precision_recall import features

from fdr.metrics import Context, load_metrics

SIDES = {
    "fdr: precision, recall": "fdr",
    "torch-fidelity: precision, recall": "torch_fidelity",
    "fdr: precision:prdc, recall:prdc, density, coverage": "fdr",
    "prdc: precision, recall, density, coverage": "prdc",
}
PEERS = {"fdr: precision, recall": 1, "fdr: precision:prdc, recall:prdc, density, coverage": 3}
"""The side that each of ours is compared with, by its place."""


def measure(side: str, count: int, gaussian: bool, memory: int) -> dict[str, Any]:
    """The values of one side, its seconds, and its peak of memory above that of the features."""
    if gaussian:
        samples, reference = (np.random.default_rng(i).normal(size=(count, 2048)).astype("f4") for i in (1, 2))
    else:
        samples, reference = features(count, 0.95, 1), features(count, 1.0, 2)
    call = _call(side, memory)
    call(samples[:64], reference[:64])  # what a first call loads is not counted
    harness.reset_peak()
    before, turns = harness.resident_mib(), harness.Turns()
    turns.take(lambda: call(samples, reference))
    return {"values": turns.result, "memory_mib": harness.peak_mib() - before, **turns.to_dict()}


def _call(side: str, memory: int) -> Any:
    if side.startswith("fdr"):
        names = side.partition(": ")[2].replace(" ", "")
        metric = next(iter(load_metrics(names).values()))
        return lambda x, y: [one.value for one in metric.scores(x, y, Context(memory=memory)).values()]
    if side.startswith("torch"):
        import torch
        from torch_fidelity.metric_prc import prc_features_to_metric

        def fidelity(x: np.ndarray, y: np.ndarray) -> list[float]:
            found = prc_features_to_metric(torch.from_numpy(x), torch.from_numpy(y), verbose=False)
            return [found["precision"], found["recall"]]

        return fidelity
    from prdc import compute_prdc

    return lambda x, y: list(map(float, compute_prdc(y, x, nearest_k=5).values()))


def main() -> None:
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--count", type=int, default=10_000, help="features of either side")
    parser.add_argument("--gaussian", action="store_true", help="draw from N(0, I), the hardest case for a filter")
    parser.add_argument("--memory", type=int, default=4096, help="MiB that fdr may take (default: 4096)")
    options = parser.parse_args()
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    sides = [side for side, package in SIDES.items() if importlib.util.find_spec(package)]
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    arguments = {"count": options.count, "gaussian": options.gaussian, "memory": options.memory << 20}
    for _ in range(options.repeats):
        for side in sides:
            environment = harness.environment_with(threads)
            runs[side].append(
                harness.in_child(Path(__file__), "measure", environment=environment, side=side, **arguments)
            )
    found = {
        side: {
            "values": turns[0]["values"],
            **{key: statistics.median(turn[key] for turn in turns) for key in ("wall_s", "cpu_s", "memory_mib")},
        }
        for side, turns in runs.items()
    }
    print(harness.machine_line("torch-fidelity", "prdc", "scikit-learn", threads=threads), end="\n\n")
    print(harness.table(HEADER, [_row(side, found) for side in found]))
    harness.write_json(options.json, results=found, threads=threads, **arguments)


HEADER = ("side", "values", "wall s", "CPU s", "CPU, peer / fdr", "memory, MiB")


def _row(side: str, found: dict[str, dict[str, Any]]) -> list[str]:
    one = found[side]
    peer = found.get(list(SIDES)[PEERS[side]]) if side in PEERS else None
    values = ", ".join(f"{value:.4f}" for value in one["values"])
    ratio = "" if peer is None else f"{peer['cpu_s'] / one['cpu_s']:.2f}"
    return [side, values, f"{one['wall_s']:.1f}", f"{one['cpu_s']:.1f}", ratio, f"{one['memory_mib']:.0f}"]


if __name__ == "__main__":
    main()
