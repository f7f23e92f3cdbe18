"""M^{-1/2} of M = s (I + D) s near diagonal: to first order, to the next one, and how far off that is. float32.

Of an approximation N = 1/s - G with a symmetric G, the residual E = I - N M N (E [r, r], 0 where N = M^{-1/2}) is

    E = (W D + D W^T - W W^T - W D W^T) + (W + W^T - D),   W = G s (the columns scaled),

and one chord step adds E_ij / (s_i + s_j) to N, which solves the Sylvester equation of the derivative at D = 0. From
N = 1/s it gives the first order, H_ij = D_ij / (s_i + s_j), for which the last bracket of E cancels. So with G = H - S
the bracket is -S_ij (s_i + s_j), without rounding, and no term of E is of the size of D.

What a chord step would still change is had without it, from products with few vectors: 1 / (s_i + s_j) is a short sum
of products of exponentials (the trapezoidal rule on int exp(t - (s_i + s_j) e^t) dt), and random signs q give
|A|_F^2 = E |A q|^2 for any A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 512
"""Columns of a symmetric product that are computed at a time, from the diagonal downwards; the rest is mirrored."""
SPACING = 1.5
"""Of the trapezoidal rule in t = log of the rate: 2 % of 1 / (s_i + s_j) at most, its ends included."""
PROBES = 8
"""Random sign vectors of an estimate; its relative standard error is at most 1 / sqrt(2 PROBES)."""


def absorbed_change(change: Tensor, whitened: Tensor, shift: Tensor, share: float) -> Tensor:
    """(1 - a) D + a (Z^T Z / B - I) - a^2 e e^T [r, r], of rows Z [B, r] about the old mean and their mean e [r]."""
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
    """An approximation of M^{-1/2}: N = 1/s - G."""

    roots: Tensor
    """s [r]."""
    change: Tensor
    """D [r, r]."""
    second: Tensor | None = None
    """S [r, r], the part of N that is not the first order, or None for 0."""

    def sums(self) -> Tensor:
        """s_i + s_j [r, r]."""
        return self.roots + self.roots[:, None]

    def correction(self) -> Tensor:
        """G = H - S [r, r]."""
        first = self._first()
        return first if self.second is None else first.sub_(self.second)

    def residual(self, correction: Tensor) -> Tensor:
        """E [r, r]; two products of d^3, given `correction`()."""
        scaled = correction * self.roots
        product = scaled @ self.change
        found = product + product.T - (scaled + product) @ scaled.T
        return found if self.second is None else found.sub_(self.second * self.sums())

    def after_chord_steps(self, correction: Tensor) -> tuple[Expansion, float]:
        """After two of them, and what `root_trace` then lacks; four products of d^3.

        tr M^{1/2} = tr M N + tr M^{1/2} E / 2 up to the square of the error of N, which is of third order in D after
        the first of them; in the second term, M^{1/2} = s + s G s does.
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
        """After a chord step."""
        step = residual.div_(self.sums())
        return Expansion(self.roots, self.change, step if self.second is None else step.add_(self.second))

    def chord_step_times(self, correction: Tensor, vectors: Tensor) -> Tensor:
        """What a chord step adds to N, times `vectors` [r, k]: to 2 %, by products of d x d with few vectors."""
        r, count = vectors.shape
        decays, weights = self._exponentials()
        spread = (decays[:, :, None] * vectors[:, None, :]).view(r, -1)
        found = self._residual_times(correction, spread).view(r, -1, count)
        return (found * (decays * weights)[:, :, None]).sum(1)

    def root_trace(self, correction: Tensor, roots: Tensor) -> Tensor:
        """tr M^{1/2} with s in float64: to second order in D, and to third where S is known.

        d tr M^{1/2} = tr N dM / 2, integrated along D: sum s + sum D_ii s_i / 2 + sum D_ij s_i s_j (S / 6 - H / 4)_ij.
        """
        linear = (self.change.diagonal().double() * roots).sum() / 2
        both = correction * 3 if self.second is None else self._first().add_(correction, alpha=2)
        return roots.sum() + linear - (self.roots @ both.mul_(self.change) @ self.roots).double() / 12

    def _first(self) -> Tensor:
        """H [r, r]."""
        sums = self.sums()
        return torch.div(self.change, sums, out=sums)

    def _residual_times(self, correction: Tensor, vectors: Tensor) -> Tensor:
        """E times `vectors` [r, k]."""
        roots = self.roots[:, None]
        turned = (correction @ vectors).mul_(roots)
        moved = self.change @ turned
        inner = (self.change @ vectors).sub_(turned).sub_(moved).mul_(roots)
        found = moved.addmm_(correction, inner)
        if self.second is None:
            return found
        return found.sub_((self.second @ vectors).mul_(roots)).addmm_(self.second, vectors * roots, alpha=-1)

    def _exponentials(self) -> tuple[Tensor, Tensor]:
        """e [r, n] and w [n] with 1 / (s_i + s_j) = sum_k w_k e_ik e_jk to 2 %."""
        scale = 2 * float(self.roots.max())
        ratio = 2 * float(self.roots.min()) / scale
        count = math.ceil((math.log(4 / ratio) + 4) / SPACING) + 1
        rates = (torch.arange(count, dtype=torch.float64) * SPACING - 4).exp().to(self.roots)
        return (-self.roots[:, None] / scale * rates).exp(), SPACING * rates / scale


def sketched_norm(expansion: Expansion, correction: Tensor, rows: Tensor, factor: Tensor, seed: int) -> float:
    """|rows X factor^T|_F of what a chord step adds, X, and rows [B, r], factor [d, r]: estimated, seldom too small.

    The signs are drawn from `seed`, so that the same steps give the same estimates. Two standard errors of the square
    are added, as far as the probes show them: little where many directions share the error, much where one has it.
    """
    draw = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (factor.shape[0], PROBES), generator=draw).mul_(2).sub_(1).to(factor)
    found = rows @ expansion.chord_step_times(correction, factor.T @ signs)
    squares = found.double().square().sum(0)
    return math.sqrt(float(squares.mean() + 2 * squares.std() / PROBES**0.5))
