"""Relative Taylor debiasing (RTD, arXiv 2610.07114): FD of N samples to exact reference moments, from a pilot and
unbiased estimates of the terms of its Taylor series.

The N - 1 Helmert contrasts of the samples are uncorrelated, have mean 0 and the covariance S of the samples. The first
m of them give a pilot B of S. With R the reference covariance and s [r] the singular values of R^1/2 B^1/2, let

    tr (R S)^1/2 = tr (C (1 + V) C)^1/2,    C = diag(s),    V [r, r] = the error of the pilot, in whitened coordinates.

The term of degree k of the series in V is a symmetric function of k matrices V_1, ..., V_k. Each is estimated from its
own group of the other contrasts, which are independent of each other and of the pilot for Gaussian features, so that
the term is estimated without bias; then the truncation of the series is the only bias left. As in the paper's code,
|m - m_ref|^2 is not corrected: its bias is tr S / N.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdr.errors import InputError
from fdr.frechet import linalg

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fdr.frechet.moments import Moments

PILOT = (3, 5)
"""The pilot takes three fifths of the samples, as in the paper's experiments on images."""
RATIO = 1 / 4
"""The ratio of successive terms that the degree is chosen for. Raising it takes more terms."""
SUPPORT = 1e-10
"""Eigenvalues of a covariance, and singular values, up to this share of the largest count as 0."""
MAX_LEAKAGE = 1e-8
"""The share of the other contrasts' norm that may lie where the pilot has no variance. The estimate does not exist
above it; raising it returns numbers that leave out what lies there."""
ROWS = 4096


class Pilot(NamedTuple):
    """The pilot, and the coordinates in which it is the unit matrix and the overlap with the reference diagonal."""

    s: Tensor
    """[r], the singular values of R^1/2 B^1/2."""
    whitening: Tensor
    """[D, r]; a contrast x has the coordinates x @ whitening."""
    outside: Tensor | None
    """[D, D], the projector onto directions without variance in the pilot; None where there are none."""
    trace: float
    """tr B."""


class Corrections(NamedTuple):
    """What the other contrasts say, in L consecutive groups of nearly equal size."""

    sums: Tensor
    """[L, r, r], the sum of x^T x over the contrasts of a group, in the pilot's coordinates."""
    counts: Tensor
    """[L], contrasts in each group."""
    norm: float
    """The sum of all |x|^2."""
    leaked: float
    """The part of it outside the pilot's support."""


class TaylorEstimate(NamedTuple):
    """FD by RTD, with its parts."""

    value: float
    pilot: int
    """Contrasts in the pilot."""
    terms: tuple[float, ...]
    """The estimated terms of degree 1, 2, ..., L."""


def relative_taylor_fd(rows: np.ndarray, reference: Moments, device: torch.device) -> TaylorEstimate:
    """FD of the distribution of `rows` [N, D], in random order, to exact reference moments.

    Raises `InputError` where the pilot does not span the features: below about 1.7 D samples.
    """
    count, dim = rows.shape
    num_pilot = count * PILOT[0] // PILOT[1]
    num_others = count - 1 - num_pilot
    if num_others < 4:
        raise InputError(f"RTD needs at least 11 samples; got {count}.")
    pilot = _pilot(_scatter(rows, 0, num_pilot, device) / num_pilot, reference, device)
    others = _corrections(rows, num_pilot, degree_for(dim, num_others), pilot, device)
    if math.sqrt(others.leaked) > MAX_LEAKAGE * max(1.0, math.sqrt(others.norm)):
        raise InputError(
            f"RTD cannot be computed from {count} samples of {dim} dimensions: its pilot of {num_pilot} does not span "
            "the features; it needs about 1.7 samples a dimension."
        )
    error = others.sums.sum(0) / num_others - _unit(pilot)
    linear = others.norm / num_others - pilot.trace - float(pilot.s @ error.diagonal())
    terms = (linear, *(_term(pilot, others, degree) for degree in range(2, len(others.counts) + 1)))
    base = float(reference.sigma.trace()) + pilot.trace - 2 * float(pilot.s.sum())
    gap = rows.mean(0, dtype=np.float64) - reference.mu
    return TaylorEstimate(float(gap @ gap) + base + math.fsum(terms), num_pilot, terms)


def degree_for(dim: int, num_others: int) -> int:
    """The degree L of the series: log(D / e) / log(1 / RATIO) rounded up, e = min(1, (D / n)^1/2), at least 2."""
    proxy = min(1.0, math.sqrt(dim / num_others))
    return min(max(2, math.ceil(math.log(dim / proxy) / math.log(1 / RATIO))), num_others // 2)


def helmert_contrasts(rows: np.ndarray, start: int, stop: int) -> np.ndarray:
    """float64 [stop - start, D]: contrast k is (k / (k + 1))^1/2 (mean of rows 1 to k, minus row k + 1), k from 1.

    `start` and `stop` count contrasts from 0. The sum of x^T x over all of them is the scatter of the rows.
    """
    return np.concatenate(list(_blocks(rows, start, stop)))


def _blocks(rows: np.ndarray, start: int, stop: int) -> Iterator[np.ndarray]:
    before = rows[:start].sum(0, dtype=np.float64)
    for first in range(start, stop, ROWS):
        last = min(first + ROWS, stop)
        sums = before + np.cumsum(rows[first:last], 0, dtype=np.float64)
        k = np.arange(first + 1, last + 1)[:, None]
        yield (sums / k - rows[first + 1 : last + 1]) * np.sqrt(k / (k + 1))
        before = sums[-1]


def _scatter(rows: np.ndarray, start: int, stop: int, device: torch.device) -> Tensor:
    import torch

    found = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=device)
    for block in _blocks(rows, start, stop):
        x = linalg.as_float64(block, device)
        found.addmm_(x.T, x)
    return found


def _pilot(covariance: Tensor, reference: Moments, device: torch.device) -> Pilot:
    import torch

    values, vectors = _support(covariance)
    known, directions = _support(linalg.as_float64(np.array(reference.sigma), device))
    overlap = known.sqrt()[:, None] * (directions.T @ vectors) * values.sqrt()
    _, s, right = torch.linalg.svd(overlap, full_matrices=False)
    keep = s > SUPPORT * (float(s.max()) if len(s) else 0.0)
    whitening = (vectors / values.sqrt()) @ right[keep].T
    outside = None
    if len(values) < len(covariance):
        outside = torch.eye(len(covariance), dtype=torch.float64, device=device) - vectors @ vectors.T
    return Pilot(s[keep], whitening, outside, float(covariance.trace()))


def _support(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Positive eigenvalues [r] and their eigenvectors [D, r]."""
    values, vectors = linalg.eigh(covariance)
    keep = values > SUPPORT * max(0.0, float(values.max()))
    return values[keep], vectors[:, keep]


def _corrections(rows: np.ndarray, start: int, degree: int, pilot: Pilot, device: torch.device) -> Corrections:
    import torch

    edges = _edges(len(rows) - 1 - start, degree) + start
    size = len(pilot.s)
    sums, norm, leaked = torch.zeros(degree, size, size, dtype=torch.float64, device=device), 0.0, 0.0
    for own, first, last in zip(sums, edges[:-1], edges[1:], strict=True):
        for block in _blocks(rows, int(first), int(last)):
            x = linalg.as_float64(block, device)
            z = x @ pilot.whitening
            own.addmm_(z.T, z)
            norm += float(x.square().sum())
            leaked += 0.0 if pilot.outside is None else float((x @ pilot.outside).square().sum())
    return Corrections(sums, torch.as_tensor(np.diff(edges), device=device), norm, leaked)


def _edges(total: int, parts: int) -> np.ndarray:
    """[parts + 1]: consecutive groups, of which the first ones have one more where they cannot be equal."""
    sizes = [total // parts + (number < total % parts) for number in range(parts)]
    return np.cumsum([0, *sizes])


def _unit(pilot: Pilot) -> Tensor:
    import torch

    return torch.eye(len(pilot.s), dtype=torch.float64, device=pilot.s.device)


def _term(pilot: Pilot, others: Corrections, degree: int) -> float:
    """The term of one degree from all groups, which are joined to `degree` disjoint ones."""
    edges = _edges(len(others.counts), degree)
    directions = [
        others.sums[first:last].sum(0) / others.counts[first:last].sum() - _unit(pilot)
        for first, last in itertools.pairwise(edges)
    ]
    return taylor_term(pilot.s, directions)


def taylor_term(s: Tensor, directions: Sequence[Tensor]) -> float:
    """The symmetric k-linear form T with T(V, ..., V) = the term of degree k of -2 tr (C (1 + V) C)^1/2, C = diag(s).

    With X(t) = (C (1 + sum_j t_j V_j) C)^1/2, the coefficient X_J of the product of t_j over j in J follows from
    X(t)^2: C X_J + X_J C = C V_J C for a single j, and minus the sum of X_A X_B over A + B = J otherwise. Then
    T(V_1, ..., V_k) = -2 tr X_{1..k} / k!. It takes 3^k / 2 products of [r, r] matrices, and 2^k of them in memory.
    """
    import torch

    degree = len(directions)
    sums = s[:, None] + s
    known = {1 << j: s[:, None] * direction * s / sums for j, direction in enumerate(directions)}
    full = (1 << degree) - 1
    for joined in range(1, full):
        if joined not in known:
            products = [known[part] @ known[joined ^ part] for part in _halves(joined)]
            known[joined] = sum((-x - x.T for x in products), torch.zeros_like(sums)) / sums
    pairs = ((known[part] * known[full ^ part]).sum(0) for part in _halves(full))  # its diagonal: all are symmetric
    return float(2 * (sum(pairs) / s).sum()) / math.factorial(degree)


def _halves(joined: int) -> Iterator[int]:
    """One of each pair of disjoint non-empty sets that together are `joined`; sets are bits of an integer."""
    lowest, part = joined & -joined, (joined - 1) & joined
    while part:
        if part & lowest:
            yield part
        part = (part - 1) & joined
