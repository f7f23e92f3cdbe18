"""The bias of FD-loss's gradient at the perfect generator, where the true gradient is zero.

    python benchmarks/fd_loss_bias.py                                                      # Gaussian features, d = 32
    python benchmarks/fd_loss_bias.py --features FILE.npy --batch-size 1024 --solver fast

`fd_loss_populations.py` keeps files of features beside the references of its GANs. Batches are drawn from the very
distribution that the reference is of: Gaussian features with variances 1 / k, or rows of a file [N, D], with
replacement, against the moments of all its rows. A population is filled to its effective size, runs on until its
history is its own, and is then measured for --measured batches. G is the gradient in a row z at unit weight, and the
table has the mean of <G, z - m_p> / tr S_p: the share of its deviation by which a step pulls a row towards the mean. 0
is right, more shrinks the generator, less expands it. The second column is that of the lower half of the
eigendirections of S_p (those below 1e-6 of the largest left out), where a generator loses its details first. Standard
errors are of ten blocks of batches, as neighbouring batches share a history.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import harness
import numpy as np
import torch
from fd_loss_populations import CELLS, Side, families, mean_and_error
from loss_worlds import as_images, vectors
from populations import population
from torch import Tensor

import fdr

SMALLEST, BLOCKS = 1e-6, 10


class Measure:
    """Batches of one distribution, and what a population's gradient does to them."""

    def __init__(self, draw: Callable[[int], Tensor], moments: fdr.Moments, batch_size: int) -> None:
        self.draw, self.moments, self.batch_size = draw, moments, batch_size
        values, self.basis = np.linalg.eigh(moments.sigma)
        kept = values > SMALLEST * values[-1]
        self.values, self.basis = values[kept], self.basis[:, kept]

    def of(self, side: Side, beta: float, measured: int) -> tuple[list[float], list[float]]:
        """The two columns, for every block of measured batches."""
        options = fdr.LossOptions(solver=side.solver, gradient="unit")
        loss = fdr.FDLoss({"rows": vectors}, {"rows": self.moments}, population=side.population, options=options)
        if side.fill:
            loss.fill(as_images(self.draw(side.fill)))
        for _ in range(math.ceil(1 / (1 - beta))):
            self._step(loss, options.eps)
        steps = [self._step(loss, options.eps) for _ in range(measured)]
        steps = [np.mean(block, axis=0) for block in np.array_split(np.stack(steps), min(BLOCKS, measured))]
        half = len(self.values) // 2
        return (
            [float(step.sum() / self.values.sum()) for step in steps],
            [float(step[:half].sum() / self.values[:half].sum()) for step in steps],
        )

    def _step(self, loss: fdr.FDLoss, eps: float) -> np.ndarray:
        """The mean of G z in every eigendirection."""
        rows = self.draw(self.batch_size).requires_grad_()
        output = loss(as_images(rows))
        output.total.backward()
        gradient = (rows.grad.double() * (output.fd["rows"] + eps) * len(rows)).numpy()
        centred = rows.detach().double().numpy() - self.moments.mu
        return ((gradient @ self.basis) * (centred @ self.basis)).mean(0)


def distribution(
    options: argparse.Namespace, random: np.random.Generator
) -> tuple[Callable[[int], Tensor], fdr.Moments]:
    """A way to draw rows [N, D], and their exact moments."""
    if options.features is None:
        exact = population("gauss", options.dim, 1.0)
        return lambda count: torch.from_numpy(exact.draw(count, random)).float(), exact.moments
    rows = np.load(options.features, allow_pickle=False).astype(np.float32)
    found = fdr.Moments.from_features(rows, ddof=0)
    moments = fdr.Moments(found.mu, found.sigma)
    return lambda count: torch.from_numpy(rows[random.integers(len(rows), size=count)]), moments


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--features", type=Path, help="features [N, D] of a file, instead of Gaussian ones")
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--betas", default="0.8,0.9,0.95")
    parser.add_argument("--measured", type=int, default=2000)
    parser.add_argument("--solver", default="exact")
    parser.add_argument(
        "--families", default="batch alone;queue;raw EMA;debiased EMA;local EMA", help="semicolons between them"
    )
    options = parser.parse_args()
    betas = tuple(map(float, options.betas.split(",")))
    draw, moments = distribution(options, np.random.default_rng(0))
    measure, lines, found = Measure(draw, moments, options.batch_size), [], {}
    cell = dataclasses.replace(CELLS["linear"], batch_size=options.batch_size, betas=betas, solver=options.solver)
    for family in families(cell, moments.dim):
        for side, beta in zip(family, betas if len(family) > 1 else (0.0,), strict=True):
            if side.family in options.families.split(";"):
                columns = measure.of(side, beta, options.measured)
                lines.append([side.family, side.window, *map(mean_and_error, columns)])
                found[f"{side.family} {side.window}".strip()] = [statistics.fmean(values) for values in columns]
                print(" | ".join(lines[-1]), flush=True)
    print(f"\nd = {moments.dim}, batches of {options.batch_size}, {options.measured} of them measured\n")
    print(harness.table(["population", "window", "bias", "bias, lower half"], lines))
    harness.write_json(options.json, bias=found)


if __name__ == "__main__":
    main()
