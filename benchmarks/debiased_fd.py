"""FD without its sample-size bias: the debiased FD beside raw FD, FD_inf, VALE and RTD, where the truth is known.

    python benchmarks/debiased_fd.py                                       # d = 64, some minutes
    python benchmarks/debiased_fd.py --dim 128 --kinds gauss,heavy,ellip,mix,relu --cases same,near,far --draws 30
    python benchmarks/debiased_fd.py --data FEATURES --draws 5             # a GAN's features by gan_population.py
    python benchmarks/debiased_fd.py --json out.json --picture out.png
    python benchmarks/debiased_fd.py --from a.json b.json --picture out.png    # the tables and the plot of earlier runs

Synthetic populations (`populations.py`) have exact moments; N = 0.5 ... 24 d rows are drawn, and the reference is exact
(`--sides one`) or drawn with N rows, too (`--sides two`; extrapolations and RTD then take the drawn reference as exact,
which is how they are defined). Bias, sd and RMSE are over the draws; all methods see the same draws. Seconds are of the
processor.

With --data, N = 500 ... 50,000 samples of the pool are compared with the moments of the population of the same
generator (`same`) and of the perturbed one (`near`), or with as many samples of them (`--sides two`). The true FD to
such a finite reference is known from all samples: see `truth_of_same` and `truth_of_others`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
from populations import CASES, KINDS, population, reference_of

import fdr
from fdr.errors import FdrWarning, InputError
from fdr.frechet import Moments, estimate_fd

METHODS = ("raw", "debiased", "fd_inf", "vale1", "vale2", "rtd")
RATIOS = "0.5,1,2,4,10,24"
SIZES = (500, 1000, 2000, 2500, 5000, 10_000, 20_000, 50_000)


@dataclass
class Cell:
    """One population, case and number of samples: what every method gave for each draw."""

    kind: str
    case: str
    sides: str
    dim: int
    count: int
    truth: float
    values: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    stderrs: list[float] = field(default_factory=list)
    """Standard errors of the debiased FD, where they were asked for."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why a method gave nothing."""

    def add(self, method: str, compute: Callable[[], Any]) -> None:
        if method in self.refused:
            return
        start = time.process_time()
        try:
            found = compute()
        except InputError as error:
            self.refused[method] = str(error)
            return
        self.seconds.setdefault(method, []).append(time.process_time() - start)
        self.values.setdefault(method, []).append(found)

    def errors(self, method: str) -> np.ndarray:
        return np.array(self.values.get(method, [])) - self.truth

    def bias(self, method: str) -> float:
        return float(self.errors(method).mean())

    def sd(self, method: str) -> float:
        errors = self.errors(method)
        return float(errors.std(ddof=1)) if len(errors) > 1 else math.nan

    def rmse(self, method: str) -> float:
        errors = self.errors(method)
        return float(np.sqrt(np.mean(errors**2))) if len(errors) else math.inf

    @property
    def best_rival(self) -> str:
        return min((name for name in self.values if name not in ("raw", "debiased")), key=self.rmse, default="raw")

    def gain(self, method: str) -> float:
        """The RMSE of a method divided by that of the debiased FD."""
        return self.rmse(method) / self.rmse("debiased") if method in self.values else math.nan

    def to_dict(self) -> dict[str, Any]:
        names = list(self.values)
        summary = {name: {"bias": self.bias(name), "sd": self.sd(name), "rmse": self.rmse(name)} for name in names}
        return vars(self) | {"summary": summary}


def measure(cell: Cell, rows: np.ndarray, reference: Any, methods: list[str], stderr: bool, number: int) -> None:
    """One draw of a cell by all methods."""
    moments = reference if isinstance(reference, Moments) else Moments.from_features(reference)
    for method in methods:
        if method == "debiased":
            cell.add(method, lambda: debiased(cell, rows, reference, stderr))
        else:
            cell.add(
                method, lambda method=method: estimate_fd(rows, moments, method=method, seed=number, stderr=False).value
            )


def debiased(cell: Cell, rows: np.ndarray, reference: Any, stderr: bool) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FdrWarning)
        found = fdr.debiased_frechet_distance(rows, reference, stderr=stderr, extrapolate=True)
    cell.stderrs += [found.stderr] if found.stderr is not None else []
    return found.estimate


# ---------------------------------------------------------------------------------------------- synthetic populations


def synthetic(options: argparse.Namespace) -> Iterator[Cell]:
    ratios = [float(ratio) for ratio in options.ratios.split(",")]
    for kind in options.kinds.split(","):
        samples = population(kind, options.dim, options.power)
        for case in options.cases.split(","):
            reference = reference_of(samples, case)
            truth = fdr.frechet_distance(samples.moments, reference.moments)
            for sides in options.sides.split(","):
                for ratio in ratios:
                    cell = Cell(kind, case, sides, options.dim, round(ratio * options.dim), truth)
                    for number in range(options.draws):
                        random = np.random.default_rng((number, cell.count, len(case)))
                        rows = samples.draw(cell.count, random)
                        other = reference.moments if sides == "one" else reference.draw(cell.count, random)
                        measure(cell, rows, other, options.methods, options.stderr, number)
                    yield cell


# ------------------------------------------------------------------------------------------------------ the GAN's pool


def of_gan(options: argparse.Namespace) -> Iterator[Cell]:
    for folder in sorted(path for path in options.data.iterdir() if (path / "pool").is_dir()):
        pool, rows = read(folder / "pool"), read(folder / "population")
        others = {"same": rows}
        if any((folder / "perturbed").glob("*.npy")):
            others["near"] = read(folder / "perturbed")
        print(f"{folder.name}: pool {len(pool)}, references of", {k: len(v) for k, v in others.items()}, flush=True)
        for case in (case for case in others if case in options.cases.split(",")):
            for sides in options.sides.split(","):
                new_cell = partial(Cell, folder.name, case, sides, pool.shape[1])
                yield from of_pool(options, new_cell, sides, pool, rows, others[case], is_same=case == "same")


def _exact(moments: Moments) -> Moments:
    """The moments without their count: estimators take them as exact."""
    return Moments(moments.mu, moments.sigma)


def of_pool(
    options: argparse.Namespace,
    new_cell: Callable[[int, float], Cell],
    sides: str,
    pool: np.ndarray,
    rows: np.ndarray,
    other: np.ndarray,
    *,
    is_same: bool,
) -> Iterator[Cell]:
    """A cell for each size: disjoint draws from the pool against the moments of `other`, or against as many rows of it.

    `rows` are of the distribution of the pool, and so is `other` if `is_same`.
    """
    reference = _exact(Moments.from_features(other))
    if is_same:
        truth = 0.0 if sides == "two" else truth_of_same(np.concatenate([rows, pool]), len(rows))
    else:
        truth = truth_of_others(rows, other if sides == "two" else reference)
    limit = len(pool) if sides == "one" else min(len(pool), len(other))
    for count in (size for size in options.sizes if size <= limit):
        cell = new_cell(count, truth)
        order, order_of_other = np.random.default_rng(count).permutation(len(pool)), None
        if sides == "two":
            order_of_other = np.random.default_rng((count, 1)).permutation(len(other))
        for number in range(min(options.draws, limit // count)):
            drawn = slice(number * count, (number + 1) * count)
            against = reference if order_of_other is None else other[order_of_other[drawn]].astype(np.float32)
            methods = [m for m in options.methods if m != "rtd" or number < options.rtd_draws]
            measure(cell, pool[order[drawn]].astype(np.float32), against, methods, options.stderr, number)
        yield cell


def read(folder: Path) -> np.ndarray:
    """float16 [N, D], the files in a row."""
    return np.concatenate([np.load(path) for path in sorted(folder.glob("*.npy"))])


def truth_of_same(rows: np.ndarray, count: int) -> float:
    """The FD between a distribution and moments of `count` of its samples: the bias that these bring, on average.

    Two independent sets of n samples have twice the bias of one, and no other FD. It is measured at n = N/2 and N/4 of
    the given rows, and follows a / n + b / n^2.
    """
    parts = quarters(rows)
    twice = [
        fdr.frechet_distance(parts[0].merge(parts[1]), parts[2].merge(parts[3])),
        np.mean([fdr.frechet_distance(parts[0], parts[1]), fdr.frechet_distance(parts[2], parts[3])]),
    ]
    sizes = np.array([[1 / n, 1 / n**2] for n in (len(rows) / 2, len(rows) / 4)])
    return float(np.array([1 / count, 1 / count**2]) @ np.linalg.solve(sizes, np.array(twice) / 2))


def truth_of_others(rows: np.ndarray, other: Moments | np.ndarray) -> float:
    """The FD of a distribution to exact moments, or to another one, from its rows: Richardson, from N, N/2 and N/4."""
    levels = levels_of(rows)
    others = [[other] * len(level) for level in levels] if isinstance(other, Moments) else levels_of(other)
    pairs = [list(zip(*level, strict=True)) for level in zip(levels, others, strict=True)]
    whole, half, quarter = (np.mean([fdr.frechet_distance(*pair) for pair in level]) for level in pairs)
    return float(8 * whole - 6 * half + quarter) / 3


def levels_of(rows: np.ndarray) -> list[list[Moments]]:
    """Moments of all rows, of their halves, and of their quarters."""
    parts = quarters(rows)
    halves = [parts[0].merge(parts[1]), parts[2].merge(parts[3])]
    return [[halves[0].merge(halves[1])], halves, parts]


def quarters(rows: np.ndarray) -> list[Moments]:
    """Moments of four random quarters."""
    order = np.random.default_rng(0).permutation(len(rows))
    return [Moments.from_features(rows[part].astype(np.float32)) for part in np.array_split(order, 4)]


# ------------------------------------------------------------------------------------------------------------- output


def line(cell: Cell, methods: list[str]) -> list[str]:
    """Name, N/d, truth, raw bias; the RMSE of every method; the best rival's RMSE divided by that of the debiased."""
    start = [f"{cell.kind} {cell.case}", f"{cell.count / cell.dim:.3g}", f"{cell.truth:.4g}"]
    shown = [_rmse(cell, method) for method in methods]
    return [*start, *shown, f"{cell.gain(cell.best_rival):.1f} ({cell.best_rival})"]


def _rmse(cell: Cell, method: str) -> str:
    return "refused" if method in cell.refused else f"{cell.rmse(method):.3g}" if method in cell.values else "-"


def bias_line(cell: Cell, methods: list[str]) -> list[str]:
    """Bias +- its standard error, with the sd of one draw in brackets."""
    found = []
    for method in methods:
        error = cell.sd(method) / math.sqrt(len(cell.values.get(method, [1])))
        value = (
            f"{cell.bias(method):+.3g} ± {error:.1g} ({cell.sd(method):.2g})" if method in cell.values else "refused"
        )
        found.append(value)
    return [f"{cell.kind} {cell.case}", f"{cell.count / cell.dim:.3g}", *found]


def print_tables(cells: list[Cell], methods: list[str]) -> None:
    for sides in dict.fromkeys(cell.sides for cell in cells):
        own = [cell for cell in cells if cell.sides == sides]
        print(f"\nRoot-mean-square error, {sides}-sided\n")
        header = ["population", "N/d", "true FD", *methods, "best rival / debiased"]
        print(harness.table(header, [line(cell, methods) for cell in own]))
        print("\nBias ± standard error (sd of one draw)\n")
        print(harness.table(["population", "N/d", *methods], [bias_line(cell, methods) for cell in own]))
        print("\nProcessor seconds of one value, median\n")
        rows = [
            [f"{c.kind} {c.case}", c.count, *(f"{np.median(c.seconds.get(m, [math.nan])):.3g}" for m in methods)]
            for c in own
        ]
        print(harness.table(["population", "N", *methods], rows))
        print_stderrs([cell for cell in own if len(cell.stderrs) > 1])


def print_stderrs(cells: list[Cell]) -> None:
    if cells:
        print("\nStandard error of the debiased FD, median, beside the sd over the draws\n")
        rows = [
            [f"{c.kind} {c.case}", f"{c.count / c.dim:.3g}", f"{np.median(c.stderrs):.3g}", f"{c.sd('debiased'):.3g}"]
            for c in cells
        ]
        print(harness.table(["population", "N/d", "stderr", "sd"], rows))


def print_left(cells: list[Cell]) -> None:
    """What the debiased FD leaves of the bias, in percent of it, with the standard error over the draws."""
    print("\nBias of the debiased FD, % of that of raw FD ± standard error\n")
    names = dict.fromkeys((cell.kind, cell.case, cell.sides) for cell in cells)
    ratios = sorted({cell.count / cell.dim for cell in cells})
    rows = []
    for name in names:
        own = {c.count / c.dim: _left(c) for c in cells if (c.kind, c.case, c.sides) == name}
        rows.append(["{} {}, {}-sided".format(*name), *(own.get(ratio, "") for ratio in ratios)])
    print(harness.table(["population", *(f"N = {ratio:.3g} d" for ratio in ratios)], rows))


def _left(cell: Cell) -> str:
    if "debiased" not in cell.values or "raw" not in cell.values:
        return ""
    scale = 100 / cell.bias("raw")
    error = cell.sd("debiased") / math.sqrt(len(cell.values["debiased"]))
    return f"{scale * cell.bias('debiased'):+.1f} ± {scale * error:.1f}"


def print_gains(cells: list[Cell], methods: list[str]) -> None:
    """For every case and N/d: the RMSE of each method divided by that of the debiased FD, over the kinds."""
    print("\nRoot-mean-square error of each method / that of the debiased FD: least and largest over the populations\n")
    groups: dict[tuple[str, str, float], list[Cell]] = {}
    for cell in cells:
        if "debiased" in cell.values:
            groups.setdefault((cell.sides, cell.case, cell.count / cell.dim), []).append(cell)
    others = [method for method in methods if method != "debiased"]
    rows = []
    for (sides, case, ratio), own in sorted(groups.items(), key=_order):
        gains = [[cell.gain(method) for cell in own if method in cell.values] for method in others]
        shown = [f"{_short(min(found))} to {_short(max(found))}" if found else "refused" for found in gains]
        rows.append([f"{case}, {sides}-sided", f"{ratio:.3g}", *shown])
    print(harness.table(["case", "N/d", *others], rows))


def _order(item: tuple[tuple[str, str, float], Any]) -> tuple[str, int, float]:
    (sides, case, ratio), _ = item
    return sides, list(CASES).index(case), ratio


def _short(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}" if ratio < 1000 else "> 1000"


def read_cells(paths: list[Path]) -> list[Cell]:
    """The cells of earlier runs."""
    found = [cell for path in paths for cell in json.loads(path.read_text())["cells"]]
    return [Cell(**{name: value for name, value in cell.items() if name != "summary"}) for cell in found]


def save_picture(path: Path, cells: list[Cell], methods: list[str]) -> None:
    """RMSE over N/d for every kind and case, one-sided, up to three times the largest of raw FD."""
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.sides == "one":
            panels.setdefault((cell.kind, cell.case), []).append(cell)
    wide = len({case for _, case in panels})
    high = -(-len(panels) // wide)
    figure = Figure(figsize=(3.6 * wide, 2.6 * high + 0.5), layout="constrained")
    axes = figure.subplots(high, wide, squeeze=False, sharex=True).ravel()
    for axis, ((kind, case), own) in zip(axes, panels.items(), strict=False):
        for method in methods:
            points = [(c.count / c.dim, c.rmse(method)) for c in own if method in c.values]
            axis.loglog(*zip(*points, strict=True), marker="o", markersize=3, label=method) if points else None
        axis.set_ylim(top=3 * max(cell.rmse("raw") for cell in own if "raw" in cell.values))
        axis.set_title(f"{kind}, {case}: true FD {own[0].truth:.3g}", fontsize=9)
        axis.set_xlabel("N / d", fontsize=8)
        axis.set_ylabel("root-mean-square error", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(methods), fontsize=8)
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--data", type=Path, help="a folder of gan_population.py: measure on it")
    parser.add_argument("--from", dest="cells", type=Path, nargs="+", help="show what earlier runs wrote by --json")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--power", type=float, default=1.0, help="of the spectrum 1 / k^power (default: 1)")
    parser.add_argument("--kinds", default="gauss,ellip", help=f"of {','.join(KINDS)}")
    parser.add_argument("--cases", default="same,near", help=f"of {','.join(CASES)}")
    parser.add_argument("--sides", default="one", help="one, two, or one,two")
    parser.add_argument("--ratios", default=RATIOS, help=f"N / d (default: {RATIOS})")
    parser.add_argument("--sizes", type=_numbers, default=SIZES, help="N of the GAN's pool")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--rtd-draws", type=int, default=2, help="draws of the GAN's pool for RTD, which takes long")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS))
    parser.add_argument("--stderr", action="store_true", help="standard errors of the debiased FD as well")
    parser.add_argument("--picture", type=Path, help="save a plot of the errors (needs matplotlib)")
    options = parser.parse_args()
    print(harness.machine_line())
    cells = []
    for cell in read_cells(options.cells) if options.cells else of_gan(options) if options.data else synthetic(options):
        cells.append(cell)
        print(" | ".join(line(cell, options.methods)), flush=True)
        if options.json:
            options.json.with_suffix(".part").write_text(json.dumps([cell.to_dict() for cell in cells]))
    print_tables(cells, options.methods)
    print_left(cells)
    print_gains(cells, options.methods)
    harness.write_json(options.json, cells=[cell.to_dict() for cell in cells])
    if options.json:
        options.json.with_suffix(".part").unlink()
    if options.picture:
        save_picture(options.picture, cells, options.methods)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    main()
