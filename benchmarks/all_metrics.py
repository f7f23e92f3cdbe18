"""What every metric costs on features at hand: seconds and memory, each computation in a process of its own.

    OMP_NUM_THREADS=2 python benchmarks/all_metrics.py --images 50000
    python benchmarks/all_metrics.py --images 10000 --metrics kid,mind,vendi

Features are drawn, with the widths of Inception's outputs and of CLIP's embedding: values of a 24-dimensional manifold
with a little noise, and classes. Metrics that are computed together are timed together. The time is that of collecting
the features, in batches of 1,024, and of the computation; memory is the peak above the drawn features. A set of
training images has as many images as the others.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import numpy as np

from fdr.metrics import METRICS, Context, Labelled, Metric, load_metrics

WIDTHS = {"logits": 1008, "spatial": 2023, "embedding-l2": 768}
WIDTH, LATENT, CLASSES, BATCH = 2048, 24, 100, 1024


def features(count: int, width: int, seed: int, spread: float) -> np.ndarray:
    """float32 [count, width]: a fixed random layer over Gaussian latents, plus noise, without negative values."""
    layer = np.random.default_rng(0).standard_normal((LATENT, width), np.float32) / np.float32(np.sqrt(LATENT))
    random = np.random.default_rng(seed)
    found = np.empty((count, width), np.float32)
    for start in range(0, count, BATCH):
        part = found[start : start + BATCH]
        latents = random.standard_normal((len(part), LATENT), np.float32) * np.float32(spread)
        noise = random.standard_normal(part.shape, np.float32)
        np.maximum(0.45 * (latents @ layer) + 0.1 * noise + 0.3, 0, out=part)
    return found


def drawn(metric: Metric, count: int, seed: int, spread: float) -> np.ndarray:
    """The features of the output that a metric reads, of one side."""
    found = features(count, WIDTHS.get(metric.output or "", WIDTH), seed, spread)
    if metric.output == "logits":
        found *= 10
    if metric.output == "embedding-l2":
        found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def collected(metric: Metric, side: Any, array: np.ndarray) -> Any:
    """What a metric is given of one side."""
    collector = metric.collector(len(array))
    for start in range(0, len(array), BATCH):
        rows = np.arange(start, min(start + BATCH, len(array)))
        collector.add(rows, array[rows])
    found = collector.finish()
    if metric.rows:
        found = replace(found, rows=array)
    if side in metric.labels:
        return Labelled(found, np.arange(len(array)) % CLASSES, None, side)
    return found


def measure(names: str, count: int) -> dict[str, Any]:
    """The metrics of one computation, in this process."""
    import torch

    metric = next(iter(load_metrics(names).values()))
    sides = {"samples": (1, 0.95), "reference": (2, 1.0), "training": (3, 1.0)}
    arrays = {side: drawn(metric, count, *how) for side, how in sides.items() if metric.needs(side)}  # type: ignore
    torch.linalg.eigvalsh(torch.eye(64) @ torch.eye(64))  # the libraries are loaded
    before = harness.resident_mib()
    harness.reset_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    found = {side: collected(metric, side, array) for side, array in arrays.items()}
    context = Context(training=found.get("training"))
    scores = metric.scores(found["samples"], found.get("reference"), context)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    values = {name: [score.value, score.stderr] for name, score in scores.items()}
    return {"wall_s": wall, "cpu_s": cpu, "mib": harness.peak_mib() - before, "values": values}


def computations(names: str | None) -> list[str]:
    """The names of the metrics that are computed together, joined by commas."""
    wanted = load_metrics(names or list(METRICS))
    return [",".join(metric.names) for metric in dict.fromkeys(wanted.values())]


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--images", type=int, default=10_000, help="images of either side (default: 10000)")
    parser.add_argument("--metrics", help="these metrics only (default: all)")
    options = parser.parse_args()
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    print(harness.machine_line(threads=threads), f"{options.images:,} images of either side", sep="\n\n", end="\n\n")
    found, rows = {}, []
    for names in computations(options.metrics):
        try:
            run = harness.in_child(
                Path(__file__),
                "measure",
                environment=harness.environment_with(threads),
                names=names,
                count=options.images,
            )
        except RuntimeError as error:
            rows.append([names, "", "", str(error)])
            continue
        found[names] = run
        rows.append([names, f"{run['wall_s']:.1f}", f"{run['cpu_s']:.1f}", f"{run['mib']:.0f}"])
        print(*rows[-1], file=sys.stderr)  # at once, as the others can take an hour
        harness.write_json(options.json, images=options.images, threads=threads, results=found)
    print(harness.table(("metrics", "wall s", "CPU s", "memory, MiB"), rows))


if __name__ == "__main__":
    main()
