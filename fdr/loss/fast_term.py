"""The population that is an exponential average, for the fast solver (`frozen_basis.py`)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fdr import frechet
from fdr.loss.ema_term import AbstractEmaTerm, Average, Entry, with_squares
from fdr.loss.frozen_basis import Basis, Frozen, Plain, Schedule, absorbed, solve_frozen, solve_plain
from fdr.loss.lag import Carry
from fdr.loss.options import EmaPopulation
from fdr.loss.terms import TermValue, check_state
from fdr.loss.transport import Target

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BasisMoments:
    """A population, as far as FD depends on it: m_q in the average, tr S_q, and M = P^T S_q P."""

    average: Average
    trace: Tensor
    """tr S_q, a float64 scalar."""
    basis: Basis
    """M, frozen or not."""
    excess: float = math.nan
    """`debiased_value.excess_of` the last step that had eigenvalues; NaN before the first."""


class FastEmaTerm(AbstractEmaTerm):
    """Exponentially averaged moments in a frozen basis. P [d, r] and D [r, r] are those of `frozen_basis.py`.

    Memory, in units of d^2 float64 numbers: the committed population holds 1.5 (P in 48 bits, D in float32), and 0.5
    more once chord steps have been made. A pending step adds 0.5 for D and 0.5 for the result of chord steps, or 1 for
    P where it is a refresh. The most is 3.

    `first_life` is the share of the usual life after which the first basis is refreshed, so that terms that begin
    together refresh at different steps.
    """

    def __init__(self, target: Target, is_unit: bool, population: EmaPopulation, first_life: float = 1.0) -> None:
        left, roots, _ = frechet.svd(target.factor)
        rank = len(roots)
        factor = left.new_zeros(target.dim, rank)
        factor[target.columns] = left * roots  # graded, so that M keeps the digits of its small eigenvalues
        without_factor = dataclasses.replace(target, factor=torch.empty_like(target.factor[:0]))
        super().__init__(without_factor, is_unit, population)
        empty = Plain(factor, factor.new_zeros(rank, rank), first_life)
        self.moments = BasisMoments(Average(torch.zeros_like(target.mean)), factor.new_zeros(()), empty)

    @property
    def rank(self) -> int:
        return self.moments.basis.rank

    def state_dict(self) -> dict[str, Tensor]:
        moments, basis = self.moments, self.moments.basis
        state = {"trace": moments.trace, **moments.average.state()}
        if not math.isnan(moments.excess):
            state["excess"] = torch.tensor(moments.excess, dtype=torch.float64)
        if isinstance(basis, Plain):
            life = torch.tensor(basis.life, dtype=torch.float64)
            return state | {"factor": basis.factor, "matrix": basis.matrix, "life": life}
        schedule = torch.tensor(dataclasses.astuple(basis.schedule), dtype=torch.float64)
        state |= {"factor": basis.high, "factor_low": basis.low, "lengths": basis.lengths}
        state |= {"roots": basis.roots, "change": basis.change.contiguous(), "schedule": schedule}
        return state if basis.second is None else state | {"second": basis.second}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        state = with_squares(state)
        check_state(state, self._expected(state))
        own = {name: value.to(self.device, copy=True) for name, value in state.items()}
        if "matrix" in own:
            basis: Basis = Plain(own["factor"], own["matrix"], float(state["life"]))
        else:
            schedule = Schedule.of(state["schedule"])
            factor = own["factor"], own["factor_low"], own["lengths"]
            basis = Frozen(*factor, own["roots"], own["change"], own.get("second"), schedule)
        self.moments, self.pending = (
            BasisMoments(Average.of(own), own["trace"], basis, float(own.get("excess", math.nan))),
            None,
        )

    def _expected(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state with the right names, shapes and dtypes, with the optional parts of `state`; it takes no memory."""
        d, r = self.dim, self.moments.basis.rank
        wide, narrow = torch.zeros((), dtype=torch.float64), torch.zeros(())
        expected = {"trace": wide, **self.moments.average.state()}
        expected |= {name: wide for name in ("excess",) if name in state}
        if "change" not in state:
            return expected | {"factor": wide.expand(d, r), "matrix": wide.expand(r, r), "life": wide}
        expected |= {"factor": narrow.expand(d, r), "factor_low": narrow.expand(d, r), "lengths": narrow.expand(r)}
        expected |= {"roots": wide.expand(r), "change": narrow.expand(r, r)}
        expected |= {"schedule": wide.expand(len(dataclasses.fields(Schedule)))}
        return expected | {name: narrow.expand(r, r) for name in ("second",) if name in state}

    def _with(self, entry: Entry) -> BasisMoments:
        return BasisMoments(entry.average, self._traces(entry)[1], absorbed(self.moments.basis, entry)[0])

    def _carried(self, carry: Carry) -> BasisMoments:
        moments = self.moments
        average = dataclasses.replace(moments.average, mean=carry.mean)
        return BasisMoments(average, carry.moved_trace(moments.trace), _carried_basis(moments.basis, carry))

    def _traces(self, entry: Entry) -> tuple[Tensor, Tensor]:
        """tr S_q with the batch in it, (1 - a) tr S_q + a |X|_F^2 / B - a^2 |e|^2, for both shares of `entry`."""
        mean_square = torch.linalg.vector_norm(entry.centred).square() / len(entry.centred)
        shift = entry.shift.square().sum()
        seen, kept = (
            (1 - share) * self.moments.trace + share * mean_square - share**2 * shift
            for share in (entry.share, entry.kept)
        )
        return seen, kept

    def _evaluate(self, rows: Tensor) -> TermValue:
        entry = self.stepped(rows)
        trace, kept_trace = self._traces(entry)
        basis, solved = self.moments.basis, None
        if isinstance(basis, Frozen):
            solved = solve_frozen(basis, entry, entry.mean - self.target.mean)
        basis, found = solved or solve_plain(basis, entry, trace, has_floor=self.lag_correction > 0)
        excess = self.moments.excess if found.roots is None else self._excess(entry, found)
        value = self._value_of(entry, trace, entry.recentred(found.moved.dtype), found, excess)
        self.pending = BasisMoments(entry.average, kept_trace, basis, excess)
        return value


def _carried_basis(basis: Basis, carry: Carry) -> Basis:
    """M of a history that is carried along (`lag.py`); a frozen basis moves D, in float32."""
    if isinstance(basis, Plain):
        return dataclasses.replace(basis, matrix=carry.moved(basis.matrix, basis.factor))
    roots = basis.roots.float()
    change, middle = ((rows.float() @ basis.high).div_(roots) for rows in (carry.change, carry.middle))
    product = change.T @ middle / len(change)
    return dataclasses.replace(basis, change=basis.change + product + product.T)
