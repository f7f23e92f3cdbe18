"""The conditional term of FD-loss: how far the mean of every class is from that of the reference, with its gradient.

The marginal FD does not see labels: a generator that swaps two classes has the same FD, and its gradient is 0 there.
The gradient of the term is scaled to a ratio of that of FD. Where the two oppose each other, as on the way of two
classes that pass through each other, they would cancel at a ratio of 1, so the ratio should be above 1.

Symbols: p_c [d] is the mean of class c in the reference, pi_c the share of the class, P [d, d] the inverse of the
shrunk covariance within classes (`class_target.py`). Sample a of the population has the weight w_a and the
features z_a. Over the samples of class c, with x_a = z_a - p_c,

    N_c = sum w_a,    s_c = sum w_a x_a,    V_c = sum w_a^2,    Q_c = sum w_a^2 x_a^T P x_a,
    U_c = (s_c^T P s_c - Q_c) / (N_c^2 - V_c),        the term is C = sum pi_c U_c.

U_c is the mean over all pairs of *different* samples of x_a^T P x_b, weighted by w_a w_b. So it estimates
(m_c - p_c)^T P (m_c - p_c) without bias, however few samples a class has, and so does its gradient

    dC/dz_a = 2 pi_c w_a P (s_c - w_a x_a) / (N_c^2 - V_c).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch

from fdr.loss.class_target import ClassTarget
from fdr.loss.options import EmaPopulation, Population, QueuePopulation
from fdr.loss.terms import FILL_BLOCK, ClassValue, check_not_stepped, check_state

if TYPE_CHECKING:
    from torch import Tensor

    from fdr.loss.terms import TermValue

RATIO_DECAY = 0.9
"""Decay per step of the averages of the two squared gradient norms, whose ratio scales the conditional term.

Raising it makes the scale steadier, and slower to follow the generator.
"""


@dataclass(frozen=True)
class ClassAverage:
    """The population of every class: weighted sums whose weights add up to 1 over all classes."""

    counts: Tensor
    """N_c [C]."""
    shifts: Tensor
    """s_c [C, d]."""
    squares: Tensor
    """V_c [C]."""
    own: Tensor
    """Q_c [C]."""
    weight: Tensor
    """1 - beta^t as in `ema_term.Average`, or 1 after a fill; a scalar."""
    num_filled: Tensor
    num_steps: Tensor
    marginal: Tensor
    """The averaged squared norm of the gradient of FD; a scalar."""
    conditional: Tensor
    """The averaged squared norm of the gradient of C; a scalar."""

    @classmethod
    def empty(cls, target: ClassTarget) -> ClassAverage:
        """The population before its first sample."""
        one = torch.zeros_like(target.shares)
        zero, number = one.new_zeros(()), torch.zeros((), dtype=torch.int64)
        return cls(one, torch.zeros_like(target.means), one, one, zero, number, number, zero, zero)

    def entered(self, sums: tuple[Tensor, ...], share: float, each: float) -> ClassAverage:
        """The population once samples of weight `each` have entered that make up `share` of it.

        `sums` are the counts [C], the sums of x [C, d] and the sums of x^T P x [C] of the samples.
        """
        counts, shifts, squares = sums
        kept = 1 - share
        return replace(
            self,
            counts=kept * self.counts + each * counts,
            shifts=kept * self.shifts + each * shifts,
            squares=kept**2 * self.squares + each**2 * counts,
            own=kept**2 * self.own + each**2 * squares,
        )


class ClassTerm:
    """The conditional term of one encoder: its population of class means, and its scale.

    A batch enters as in `AbstractTerm`: `joined` keeps it pending until `commit` or `discard`.
    """

    def __init__(self, target: ClassTarget, ratio: float, population: Population) -> None:
        self.target, self.ratio, self.population = target, ratio, population
        self.sums = ClassAverage.empty(target)
        self.pending: ClassAverage | None = None

    def fill(self, features: Tensor, labels: Tensor) -> None:
        """Add features [n, d] of the classes `labels` [n] to the initial population."""
        check_not_stepped(int(self.sums.num_steps))
        self.discard()
        for rows, own in zip(features.split(FILL_BLOCK), labels.split(FILL_BLOCK), strict=True):
            total = int(self.sums.num_filled) + len(rows)
            sums, _, _ = self._sums(rows, own)
            grown = self.sums.entered(sums, len(rows) / total, 1 / total)
            one = torch.ones_like(grown.weight)
            self.sums = replace(grown, weight=one, num_filled=torch.tensor(total))

    def joined(self, value: TermValue, features: Tensor, labels: Tensor) -> TermValue:
        """`value` of the marginal term for this batch [B, d], with the conditional term and its scaled gradient."""
        beta = decay_of(self.population, len(features))
        weight = beta * self.sums.weight + (1 - beta)
        share = float((1 - beta) / weight)
        each = share / len(features)
        sums, moved, labels = self._sums(features, labels)
        entered = self.sums.entered(sums, share, each)
        pairs = entered.counts.square() - entered.squares
        has_pairs = pairs > 1e-9 * entered.counts.square()
        factor = torch.where(has_pairs, self.target.shares / pairs, 0)
        pulled = entered.shifts @ self.target.precision
        found = float((factor * ((entered.shifts * pulled).sum(1) - entered.own)).sum())
        gradient = (pulled[labels] - each * moved).mul_((2 * each * factor)[labels, None])
        self.pending = self._followed(entered, weight, value.gradient, gradient)
        scale = self._scale(self.pending)
        whole = value.gradient + scale * gradient.to(value.gradient.device, value.gradient.dtype)
        return replace(value, gradient=whole, classes=ClassValue(found, scale))

    def commit(self) -> None:
        """Let the pending batch enter the population; it does nothing where no batch is pending."""
        self.sums, self.pending = self.pending or self.sums, None

    def discard(self) -> None:
        """Drop the pending batch."""
        self.pending = None

    def state_dict(self) -> dict[str, Tensor]:
        """The committed population and the averaged norms, as tensors."""
        return {field.name: getattr(self.sums, field.name) for field in fields(ClassAverage)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state_dict` gave, bit for bit."""
        check_state(state, self.state_dict())
        device = self.target.shares.device
        own = {
            name: value.to(device if value.is_floating_point() else "cpu", copy=True) for name, value in state.items()
        }
        self.sums, self.pending = ClassAverage(**own), None

    def _sums(self, features: Tensor, labels: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """The sums that `ClassAverage.entered` takes, the rows P x [n, d], and the labels on the term's device."""
        target = self.target
        labels = labels.to(target.shares.device, torch.int64)
        rows = features.detach().to(target.shares.device, torch.float64) - target.means[labels]
        moved = rows @ target.precision
        one_hot = torch.nn.functional.one_hot(labels, len(target.shares)).to(rows.dtype)
        return (one_hot.sum(0), one_hot.T @ rows, one_hot.T @ (rows * moved).sum(1)), moved, labels

    def _followed(self, sums: ClassAverage, weight: Tensor, marginal: Tensor, conditional: Tensor) -> ClassAverage:
        """`sums` after the step, with the squared norms of the two gradients averaged in."""
        old, new = RATIO_DECAY, 1 - RATIO_DECAY
        norms = (gradient.double().square().sum().to(weight.device) for gradient in (marginal, conditional))
        averaged = [
            old * before + new * now for before, now in zip((sums.marginal, sums.conditional), norms, strict=True)
        ]
        return replace(sums, weight=weight, num_steps=sums.num_steps + 1, marginal=averaged[0], conditional=averaged[1])

    def _scale(self, sums: ClassAverage) -> float:
        """ratio |dFD/dz| / |dC/dz|, root mean squares over recent steps; 0 where C has no gradient."""
        if not float(sums.conditional) > 0:
            return 0.0
        return self.ratio * float((sums.marginal / sums.conditional).sqrt())


def decay_of(population: Population, batch_size: int) -> float:
    """The decay per batch of the class means that go with `population`.

    A queue of n samples has an EMA of as many effective samples, B (1 + beta) / (1 - beta) = n, so that the sums need
    not keep single samples. A batch alone has 0.
    """
    if isinstance(population, EmaPopulation):
        return population.beta
    if isinstance(population, QueuePopulation):
        return max(0.0, (population.size - batch_size) / (population.size + batch_size))
    return 0.0
