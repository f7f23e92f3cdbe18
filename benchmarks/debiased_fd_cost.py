"""What the debiased FD and the standard error of FD cost, beside FD itself and FD_inf.

    python benchmarks/debiased_fd_cost.py                    # N = 10,000 in 2,048 dimensions, some minutes
    python benchmarks/debiased_fd_cost.py --samples 1000
    python benchmarks/debiased_fd_cost.py --json out.json

All sides start from the same float32 features and from exact moments of a reference that was not used before, and take
turns in one process. "FD" is the moments of the samples and the distance. FD_inf is 15 such FDs of parts of the
samples, as its authors have it, and a line. The standard error is what comes on top of FD. `--device cuda` computes on
the GPU, except for the moments of FD_inf, which are summed where the features are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import harness
import numpy as np

FD, DEBIASED, STDERR, FD_INF = "FD", "debiased FD", "standard error of FD", "FD_inf"


def features(count: int, dim: int) -> np.ndarray:
    """Heavy-tailed features with a power-law spectrum, float32."""
    generator = np.random.default_rng(0)
    radius = generator.lognormal(0, 0.25, size=(count, 1))
    return (generator.standard_normal((count, dim)) * radius * np.arange(1, dim + 1) ** -0.6).astype(np.float32)


def sides(rows: np.ndarray, device: str) -> dict[str, Callable[[], Any]]:
    """The work of each side, from features to its number."""
    from fdr import Moments, debiased_frechet_distance, frechet_distance
    from fdr.frechet import estimate_fd, fd_influence
    from fdr.metrics.fd import STDERR_ROWS

    exact = np.zeros(rows.shape[1]), np.diag(np.arange(1, rows.shape[1] + 1) ** -1.2)
    measured = replace(Moments.from_features(rows), rows=rows)
    return {
        FD: lambda: frechet_distance(Moments.from_features(rows, device=device), Moments(*exact), device=device),
        DEBIASED: lambda: debiased_frechet_distance(rows, Moments(*exact), stderr=False, device=device).estimate,
        STDERR: lambda: fd_influence(measured, Moments(*exact), max_rows=STDERR_ROWS, device=device).stderr,
        FD_INF: lambda: estimate_fd(rows, Moments(*exact), method="fd_inf", stderr=False, device=device).value,
    }


def main() -> None:
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    for side in sides(features(300, 32), options.device).values():  # imports, and the first calls of libraries
        side()
    work = sides(features(options.samples, options.dim), options.device)
    found = harness.take_turns(work, options.repeats, warm_up=options.device != "cpu")
    fd = found[FD]
    print(harness.machine_line())
    print(f"{options.samples} samples, {options.dim} dimensions, {options.device}, medians of {options.repeats}")
    rows = [
        (name, f"{one.cpu_s:.2f}", f"{one.cpu_s / fd.cpu_s:.2f}", f"{one.wall_s:.2f}", f"{one.result:.5g}")
        for name, one in found.items()
    ]
    print(harness.table(("side", "CPU s", "/ FD", "wall s", "number"), rows))
    harness.write_json(options.json, samples=options.samples, dim=options.dim, **{
        name: {**one.to_dict(), "number": one.result} for name, one in found.items()
    })  # fmt: skip


if __name__ == "__main__":
    main()
