"""What the influence of every image costs beside FD itself, from features in memory, in seconds of the processor.

    python benchmarks/explain_cost.py [--images 50000] [--dim 2048] [--repeats 1]

The features are drawn; the reference is moments, as in a statistics file. `fdr eval` computes the moments of the
samples, FD, and its standard error from 2,500 images. `fdr explain` adds the influence of every image, and the FD
without the worst 1 %. Prints a Markdown table.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import harness
import numpy as np

from fdr.explanation.blame import WORST_SHARE
from fdr.frechet import Moments, fd_influence, frechet_distance, moments_without
from fdr.metrics.fd import STDERR_ROWS


def features(count: int, dim: int, seed: int) -> np.ndarray:
    """float32 [count, dim] with standard deviations that fall as 1 / sqrt(place)."""
    scales = np.arange(1, dim + 1, dtype=np.float32) ** -0.5
    return np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32) * scales


def turn(rows: np.ndarray, reference: Moments) -> dict[str, float]:
    """Seconds of each step."""
    marks = [time.process_time()]
    moments = Moments.from_features(rows)
    frechet_distance(moments, reference)
    marks.append(time.process_time())
    fd_influence(replace(moments, rows=rows), reference, max_rows=STDERR_ROWS)
    marks.append(time.process_time())
    influences = fd_influence(replace(moments, rows=rows), reference).samples
    marks.append(time.process_time())
    worst = np.argsort(-influences)[: round(WORST_SHARE * len(rows))]
    frechet_distance(moments_without(replace(moments, rows=rows), worst), reference)
    marks.append(time.process_time())
    names = ("FD", "its standard error", "influence of every image", "FD without the worst 1 %")
    return dict(zip(names, np.diff(marks).tolist(), strict=True))


def main() -> None:
    parser = harness.parser(__doc__, repeats=1)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=2048)
    options = parser.parse_args()
    reference = Moments.from_features(features(2 * options.dim, options.dim, 1))
    frechet_distance(reference, reference)  # what is computed of the reference once is kept
    rows = features(options.images, options.dim, 0)
    turns = [turn(rows, reference) for _ in range(options.repeats)]
    found = {name: statistics.median(one[name] for one in turns) for name in turns[0]}
    steps = list(found.values())
    found |= {"fdr eval in all": sum(steps[:2]), "fdr explain in all": sum(steps)}
    cells = ([name, f"{seconds:.1f}", f"{seconds / found['FD']:.2f}"] for name, seconds in found.items())
    print(harness.table((f"{options.images:,} x {options.dim}", "CPU s", "times FD"), cells))
    harness.write_json(options.json, results=found)


if __name__ == "__main__":
    main()
