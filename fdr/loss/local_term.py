"""The terms of the solver "local": the quadratic loss of `quadratic.py` over an exponential average or the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from fdr.frechet import Moments
from fdr.loss.ema_term import AbstractEmaTerm, Average, Entry, FullMoments
from fdr.loss.lag import Carry
from fdr.loss.options import BatchPopulation, EmaPopulation, Population
from fdr.loss.quadratic import Quadratic, Sample, batch_gradient, leave_one_out, unbiased_loss
from fdr.loss.terms import AbstractBatchTerm, TermValue, check_state
from fdr.loss.transport import Diagnostics, Target

if TYPE_CHECKING:
    from torch import Tensor


def make_local(
    target: Target, is_unit: bool, population: Population, reference: Moments, rho: float
) -> LocalEmaTerm | LocalBatchTerm:
    """The term of a population."""
    if isinstance(population, EmaPopulation):
        return LocalEmaTerm(target, is_unit, population, reference, rho)
    assert isinstance(population, BatchPopulation)
    return LocalBatchTerm(target, is_unit, reference, rho)


class LocalEmaTerm(AbstractEmaTerm):
    """The quadratic loss of exponentially averaged moments, which are kept in the eigenbasis of the reference.

    Products run in the precision of the features, sums over batches in float64. The state is 2 d^2 + 2 d float64
    numbers, of which d^2 are the eigenbasis: on another machine the decomposition would give other signs.
    """

    in_own_precision = True

    def __init__(
        self, target: Target, is_unit: bool, population: EmaPopulation, reference: Moments, rho: float
    ) -> None:
        super().__init__(_without_factor(target), is_unit, population)
        self.rho, self.quadratic = rho, Quadratic.of(reference, rho, self.device)
        zeros = torch.zeros_like(target.mean)
        self.moments = FullMoments(Average(zeros), zeros.new_zeros(self.dim, self.dim))

    @property
    def rank(self) -> int:
        return int((self.quadratic.values > 0).sum())

    def state_dict(self) -> dict[str, Tensor]:
        own = {"basis": self.quadratic.basis, "values": self.quadratic.values, "sigma": self.moments.sigma}
        return {**own, **self.moments.average.state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        check_state(state, self.state_dict())
        own = {name: value.to(self.device, copy=True) for name, value in state.items()}
        self.quadratic = Quadratic.around(own["basis"], own["values"], self.rho)
        self.moments, self.pending = FullMoments(Average.of(own), own["sigma"]), None

    def _turned(self, rows: Tensor) -> Tensor:
        return self.quadratic.turned(rows, self.target.mean)

    def _with(self, entry: Entry) -> FullMoments:
        return self._grown(entry, entry.centred)

    def _grown(self, entry: Entry, rows: Tensor) -> FullMoments:
        """The moments with the batch of `entry`, whose centred rows are given in the precision of the product."""
        sigma = self.moments.sigma * (1 - entry.share)
        sigma.add_(rows.T @ rows, alpha=entry.share / len(rows))
        return FullMoments(entry.average, sigma.addr_(entry.shift, entry.shift, alpha=-(entry.share**2)))

    def _carried(self, carry: Carry) -> FullMoments:
        return FullMoments(replace(self.moments.average, mean=carry.mean), carry.moved(self.moments.sigma))

    def _evaluate(self, rows: Tensor) -> TermValue:
        entry = self.stepped(self._turned(rows).double())
        moments = self._grown(entry, entry.centred.to(rows.dtype))
        sample = Sample.of(self.quadratic, entry.recentred(rows.dtype), entry.mean, moments.sigma, entry.squares)
        weight = entry.share / len(rows)
        gradient = leave_one_out(self.quadratic, sample, weight)
        self.pending = moments
        value = _value(self.quadratic, sample, gradient, 1 / len(rows) if self.is_unit else weight)
        return replace(value, fd_debiased=None) if self.lag_correction else value


class LocalBatchTerm(AbstractBatchTerm):
    """The quadratic loss of the batch alone, without bias and without a state."""

    in_own_precision = True

    def __init__(self, target: Target, is_unit: bool, reference: Moments, rho: float) -> None:
        super().__init__(_without_factor(target), is_unit)
        self.quadratic = Quadratic.of(reference, rho, self.device)

    def _evaluate(self, rows: Tensor) -> TermValue:
        turned, count = self.quadratic.turned(rows, self.target.mean), len(rows)
        mean = turned.mean(0)
        centred = turned.sub_(mean)
        biased = (centred.T @ centred).double() / count
        sample = Sample.of(self.quadratic, centred, mean.double(), biased, 1 / count)
        return _value(self.quadratic, sample, batch_gradient(self.quadratic, sample), 1 / count)


def _value(quadratic: Quadratic, sample: Sample, gradient: Tensor, weight: float) -> TermValue:
    """The loss with and without bias, and `gradient` [B, d] at unit weight, times `weight` and turned back."""
    unbiased, loss = unbiased_loss(quadratic, sample)
    return TermValue(
        loss,
        gradient.mul_(weight) @ quadratic.basis.T.to(gradient.dtype),
        Diagnostics("local"),
        fd_debiased=float(unbiased),
    )


def _without_factor(target: Target) -> Target:
    return replace(target, factor=torch.empty_like(target.factor[:0]))
