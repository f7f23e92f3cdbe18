"""What one value of FD as a function of the weights of samples costs, with its gradient: the work of `fdr audit`.

    python benchmarks/audit_cost.py [--images 50000] [--dim 2048] [--repeats 1]

`plain` follows the formulas of docs/audit.md in float64: the weighted covariance by one product over all rows, the map
T by an eigendecomposition of D x D, and T applied to all rows by a second product. `fdr` is `fdr.frechet.WeightedFD`;
its start has a column of its own. The features are float32 and drawn, with standard deviations that fall as
1 / sqrt(place) and log-weights of standard deviation 0.5. Prints a Markdown table, in seconds of the processor, for the
number of images that was given and for half as many as there are features.
"""

from __future__ import annotations

import time

import harness
import numpy as np
import torch
from explain import features

from fdr.frechet import Moments, WeightedFD

ROWS = 2048
"""Rows of a block of `plain`."""
WIDER = np.float32(1.1)
"""How much wider the samples are than the reference, so that FD has something to win."""


class Plain:
    """The formulas, in float64."""

    def __init__(self, rows: np.ndarray, reference: Moments) -> None:
        self.rows, self.mean = rows, torch.from_numpy(reference.mu.copy())
        sigma = torch.from_numpy(reference.sigma.copy())
        values, vectors = torch.linalg.eigh(sigma)
        kept = values > len(values) * 2.0**-52 * values[-1]
        self.factor, self.trace = vectors[:, kept] * values[kept].sqrt(), float(sigma.trace())

    def blocks(self):  # type: ignore[no-untyped-def]
        for start in range(0, len(self.rows), ROWS):
            place = slice(start, start + ROWS)
            yield place, torch.from_numpy(self.rows[place].astype(np.float64)) - self.mean

    def __call__(self, w: np.ndarray) -> tuple[float, np.ndarray]:
        p = torch.softmax(torch.from_numpy(w), 0)
        scale, width = len(p) / (len(p) - 1), len(self.mean)
        mean, second = torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64)
        for place, x in self.blocks():
            weighted = p[place, None] * x
            mean += weighted.sum(0)
            second.addmm_(weighted.T, x)
        sigma = scale * (second - mean[:, None] * mean)
        values, vectors = torch.linalg.eigh(self.factor.T @ sigma @ self.factor)
        kept = values > len(values) * 2.0**-52 * values[-1]
        roots = values[kept].sqrt()
        half_map = (self.factor @ vectors[:, kept]) / roots.sqrt()
        slope = torch.empty_like(p)
        for place, x in self.blocks():
            x -= mean
            slope[place] = 2 * (x @ mean) + scale * (x.square().sum(1) - (x @ half_map).square().sum(1))
        value = float(mean.square().sum() + sigma.trace()) + self.trace - 2 * float(roots.sum())
        return value, (p * (slope - p @ slope)).numpy()


def seconds(of) -> float:  # type: ignore[no-untyped-def]
    start = time.process_time()
    of()
    return time.process_time() - start


def compared(count: int, dim: int, repeats: int) -> dict[str, float]:
    """The seconds of both sides, and how far apart they are."""
    rows, reference = WIDER * features(count, dim, 0), Moments.from_features(features(2 * dim, dim, 1))
    w = 0.5 * np.random.default_rng(2).standard_normal(count)
    made: list[WeightedFD] = []
    start = seconds(lambda: made.append(WeightedFD(rows, reference)))
    plain = Plain(rows, reference)
    turns = harness.take_turns({"plain": lambda: plain(w), "fdr": lambda: made[0](w)}, repeats, warm_up=False)
    (value, gradient), (found, slope) = turns["plain"].result, turns["fdr"].result
    return {
        "images": count,
        "plain": turns["plain"].cpu_s,
        "fdr": turns["fdr"].cpu_s,
        "start": start,
        "value": abs(found / value - 1),
        "gradient": float(np.linalg.norm(slope - gradient) / np.linalg.norm(gradient)),
    }


def cells_of(one: dict[str, float]) -> list[str]:
    """A row of the table."""
    seconds = f"{one['plain']:.2f}", f"{one['fdr']:.2f}", f"{one['plain'] / one['fdr']:.1f}", f"{one['start']:.1f}"
    return [f"{one['images']:,.0f}", *seconds, f"{one['value']:.0e}", f"{one['gradient']:.0e}"]


def main() -> None:
    parser = harness.parser(__doc__, repeats=1)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=2048)
    options = parser.parse_args()
    found = [compared(count, options.dim, options.repeats) for count in (options.images, options.dim // 2)]
    header = (f"images, {options.dim} features", "plain, CPU s", "fdr, CPU s", "plain / fdr", "start of fdr, CPU s")
    cells = map(cells_of, found)
    print(harness.table((*header, "value, apart by", "gradient, apart by"), cells))
    harness.write_json(options.json, results=found)


if __name__ == "__main__":
    main()
