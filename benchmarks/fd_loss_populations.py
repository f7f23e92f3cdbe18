"""Which population should FD-loss use? Batches, queues and averages, with and without their bias, on known ground.

    python benchmarks/fd_loss_populations.py --out RESULTS                                  # the toys, some minutes
    python benchmarks/fd_loss_populations.py --out RESULTS --data FOLDER --cells mnist,faces

The worlds are described in `loss_worlds.py`, the cells (a world, a batch size, a number of steps) in `CELLS`. Every row
of a table is a family: the batch alone, queues, the paper's EMA, and ours. Windows and learning rates of every family
are tuned by the same walk over the same grid: from its middle to a better neighbour until there is none, by the mean FD
of the tuning seeds under the trained encoder. The winner is then run on other seeds, which are reported with their
standard error. A queue has the effective size of the EMA in the same place of the grid, B (1 + beta) / (1 - beta).
Rows with lag correction take three quarters of the steps, because their steps have one more forward pass.

FD is divided by the trace of the reference's covariance. It is in closed form in `linear`, and elsewhere the debiased
FD of fresh samples. Optimizer: AdamW (0.9, 0.95) with a warm-up and a cosine to 0.

With --out, every run is kept in RESULTS/CELL.json as soon as it ends, and the same command goes on from there.
References of GANs are kept in RESULTS/references. FOLDER holds `mnist` and `weights` as `loss_worlds.py` names them.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import harness
import loss_worlds
from loss_worlds import ALL, ERRORS, TRAINED, Course
from post_training import Recipe, Row, Rows, trained_copy

import fdr

LAG_SHARE = 0.75
"""Steps of a run with lag correction, relative to the others: four units of work instead of three."""
LEAST_RATE, LARGEST_RATE = -4, 4
"""Powers of 2, relative to the cell's learning rate, that the walk may reach."""
TUNING_SEED, SEED = 101, 11
"""The first ones; the next are the numbers that follow."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A world and the runs in it; the numbers depend on nothing else."""

    world: str
    batch_size: int
    steps: int
    lr: float
    """Where the walk starts."""
    size: float = 0.0
    """The size of the perturbation that is to be undone."""
    betas: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95, 0.98)
    tuning_seeds: int = 2
    seeds: int = 8
    num_neighbours: int = 6
    """Of a place of the grid, see `neighbours`: 4 leave out the diagonals."""
    solver: str = "exact"
    """Of the rows that are not `local`."""
    encoders: tuple[str, ...] = ()
    reference_count: int = 200_000
    judged: int = 40_000
    bfloat16: bool = False
    """Of the generator."""


GAN = Cell(
    "faces",
    batch_size=32,
    steps=30,
    lr=2.5e-5,
    size=0.1,
    betas=(0.8, 0.9),
    tuning_seeds=1,
    seeds=2,
    num_neighbours=4,
    solver="fast",
    reference_count=20_000,
    bfloat16=True,
)
CELLS = {
    "linear": Cell("linear", 16, 400, 4e-3, size=0.26),
    "linear-64": Cell("linear", 64, 400, 4e-3, size=0.26),
    "mlp": Cell("mlp", 24, 300, 2e-3, size=0.4, seeds=6),
    "mnist": Cell(
        "mnist", 32, 600, 1.2e-3, betas=(0.8, 0.9, 0.95), tuning_seeds=1, seeds=3, num_neighbours=4, judged=5000
    ),
    "faces": dataclasses.replace(GAN, encoders=("squeezenet", "efficientnet"), judged=1024),
    "faces-2048": dataclasses.replace(GAN, encoders=("inception", "squeezenet"), judged=2048, reference_count=8192),
    "eyes": dataclasses.replace(GAN, world="eyes", encoders=("squeezenet", "efficientnet"), judged=1024),
}


@dataclasses.dataclass(frozen=True)
class Side:
    """What is compared: a population, and how its gradient is computed."""

    family: str
    window: str
    population: Any
    solver: str
    fill: int = 0

    @property
    def has_lag_correction(self) -> bool:
        return getattr(self.population, "lag_correction", False)


Family = list[Side]
"""The same method with several windows, from the shortest to the longest."""


def families(cell: Cell, dim: int) -> list[Family]:
    """What a table compares."""
    sizes = [effective_size(cell.batch_size, beta) for beta in cell.betas]

    def averages(family: str, solver: str = cell.solver, **options: Any) -> Family:
        return [
            Side(family, f"{beta}", fdr.EmaPopulation(beta, **options), solver, max(size, 2 * dim))
            for beta, size in zip(cell.betas, sizes, strict=True)
        ]

    def batch(family: str, solver: str = cell.solver, **options: Any) -> Family:
        return [Side(family, "", fdr.BatchPopulation(**options), solver)]

    found = [
        batch("batch alone"),
        batch("batch alone, local", "local"),
        [Side("queue", f"{size}", fdr.QueuePopulation(size), cell.solver, size) for size in sizes],
        averages("raw EMA"),
        averages("debiased EMA", batch_weight="debiased"),
        averages("local EMA", "local"),
        averages("raw EMA, lag-corrected", lag_correction=True),
        averages("debiased EMA, lag-corrected", batch_weight="debiased", lag_correction=True),
    ]
    return [*found, batch("batch alone, debiased", estimator="debiased")] if cell.batch_size > dim else found


def effective_size(batch_size: int, beta: float) -> int:
    """Samples of a queue that has the noise of an EMA, 1 / sum of squared weights."""
    return round(batch_size * (1 + beta) / (1 - beta))


class Runs:
    """The runs of one cell, made once."""

    def __init__(self, cell: Cell, course: Course, rows: Rows) -> None:
        self.cell, self.course, self.rows = cell, course, rows

    def fd(self, side: Side, power: int) -> float:
        """The mean FD of the tuning seeds, under the trained encoder."""
        seeds = range(TUNING_SEED, TUNING_SEED + self.cell.tuning_seeds)
        found = [self.run(side, power, seed, TRAINED)[self.course.trained] for seed in seeds]
        return statistics.fmean(found) if all(map(math.isfinite, found)) else math.inf

    def report(self, side: Side, power: int) -> list[Row]:
        """Those of the other seeds, under all encoders; the first with the standard error of the judge."""
        asked = {seed: ERRORS if seed == SEED else ALL for seed in range(SEED, SEED + self.cell.seeds)}
        return [self.run(side, power, seed, level) for seed, level in asked.items()]

    def run(self, side: Side, power: int, seed: int, asked: int) -> Row:
        name = " | ".join((side.family, side.window, f"lr x 2^{power}", f"seed {seed}"))
        return self.rows.row(name, partial(self._made, side, power, seed, asked))

    def _made(self, side: Side, power: int, seed: int, asked: int) -> Row:
        cell, course = self.cell, self.course
        recipe = Recipe(
            round(cell.steps * (LAG_SHARE if side.has_lag_correction else 1)),
            cell.batch_size,
            cell.lr * 2.0**power,
            eps=course.trace,  # FD / (FD + eps) is then about linear in FD, and so the same for every population
            seed=seed,
            warmup=max(1, min(20, cell.steps // 10)),
            solver=side.solver,
            gradient="unit",
        )
        trained, costs = trained_copy(course.world, [course.trained], side.population, recipe, side.fill)
        return {**course.judge(trained, asked), "ms a step": 1000 * costs["CPU s"] / recipe.steps}


def tuned(runs: Runs, family: Family) -> tuple[int, int]:
    """The window and the power of the learning rate that the walk ends at."""
    place = len(family) // 2, 0
    while True:
        best, around = runs.fd(family[place[0]], place[1]), neighbours(place, len(family), runs.cell.num_neighbours)
        found = next((other for other in around if runs.fd(family[other[0]], other[1]) < best), None)
        if found is None:
            return place
        place = found


def neighbours(place: tuple[int, int], count: int, most: int) -> Iterator[tuple[int, int]]:
    """A rate up and down, a window shorter and longer; a shorter window at a higher rate and the reverse."""
    for window, power in ((0, 1), (0, -1), (-1, 0), (1, 0), (-1, 1), (1, -1))[:most]:
        index, rate = place[0] + window, place[1] + power
        if 0 <= index < count and LEAST_RATE <= rate <= LARGEST_RATE:
            yield index, rate


# ------------------------------------------------------------------------------------------------------------ tables


def compare(name: str, cell: Cell, course: Course, rows: Rows, chosen: list[Family], is_tuned: bool) -> None:
    """Tune, run and print one cell; without tuning, every family has the middle of the grid."""
    runs, lines = Runs(cell, course, rows), []
    for label, generator in (("before", course.world.generator), ("the truth", course.truth)):
        if generator is not None:
            lines.append(line_of(label, "", "", [rows.row(label, partial(course.judge, generator, ERRORS))], course))
    for family in chosen:
        window, power = tuned(runs, family) if is_tuned else (len(family) // 2, 0)
        side, edge = family[window], "" if LEAST_RATE < power < LARGEST_RATE else " (edge)"
        rate = f"{cell.lr * 2.0**power:.2g}{edge}"
        lines.append(line_of(side.family, side.window, rate, runs.report(side, power), course))
    roles = [
        f"{'trained' if encoder == course.trained else 'watching'}: {encoder}" for encoder in course.world.encoders
    ]
    print(f"\n### {name}: FD / tr S, x 1e-3\n\n{cell}\n")
    print(harness.table(["population", "window", "learning rate", *roles, "ms a step"], lines, num_text=1), "\n")


def line_of(family: str, window: str, rate: str, found: list[Row], course: Course) -> list[str]:
    """A row of the table."""
    cells = [mean_and_error([1e3 * row[name] for row in found if name in row]) for name in course.world.encoders]
    times = [row["ms a step"] for row in found if "ms a step" in row]
    return [family, window, rate, *cells, f"{statistics.fmean(times):.3g}" if times else ""]


def mean_and_error(values: list[float]) -> str:
    """With the standard error of the mean, where there are several values."""
    if not values:
        return ""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.4g}"
    error = statistics.stdev(values) / math.sqrt(len(values))
    digits = max(0, 1 - math.floor(math.log10(error))) if error > 0 else 3
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


# ----------------------------------------------------------------------------------------------------------- command


def course_of(cell: Cell, options: argparse.Namespace) -> Course:
    """The world of a cell."""
    makers: dict[str, Callable[[], Course]] = {
        "linear": lambda: loss_worlds.linear(cell.size),
        "mlp": lambda: loss_worlds.mlp(cell.size, cell.reference_count, cell.judged),
        "mnist": lambda: loss_worlds.mnist(options.data, cell.judged),
    }
    if cell.world in makers:
        return makers[cell.world]()
    gan = loss_worlds.GanOptions(
        options.data,
        options.out / "references",
        cell.encoders,
        cell.size,
        cell.reference_count,
        cell.judged,
        cell.bfloat16,
    )
    return loss_worlds.gan(cell.world, gan)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--out", type=Path, metavar="RESULTS", help="the folder of results, made where it is missing")
    parser.add_argument("--data", type=Path, help="the folder of real networks and images; the toys need none")
    parser.add_argument("--cells", default="linear,linear-64,mlp", help=f"of {', '.join(CELLS)}")
    parser.add_argument("--families", help="rows of the table, by their names, with semicolons between them")
    parser.add_argument(
        "--every-window", action="store_true", help="a row for every window, with its own learning rate"
    )
    parser.add_argument("--untuned", action="store_true", help="no walk: every row at the middle of the grid")
    for field in ("steps", "seeds", "tuning-seeds", "reference-count", "judged"):
        parser.add_argument(f"--{field}", type=int, help="instead of what the cell has")
    options = parser.parse_args()
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    wanted = options.families and options.families.split(";")
    for name in options.cells.split(","):
        if name not in CELLS:
            parser.error(f"there is no cell {name!r}; choose from {', '.join(CELLS)}")
        changes = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(Cell)}
        cell = dataclasses.replace(CELLS[name], **{key: value for key, value in changes.items() if value is not None})
        if options.data is None and cell.world not in ("linear", "mlp"):
            parser.error(f"cell {name!r} needs --data")
        if options.out is None and cell.encoders:
            parser.error(f"cell {name!r} needs --out, where the moments of its references are kept")
        rows = Rows(options.out and options.out / f"{name}.json", cell)
        course = course_of(cell, options)
        chosen = [sides for sides in families(cell, course.dim) if wanted is None or sides[0].family in wanted]
        if options.every_window:
            chosen = [[side] for sides in chosen for side in sides]
        compare(name, cell, course, rows, chosen, not options.untuned)
    harness.write_json(options.json, cells=options.cells.split(","))


if __name__ == "__main__":
    main()
