"""M^{-1/2} of a matrix M that is almost diagonal, by expansion; and an estimate of the error that is left. float32.

Symbols: s [r] are positive numbers, used as a diagonal matrix; D [r, r] is symmetric and small; M = s (I + D) s [r, r].
N [r, r] approximates M^{-1/2} and is written N = 1/s - G with a symmetric G [r, r]. It is exact where its residual
E = I - N M N [r, r] is 0. With W = G s (column j of G times s_j), multiplying out gives

    E = (W D + D W^T - W W^T - W D W^T) + (W + W^T - D).

A chord step is one step of Newton's method on N M N = I with the derivative at D = 0, where it is a Sylvester equation
that is solved entry by entry: N_ij + E_ij / (s_i + s_j). From N = 1/s the first chord step gives the first order in D,
G = H with H_ij = D_ij / (s_i + s_j). Later chord steps add a matrix S [r, r], so that G = H - S. The last bracket of E
is then -S_ij (s_i + s_j): the terms of the size of D cancel on paper, and rounding cannot hide the small ones.

The Frobenius norm of what a chord step would add (the error that is left) is estimated without making the step, from
products of matrices with a few vectors. Two facts make this possible. 1 / (s_i + s_j) is a short sum of products of
exponentials: the trapezoidal rule on 1 / x = int exp(t - x e^t) dt. And vectors q of random signs have
|A|_F^2 = E |A q|^2 for every matrix A (Hutchinson 1990).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 512
"""Columns of a symmetric product that are computed at a time, from the diagonal downwards; the rest is mirrored.

Raising it gives fewer and larger products, of which more is computed that could have been mirrored.
"""
SPACING = 1.5
"""Distance between the points t of the trapezoidal rule. At 1.5 the sum is within 2 % of 1 / (s_i + s_j).

Raising it needs fewer products and makes the sum less accurate.
"""
PROBES = 8
"""Random sign vectors of an error estimate, whose relative standard error is at most 1 / sqrt(2 PROBES).

Raising it makes estimates steadier and proportionally slower.
"""


def absorbed_change(change: Tensor, whitened: Tensor, shift: Tensor, share: float) -> Tensor:
    """D after a batch has entered the population: (1 - a) D + a (Z^T Z / B - I) - a^2 e e^T [r, r].

    Z = `whitened` [B, r] are the rows of the batch about the old mean, divided by s; e = `shift` [r] is their mean; and
    a = `share` is the weight of the batch in the population.
    """
    r = len(shift)
    after = torch.empty_like(change, memory_format=torch.contiguous_format)
    for start in range(0, r, BLOCK):
        own, below = slice(start, start + BLOCK), slice(start, r)
        torch.addmm(
            change[below, own],
            whitened[:, below].T,
            whitened[:, own],
            beta=1 - share,
            alpha=share / len(whitened),
            out=after[below, own],
        )
    for start in range(0, r - BLOCK, BLOCK):
        own, below = slice(start, start + BLOCK), slice(start + BLOCK, r)
        after[own, below] = after[below, own].T
    after.diagonal().sub_(share)
    return after.addr_(shift, shift, alpha=-(share**2))


@dataclass(frozen=True)
class Expansion:
    """An approximation of M^{-1/2}: N = 1/s - G with G = H - S, see the top of this file."""

    roots: Tensor
    """s [r]."""
    change: Tensor
    """D [r, r]."""
    second: Tensor | None = None
    """S [r, r], the part of N beyond the first order; None stands for 0."""

    def sums(self) -> Tensor:
        """s_i + s_j [r, r]."""
        return self.roots + self.roots[:, None]

    def correction(self) -> Tensor:
        """G = H - S [r, r]."""
        first = self._first()
        return first if self.second is None else first.sub_(self.second)

    def residual(self, correction: Tensor) -> Tensor:
        """E [r, r], given G from `correction`(). It costs two products of r x r by r x r."""
        scaled = correction * self.roots
        product = scaled @ self.change
        found = product + product.T - (scaled + product) @ scaled.T
        return found if self.second is None else found.sub_(self.second * self.sums())

    def after_chord_steps(self, correction: Tensor) -> tuple[Expansion, float]:
        """The expansion after two chord steps, and what its `root_trace` lacks of a better value of tr M^{1/2}.

        The better value is taken between the two steps, where N is wrong by third order in D. Up to the square of that
        error, tr M^{1/2} = tr M N + tr M^{1/2} E / 2, and s + s G s is close enough to the M^{1/2} of the last term.
        The two steps cost four products of r x r by r x r.
        """
        once = self._stepped(self.residual(correction))
        correction = once.correction()
        residual = once.residual(correction)
        diagonal = self.change.diagonal() - self.roots * correction.diagonal() + residual.diagonal() / 2
        higher = correction * (residual / 2 - self.change)
        roots = self.roots.double()
        trace = roots.sum() + roots @ diagonal.double() + (self.roots @ higher @ self.roots).double()
        twice = once._stepped(residual)
        return twice, float(trace - twice.root_trace(twice.correction(), roots))

    def _stepped(self, residual: Tensor) -> Expansion:
        """The expansion after a chord step, given its `residual` [r, r], which is overwritten."""
        step = residual.div_(self.sums())
        return Expansion(self.roots, self.change, step if self.second is None else step.add_(self.second))

    def chord_step_times(self, correction: Tensor, vectors: Tensor) -> Tensor:
        """What a chord step adds to N [r, r], times `vectors` [r, k], to 2 %.

        With 1 / (s_i + s_j) = sum_n w_n e_in e_jn, the step X_ij = E_ij / (s_i + s_j) is sum_n w_n e_n E e_n, where e_n
        is a diagonal matrix. So E is multiplied with a few vectors only, and neither E nor X is ever built.
        """
        r, count = vectors.shape
        decays, weights = self._exponentials()
        spread = (decays[:, :, None] * vectors[:, None, :]).view(r, -1)
        found = self._residual_times(correction, spread).view(r, -1, count)
        return (found * (decays * weights)[:, :, None]).sum(1)

    def root_trace(self, correction: Tensor, roots: Tensor) -> Tensor:
        """tr M^{1/2}, given `roots` = s in float64: to second order in D, and to third where S is known.

        Integrating d tr M^{1/2} = tr (N dM) / 2 from D = 0, with H linear and S quadratic in D, gives
        sum_i s_i + sum_i D_ii s_i / 2 + sum_ij D_ij s_i s_j (S_ij / 6 - H_ij / 4).
        """
        linear = (self.change.diagonal().double() * roots).sum() / 2
        both = correction * 3 if self.second is None else self._first().add_(correction, alpha=2)
        return roots.sum() + linear - (self.roots @ both.mul_(self.change) @ self.roots).double() / 12

    def _first(self) -> Tensor:
        """H [r, r]."""
        sums = self.sums()
        return torch.div(self.change, sums, out=sums)

    def _residual_times(self, correction: Tensor, vectors: Tensor) -> Tensor:
        """E times `vectors` [r, k], without building E."""
        roots = self.roots[:, None]
        turned = (correction @ vectors).mul_(roots)
        moved = self.change @ turned
        inner = (self.change @ vectors).sub_(turned).sub_(moved).mul_(roots)
        found = moved.addmm_(correction, inner)
        if self.second is None:
            return found
        return found.sub_((self.second @ vectors).mul_(roots)).addmm_(self.second, vectors * roots, alpha=-1)

    def _exponentials(self) -> tuple[Tensor, Tensor]:
        """e [r, n] and w [n] with 1 / (s_i + s_j) = sum_k w_k e_ik e_jk to 2 %, for all i and j."""
        scale = 2 * float(self.roots.max())
        ratio = 2 * float(self.roots.min()) / scale
        count = math.ceil((math.log(4 / ratio) + 4) / SPACING) + 1
        rates = (torch.arange(count, dtype=torch.float64) * SPACING - 4).exp().to(self.roots)
        return (-self.roots[:, None] / scale * rates).exp(), SPACING * rates / scale


def sketched_norm(expansion: Expansion, correction: Tensor, rows: Tensor, factor: Tensor, seed: int) -> float:
    """An estimate of |rows X factor^T|_F that is seldom too small, where X [r, r] is what a chord step would add to N.

    `rows` are [B, r] and `factor` is [d, r]. The signs are drawn from `seed`, so that a repeated step gives the same
    estimate. Two standard errors are added to the mean of the squares. They are small where many directions share the
    error, and large where a single direction holds it.
    """
    draw = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (factor.shape[0], PROBES), generator=draw).mul_(2).sub_(1).to(factor)
    found = rows @ expansion.chord_step_times(correction, factor.T @ signs)
    squares = found.double().square().sum(0)
    return math.sqrt(float(squares.mean() + 2 * squares.std() / PROBES**0.5))
