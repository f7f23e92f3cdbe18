"""Standard errors of the leverage-corrected Fréchet distance: its own influence function, or the jackknife.

The influence function of the corrected value replaces sum s_i z_i^2 of `influence` by twice

    infl_b = N (2/pi) int { sqrt(u) g [ (g_b/N - (c/n) (h_b - eta_b)) / mean g_a - eta_b / h ] / 2
                            + (d sqrt(u) / d log x) eta_b } d log x,          c = sum h_a / (1-h_a)^2 / sum h_a

(h_a, g_a, eta_a of `leverages`; the g in front of the bracket is that of the ridges). Near N = D on both sides it
diverges. The delete-group jackknife serves there: it computes the value again without each of 20 random groups.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fdr.frechet.correction import Estimate, correct
from fdr.frechet.covariance import as_numpy
from fdr.frechet.influence import Influence, combined
from fdr.frechet.leverages import Leverages
from fdr.frechet.moments import Moments
from fdr.frechet.whitening import SEED, Side, centred_chunks

if TYPE_CHECKING:
    import torch

NUM_GROUPS = 20
"""Groups of the jackknife. More make it steadier and slower: its relative noise is 10 to 40 % at 20."""

ROUNDING = 1e-12
"""A variance that falls below this share when rows are left out is 0. Raising it drops features that vary a little."""


def corrected_influence(sides: tuple[Side, Side], estimate: Estimate) -> Influence:
    """The influences on FD_lev; `estimate` must have kept its tables."""
    found = [
        None if leverages is None else _influence_of(sides, index, estimate, leverages)
        for index, leverages in enumerate(estimate.leverages)
    ]
    assert found[0] is not None
    return combined(sides, estimate.whitening, found[0], found[1])


def _influence_of(sides: tuple[Side, Side], index: int, estimate: Estimate, leverages: Leverages) -> np.ndarray:
    """IF_b = |x_b|^2 +- 2 x_b^T D - 2 infl_b - mean, [N]."""
    side, ridges = sides[index], estimate.ridges
    h, g, eta = leverages.tables
    count, n = len(side.rows), side.n
    root_u, slope = np.sqrt(estimate.spectral.u), ridges.slope
    c = (g.square() / h).sum(0).cpu().numpy() / (count * leverages.mean_h)  # h / (1-h)^2 = g^2 / h
    front = root_u * slope / 2
    drift = np.gradient(root_u, ridges.step)
    of_g = front / (count * leverages.mean_g)
    of_h = -front * c / n / leverages.mean_g
    of_eta = -of_h - front / ridges.h + drift
    weights = [h.new_tensor(values * (2 / math.pi * ridges.step * count)) for values in (of_h, of_g, of_eta)]
    moved = h @ weights[0] + g @ weights[1] + eta @ weights[2]
    offset = moved.new_tensor(2 * (side.moments.mu - sides[1 - index].moments.mu))
    found = np.empty(count)
    for rows, x in centred_chunks(side, moved.device):
        found[rows] = (x.square().sum(1) + x @ offset - 2 * moved[rows]).cpu().numpy()
    return found - found.mean()


def jackknife_stderr(sides: tuple[Side, Side], device: torch.device) -> float:
    """The standard error of FD_lev by deleting each of `NUM_GROUPS` random groups of the samples, at once with one of
    the reference where its features are known.
    """
    generator = np.random.default_rng(SEED)
    groups = [
        np.array_split(generator.permutation(len(side.rows)), NUM_GROUPS) if side.has_all_rows else None
        for side in sides
    ]
    values = []
    for number in range(NUM_GROUPS):
        left = [
            side if group is None else without(side, group[number]) for side, group in zip(sides, groups, strict=True)
        ]
        values.append(correct(left[0], left[1], device).value)
    return math.sqrt((NUM_GROUPS - 1) * float(np.var(values)))


def without(side: Side, left_out: np.ndarray) -> Side:
    """A side without some of its rows; its moments are those of all rows less those of the rows that are left out.

    It needs len(left_out) D^2 steps, where moments of the rest would need N D^2.
    """
    rest = np.ones(len(side.rows), dtype=bool)
    rest[left_out] = False
    return Side(_moments_without(side, left_out), side.rows[rest])


def _moments_without(side: Side, left_out: np.ndarray) -> Moments:
    moments = side.moments
    assert moments.count is not None
    part = as_numpy(side.rows[left_out]).astype(np.float64) - moments.mu
    kept = moments.count - len(left_out)
    shift = -part.sum(0) / kept
    sigma = (side.sigma * (moments.count - 1) - part.T @ part - kept * np.outer(shift, shift)) / (kept - 1)
    constant = sigma.diagonal() <= ROUNDING * side.sigma.diagonal()
    sigma[constant], sigma[:, constant] = 0, 0
    return Moments(moments.mu + shift, sigma, kept)


def moments_without(moments: Moments, left_out: np.ndarray) -> Moments:
    """The moments of the features but for the rows `left_out` [n]; `moments` must have all of them as `rows`.

    It costs n D^2 steps where more than D rows are left, and is computed anew from the others where fewer are.
    """
    side = Side.of(moments)
    if len(side.rows) - len(left_out) > moments.dim:
        return _moments_without(side, left_out)
    return Moments.from_features(np.delete(as_numpy(side.rows), left_out, 0))
