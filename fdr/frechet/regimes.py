"""Where the leverage-corrected Fréchet distance may be believed, by the number of samples, and what to look out for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fdr.frechet.covariance import as_numpy
from fdr.frechet.leverages import Leverages
from fdr.frechet.whitening import CHUNK_VALUES, Side

LEAST_COUNT = 100
"""No point value is given below this number of samples."""
REPEATED_SHARE = 0.01
"""Share of rows that repeat another row above which there is a warning."""
INFLUENTIAL_SHARE = 0.1
"""A sample with more than this share of the leverage of its set is named."""
INFLUENTIAL_LEVERAGE = 0.9
"""So is a sample with a larger leverage than this, where the set has more than twice as many samples as dimensions."""
NAMED = 5
"""Samples that a warning names."""

REGIMES = {
    "asymptotic": "at most 2 % of the bias is left",
    "full": "typically 0.5 % of the bias is left, 5 % at worst, and up to 9 % for sparse features",
    "near": "1 to 4 % of the bias is left",
    "extrapolated": "3 to 7 % of the bias is left (11 % at worst), because part of the spectrum is extrapolated",
    "bracket": "2 to 10 % of the bias is left, and up to 37 % where the spectrum has a gap",
    "refused": "only the bracket holds",
}
"""What each regime promises, as measured on populations whose FD is known."""


def regime_of(sides: Sequence[Side], dim: int) -> str:
    """The regime of the smaller sampled side with N samples in D = `dim`: by N / D from 50, 2, 1, 1/2 and 1/4 on."""
    counts = [side.moments.count for side in sides if side.moments.count is not None]
    least = min(counts)
    is_small_twice = len(counts) == 2 and max(counts) < dim
    if least < LEAST_COUNT or least < dim / 4 or is_small_twice:
        return "refused"
    bounds = ((50, "asymptotic"), (2, "full"), (1, "near"), (0.5, "extrapolated"))
    return next((name for bound, name in bounds if least >= bound * dim), "bracket")


def warnings_of(name: str, side: Side, leverages: Leverages | None, dim: int) -> Iterator[str]:
    """What breaks the assumption of independent samples on one side, which is called `name`."""
    if leverages is None:
        return
    repeated = repeated_rows(side)
    if repeated > REPEATED_SHARE * len(side.rows):
        yield (
            f"{repeated} of {len(side.rows)} {name} repeat another one exactly: the correction assumes independent "
            "images and leaves part of the bias; remove the repeats."
        )
    is_large = leverages.shares > INFLUENTIAL_SHARE
    if len(side.rows) > 2 * dim:
        is_large |= leverages.largest > INFLUENTIAL_LEVERAGE
    found = np.flatnonzero(is_large)
    if len(found):
        found = found[np.argsort(-leverages.largest[found], kind="stable")]
        rows = ", ".join(map(str, found[:NAMED])) + (", ..." if len(found) > NAMED else "")
        yield (
            f"{len(found)} of {len(side.rows)} {name} (row{'' if len(found) == 1 else 's'} {rows}) are so far out that "
            "each moves the number by itself; look at these images."
        )


def repeated_rows(side: Side) -> int:
    """How many rows equal an earlier row. Rows are compared by their products with two random vectors."""
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((side.moments.dim, 2))
    size = max(1, CHUNK_VALUES // side.moments.dim)
    marks = [
        np.asarray(as_numpy(side.rows[start : start + size]), dtype=np.float64) @ vectors
        for start in range(0, len(side.rows), size)
    ]
    return len(side.rows) - len(np.unique(np.concatenate(marks), axis=0))


def is_class_balanced(labels: Any) -> bool:
    """True for labels [N] of several classes whose numbers differ by one at most, which is rare in random draws."""
    _, counts = np.unique(np.asarray(labels), return_counts=True)
    return len(counts) > 1 and bool(counts.max() - counts.min() <= 1) and int(counts.sum()) >= 2 * len(counts)


def balanced_warning(name: str) -> str:
    """The sentence about a class-balanced side."""
    return (
        f"The {name} hold equally many images of each class: the part of the covariance between the classes does not "
        "fluctuate in such a draw, and the correction removes too much; draw the classes at random where the absolute "
        "value matters."
    )


def notes_on(reference: Side, regime: str, least: float, dim: int) -> Iterator[str]:
    """How the bias of the reference was treated where its features are not known, and what the regime means."""
    count = reference.moments.count
    if count is None:
        yield "the reference is taken as exact, because its number of images is not known"
    elif not reference.has_all_rows and reference.moments.curve is not None:
        yield f"the bias of the reference's {count} images is removed by its leverage curve"
    elif not reference.has_all_rows:
        yield (
            f"the bias of the reference's {count} images is removed as if their features were Gaussian, because it has "
            "no leverage curve (fdr stats stores one)"
        )
    if regime not in ("asymptotic", "full"):
        yield f"{least:.0f} images for {dim} dimensions: {REGIMES[regime]}"
