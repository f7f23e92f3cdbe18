"""What `fdr explain` costs beside FD alone, from features in memory, in seconds of the processor.

    python benchmarks/explain.py [--images 50000] [--dim 2048] [--repeats 3]

The features are drawn; the reference is moments, as in a statistics file. FD alone is the moments of the samples and
the distance. `fdr eval` adds its standard error from 2,500 images, and `fdr explain` to that the influence of every
image, and the FD without the worst 1 %. The two sides take turns in one process. Prints a Markdown table.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import harness
import numpy as np

from fdr.explanation.blame import WORST_SHARE
from fdr.frechet import Moments, frechet_distance, moments_without, sample_influences
from fdr.metrics import Context
from fdr.metrics.fd import fd_score

SIDES = ("FD alone", "`fdr eval`: with its standard error", "`fdr explain`")
STEPS = (
    "moments",
    "FD and its standard error",
    "influence of every image",
    "FD without the worst 1 %",
)


def features(count: int, dim: int, seed: int) -> np.ndarray:
    """float32 [count, dim] with standard deviations that fall as 1 / sqrt(place)."""
    scales = np.arange(1, dim + 1, dtype=np.float32) ** -0.5
    return np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32) * scales


def fd_alone(rows: np.ndarray, reference: Moments) -> None:
    frechet_distance(Moments.from_features(rows), reference)


def explained(rows: np.ndarray, reference: Moments) -> list[float]:
    """What `fdr explain` does with features; returns the seconds of each step."""
    marks = [time.process_time()]
    moments = replace(Moments.from_features(rows), rows=rows)
    marks.append(time.process_time())
    fd_score(moments, reference, Context())
    marks.append(time.process_time())
    influences = sample_influences(moments, reference)
    marks.append(time.process_time())
    worst = np.argsort(-influences, kind="stable")[: max(1, round(WORST_SHARE * len(rows)))]
    frechet_distance(moments_without(moments, worst), reference)
    marks.append(time.process_time())
    return np.diff(marks).tolist()


def seconds(side: Callable[[], object]) -> float:
    start = time.process_time()
    side()
    return time.process_time() - start


def main() -> None:
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=2048)
    options = parser.parse_args()
    reference = Moments.from_features(features(2 * options.dim, options.dim, 1))
    frechet_distance(reference, reference)  # what is computed of the reference once is kept
    rows = features(options.images, options.dim, 0)
    turns = []
    for _ in range(options.repeats):
        alone = seconds(lambda: fd_alone(rows, reference))
        turns.append((alone, *explained(rows, reference)))
    alone, *steps = (statistics.median(column) for column in zip(*turns, strict=True))
    found = dict(zip(SIDES, (alone, sum(steps[:2]), sum(steps)), strict=True))
    found |= {f"of these, {name}": value for name, value in zip(STEPS, steps, strict=True)}
    ratio = statistics.median(sum(turn[1:]) / turn[0] for turn in turns)
    cells = ([name, f"{value:.1f}", f"{value / alone:.2f}"] for name, value in found.items())
    print(harness.table((f"{options.images:,} x {options.dim}", "CPU s", "times FD"), cells))
    print(f"\n`fdr explain` takes {ratio:.2f} times as long as FD alone (median of {len(turns)} turns).")
    harness.write_json(options.json, results=found, ratio=ratio)


if __name__ == "__main__":
    main()
