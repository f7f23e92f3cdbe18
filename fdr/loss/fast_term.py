"""The term that uses the fast solver (`frozen_basis.py`) for a population that is an exponential average."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from fdr import frechet
from fdr.loss.frozen_basis import Basis, Frozen, FrozenMoments, Plain, Schedule, absorbed, solve_frozen, solve_plain
from fdr.loss.terms import AbstractTerm, Averaging, Weights, check_state
from fdr.loss.transport import Target, TermValue, frechet_distance_of

if TYPE_CHECKING:
    from torch import Tensor


class FastEmaTerm(AbstractTerm):
    """Exponentially averaged moments in a frozen basis. P [d, r] and D [r, r] are those of `frozen_basis.py`.

    Memory, in units of d^2 float64 numbers: the committed population holds 1.5 (P in 48 bits, D in float32), and 0.5
    more once chord steps have been made. A pending step adds 0.5 for D and 0.5 for the result of chord steps, or 1 for
    P where it is a refresh. The most is 3.

    `first_life` is the share of the usual life after which the first basis is refreshed, so that terms that begin
    together refresh at different steps.
    """

    def __init__(self, target: Target, is_unit: bool, beta: float, first_life: float = 1.0) -> None:
        left, roots, _ = frechet.svd(target.factor)
        rank = len(roots)
        factor = left.new_zeros(target.dim, rank)
        factor[target.columns] = left * roots  # graded, so that M keeps the digits of its small eigenvalues
        super().__init__(
            dataclasses.replace(target, factor=torch.empty_like(target.factor[:0])), is_unit
        )  # the basis holds its own
        self.beta = beta
        empty = Plain(factor, factor.new_zeros(rank, rank), first_life)
        self.moments = FrozenMoments(Averaging(), torch.zeros_like(target.mean), factor.new_zeros(()), empty)
        self.pending: FrozenMoments | None = None

    def commit(self) -> None:
        self.moments, self.pending = self.pending or self.moments, None

    def discard(self) -> None:
        self.pending = None

    def state_dict(self) -> dict[str, Tensor]:
        moments, basis = self.moments, self.moments.basis
        state = {"mean": moments.mean, "trace": moments.trace, **moments.averaging.state()}
        if isinstance(basis, Plain):
            life = torch.tensor(basis.life, dtype=torch.float64)
            return state | {"factor": basis.factor, "matrix": basis.matrix, "life": life}
        schedule = torch.tensor(dataclasses.astuple(basis.schedule), dtype=torch.float64)
        state |= {"factor": basis.high, "factor_low": basis.low, "lengths": basis.lengths}
        state |= {"roots": basis.roots, "change": basis.change.contiguous(), "schedule": schedule}
        return state if basis.second is None else state | {"second": basis.second}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        check_state(state, self._expected(state))
        own = {name: value.to(self.device, copy=True) for name, value in state.items()}
        if "matrix" in own:
            basis: Basis = Plain(own["factor"], own["matrix"], float(state["life"]))
        else:
            schedule = Schedule.of(state["schedule"])
            factor = own["factor"], own["factor_low"], own["lengths"]
            basis = Frozen(*factor, own["roots"], own["change"], own.get("second"), schedule)
        self.moments, self.pending = FrozenMoments(Averaging.of(state), own["mean"], own["trace"], basis), None

    def _expected(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state with the right names, shapes and dtypes, with the optional parts of `state`; it takes no memory."""
        d, r = self.dim, self.moments.basis.rank
        wide, narrow = torch.zeros((), dtype=torch.float64), torch.zeros(())
        expected = {"mean": wide.expand(d), "trace": wide, **self.moments.averaging.state()}
        if "change" not in state:
            return expected | {"factor": wide.expand(d, r), "matrix": wide.expand(r, r), "life": wide}
        expected |= {"factor": narrow.expand(d, r), "factor_low": narrow.expand(d, r), "lengths": narrow.expand(r)}
        expected |= {"roots": wide.expand(r), "change": narrow.expand(r, r)}
        expected |= {"schedule": wide.expand(len(dataclasses.fields(Schedule)))}
        return expected | {name: narrow.expand(r, r) for name in ("second",) if name in state}

    def _fill(self, rows: Tensor) -> None:
        self.discard()
        advance = self.moments.advance(rows, *self.moments.averaging.filled(len(rows)))
        plain, _ = absorbed(self.moments.basis, advance)
        self.moments = advance.moments(plain)

    def _evaluate(self, rows: Tensor) -> TermValue:
        advance = self.moments.advance(rows, *self.moments.averaging.stepped(self.beta))
        basis, step = self.moments.basis, None
        if isinstance(basis, Frozen):
            step = solve_frozen(basis, advance, advance.mean - self.target.mean)
        if step is None:
            step = solve_plain(basis, advance)
        fd = frechet_distance_of(self.target, advance.mean, advance.trace, step.root_trace)
        weights = Weights(advance.share / len(rows), advance.share / len(rows), advance.share)
        centred = advance.recentred(step.moved.dtype)
        gradient = weights.gradient(self.target, advance.mean, centred, step.moved, self.is_unit)
        self.pending = advance.moments(step.basis)
        return TermValue(fd, gradient, step.diagnostics)
