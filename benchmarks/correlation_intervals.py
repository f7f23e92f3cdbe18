"""How often the intervals of `fdr correlate` hold the true coefficient, beside the usual formulas of normal theory.

python benchmarks/correlation_intervals.py [--rows 14] [--trials 1000]

Draws tables of known coefficients: bivariate normal, its exponential (skewed, as distances are; ranks unchanged), and
Student's t with 3 degrees of freedom. Formulas: Fisher's z for Pearson (as SciPy), Bonett & Wright (2000) for Spearman,
Fieller, Hartley & Pearson (1957) for Kendall. Needs SciPy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import harness
import numpy as np
from scipy.stats import spearmanr

from fdr.comparison import Correlations, correlate

NAMES = ("pearson", "spearman", "kendall")
SKEW = 0.7
DRAWN_FOR_TRUTH = 1_000_000


def tables(kind: str, rho: float, rows: int, trials: int) -> np.ndarray:
    """Float64 [trials, rows, 2]."""
    generator = np.random.default_rng(0)
    values = generator.standard_normal((trials, rows, 2)) @ np.linalg.cholesky([[1, rho], [rho, 1]]).T
    if kind == "skewed":
        return np.exp(SKEW * values)
    if kind == "heavy tails":
        return values / np.sqrt(generator.chisquare(3, (trials, rows, 1)) / 3)
    return values


def truth(kind: str, rho: float) -> dict[str, float]:
    """The coefficients of the population: closed forms, except Spearman's under heavy tails, which is drawn."""
    tau = 2 / np.pi * np.arcsin(rho)
    spearman = 6 / np.pi * np.arcsin(rho / 2)
    pearson = rho
    if kind == "skewed":
        pearson = (np.exp(rho * SKEW**2) - 1) / (np.exp(SKEW**2) - 1)
    if kind == "heavy tails":
        spearman = spearmanr(*tables(kind, rho, DRAWN_FOR_TRUTH, 1)[0].T).statistic
    return {"pearson": pearson, "spearman": spearman, "kendall": tau}


def by_formula(found: Correlations) -> Iterator[tuple[float, float]]:
    """95 % intervals of normal theory, in the order of `NAMES`."""
    n, rho = found.count, found.spearman.value
    errors = (1 / (n - 3), (1 + rho**2 / 2) / (n - 3), 0.437 / (n - 4))
    for name, variance in zip(NAMES, errors, strict=True):
        centre = np.arctanh(np.clip(getattr(found, name).value, -1 + 1e-12, 1 - 1e-12))
        low, high = np.tanh(centre + np.array([-1.959964, 1.959964]) * np.sqrt(variance))
        yield float(low), float(high)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--rows", type=int, default=14)
    parser.add_argument("--trials", type=int, default=1000)
    options = parser.parse_args()
    print(f"{options.rows} rows, {options.trials} tables; share of 95 % intervals that hold the truth, ours / formula;")
    print("of ours, those without an interval count as holding it, and are counted last")
    rows = [
        [kind, rho, *coverage(kind, rho, options.rows, options.trials)]
        for kind in ("normal", "skewed", "heavy tails")
        for rho in (0.5, 0.9)
    ]
    header = ("rows are", "rho", *NAMES, "without")
    print(harness.table(header, rows))
    harness.write_json(options.json, header=header, rows=rows)


def coverage(kind: str, rho: float, rows: int, trials: int) -> Iterator[str]:
    true = truth(kind, rho)
    hits, undefined = np.zeros((2, len(NAMES))), 0
    for table in tables(kind, rho, rows, trials):
        found = correlate(*table.T)
        for index, (name, formula) in enumerate(zip(NAMES, by_formula(found), strict=True)):
            own = getattr(found, name)
            undefined += own.low is None
            hits[0, index] += own.low is None or own.low <= true[name] <= own.high
            hits[1, index] += formula[0] <= true[name] <= formula[1]
    for ours, formula in (hits / trials).T:
        yield f"{ours:.3f} / {formula:.3f}"
    yield str(undefined)


if __name__ == "__main__":
    start = time.process_time()
    main()
    print(f"{time.process_time() - start:.0f} s of processor time")
