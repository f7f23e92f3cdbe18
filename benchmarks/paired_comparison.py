"""How often `fdr compare` tells two sample sets apart that come from one distance: false verdicts at 95 % confidence.

python benchmarks/paired_comparison.py [--dim 12] [--draws 300]

Draws a reference and two sample sets from known populations, all of which are as far from the reference as each other,
and tests the difference of their FDs: paired, with the noise of the reference cancelled; unpaired, from the standard
errors of both; and for sets of different size by the debiased FD beside FD itself. A sound test has 5 % or fewer.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator

import harness
import numpy as np

from fdr.comparison import paired_errors
from fdr.errors import FdrWarning
from fdr.frechet import Influence, Moments, debiased_frechet_distance, fd_influence, frechet_distance
from fdr.reports import Report, Result

SIZES = ((150, 150, 200), (400, 400, 100), (150, 600, 300), (120, 480, 1000), (400, 1600, 1000))
"""(samples of a, samples of b, reference)"""
POPULATIONS = ("equal", "shifted", "opposite", "scaled", "heavy tails")
QUANTILE = 1.959964
ENCODER = "x"


def draw(kind: str, count: int, is_second: bool, generator: np.random.Generator, dim: int) -> np.ndarray:
    """Features [count, dim] of one set; "opposite" shifts the two sets in opposite directions."""
    scales = np.arange(1, dim + 1) ** -0.5
    features = generator.standard_normal((count, dim)) * scales
    if kind == "heavy tails":
        return features * np.sqrt(5 / generator.chisquare(8, (count, 1)))
    if kind == "scaled":
        return 1.3 * features
    shift = {"shifted": 0.5, "opposite": -0.5 if is_second else 0.5}.get(kind, 0.0)
    return features + shift * scales


def moments(features: np.ndarray) -> Moments:
    return dataclasses.replace(Moments.from_features(features), rows=features)


def report(name: str, samples: Moments, reference: Moments) -> tuple[Report, dict[tuple[str, str], Influence]]:
    """FD and debiased FD of one set, as `fdr eval` reports them, and the influence of each image."""
    influence = fd_influence(samples, reference)
    debiased = debiased_frechet_distance(samples, reference)
    assert debiased.value is not None
    numbers = {
        "fd": (frechet_distance(samples, reference), influence.stderr),
        "fd_debiased": (debiased.value, debiased.stderr),
    }
    rows = tuple(
        Result(metric, value, ENCODER, "o", samples.count or 0, True, f"{metric}|n:1", stderr,
               reference_count=reference.count)
        for metric, (value, stderr) in numbers.items()
    )  # fmt: skip
    return Report({"source": name}, None, rows), {(ENCODER, "o"): influence}


def scores(kind: str, sizes: tuple[int, int, int], draws: int, dim: int) -> Iterator[tuple[float, float, float]]:
    """Difference over standard error: FD paired, FD unpaired, debiased FD paired."""
    generator = np.random.default_rng(0)
    for _ in range(draws):
        reference = moments(draw("equal", sizes[2], False, generator, dim))
        sets = [moments(draw(kind, sizes[index], bool(index), generator, dim)) for index in (0, 1)]
        found = {name: report(name, one, reference) for name, one in zip("ab", sets, strict=True)}
        reports = {name: one for name, (one, _) in found.items()}
        errors = paired_errors(reports, {name: one for name, (_, one) in found.items()})["a", "b"]
        fd, debiased = (
            reports["b"][metric, ENCODER].value - reports["a"][metric, ENCODER].value
            for metric in ("fd", "fd_debiased")
        )
        apart = math.hypot(*(one["fd", ENCODER].stderr or 0.0 for one in reports.values()))
        yield fd / errors[f"fd:{ENCODER}"], fd / apart, debiased / errors[f"fd_debiased:{ENCODER}"]


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--dim", type=int, default=12)
    parser.add_argument("--draws", type=int, default=300)
    options = parser.parse_args()
    warnings.simplefilter("ignore", FdrWarning)
    header = ("a, b, reference", "population", "FD paired", "FD unpaired", "debiased FD paired")
    rows = []
    for sizes in SIZES:
        for kind in POPULATIONS:
            found = np.abs(list(scores(kind, sizes, options.draws, options.dim))) > QUANTILE
            rows.append([", ".join(map(str, sizes)), kind, *(f"{share:.3f}" for share in found.mean(0))])
    print(f"{options.dim} dimensions, {options.draws} draws; share of false verdicts at 95 % confidence")
    print(harness.table(header, rows, num_text=2))
    harness.write_json(options.json, header=header, rows=rows)


if __name__ == "__main__":
    main()
