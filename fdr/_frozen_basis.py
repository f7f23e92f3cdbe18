"""The fast solver: between eigendecompositions the eigenbasis is frozen, and M^{-1/2} is followed to first order.

FD needs of the population only its mean, tr S_q and M = P^T S_q P, where P is any factor of the reference, P P^T = S_p.
At a refresh P is turned so that M = diag(s^2). From then on M = s (I + D) s with a small D, whose first-order effect on
M^{-1/2} solves a Sylvester equation that is elementwise in this basis:

    H_ij = D_ij / (s_i + s_j),   M^{-1/2} = 1/s - H,
    tr M^{1/2} = sum s + sum D_ii s_i / 2 - sum D_ij^2 s_i s_j / (s_i + s_j) / 4.

A step costs four products of B x d by d x d in float32 and nothing cubic in d. The error is estimated from the second
order, by one chord step on N M N = I, and a step whose estimate is too large is solved exactly instead, which is a
refresh. No covariance in the coordinates of the features is ever stored.

D is stored, never I + D: in float32, (1 - a) + a is not 1, and the difference would add up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fdr import linalg
from fdr._terms import AbstractTerm, Averaging, Weights, check_state
from fdr.transport import Diagnostics, Target, TermValue, frechet_distance_of

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 5e-4
"""Largest estimated relative error of a step's gradient; the estimate is right to some 20 %."""
MAX_CHANGE = 0.05
"""Largest |D|_F / sqrt(r) that the expansion is asked to bridge."""
MAX_AGE = 100
"""Steps after which the basis is refreshed in any case."""
CHECK_EVERY = 20
"""Steps between two estimates at most."""
ERROR_ORDER = 5
"""The error grows at most as this power of the age: under a steady drift D grows as age^2, and the error as D^2."""
OVERSHOOT = 1.4
"""Of the tolerance, the error foreseen for the step at which it is estimated next."""
SUDDEN = 1.5
"""How much faster than D under a steady drift the first-order correction may grow between two estimates."""
MAX_NOISE = 1e-2
"""Largest float32 rounding of a whitened feature that is let through."""


@dataclass(frozen=True)
class Advance:
    """How the moments move when a batch enters them."""

    averaging: Averaging
    share: float
    """a, of the batch in the population."""
    centred: Tensor
    """The batch about the old mean [B, d]."""
    shift: Tensor
    """Its mean [d]."""
    mean: Tensor
    """The new mean [d]."""
    trace: Tensor
    """The new tr S_q."""

    def recentred(self) -> Tensor:
        """The batch about the new mean, z - m_q [B, d]."""
        return self.centred - self.share * self.shift

    def moments(self, basis: Basis) -> FrozenMoments:
        """The population with the batch in it, given M."""
        return FrozenMoments(self.averaging, self.mean, self.trace, basis)


@dataclass(frozen=True)
class Plain:
    """M in float64, for states that no frozen basis describes: before the first step, singular, or in a fill."""

    factor: Tensor
    """P [d, r], float64; rows of 0 where the reference does not vary."""
    matrix: Tensor
    """M [r, r], float64; only the lower triangle counts."""

    def matrix64(self) -> Tensor:
        """M."""
        return self.matrix


@dataclass(frozen=True)
class Frozen:
    """M = s (I + D) s in a basis in which it was diagonal."""

    factor: Tensor
    """P [d, r], float64; rows of 0 where the reference does not vary."""
    roots: Tensor
    """s [r], float64."""
    change: Tensor
    """D [r, r], float32."""
    age: int = 0
    """Steps since the refresh."""
    due: int = 0
    """The age at which the error is estimated next."""
    limit: float = 0.0
    """The size of the first-order correction above which it is estimated before that."""

    def matrix64(self) -> Tensor:
        """M in float64."""
        matrix = self.change.double()
        matrix.diagonal().add_(1)
        return matrix.mul_(self.roots).mul_(self.roots[:, None])


Basis = Plain | Frozen


@dataclass(frozen=True)
class FrozenMoments:
    """A population: all that FD needs of it."""

    averaging: Averaging
    mean: Tensor
    """m_q [d], float64."""
    trace: Tensor
    """tr S_q, a float64 scalar."""
    basis: Basis
    """M."""

    def advance(self, rows: Tensor, averaging: Averaging, share: float) -> Advance:
        """How mean and trace move when `rows` [B, d] enter at `share`."""
        anchor = self.mean if self.averaging.weight > 0 else rows.mean(0)
        centred = rows - anchor
        shift = centred.mean(0)
        mean_square = centred.square().sum() / len(rows)
        trace = (1 - share) * self.trace + share * mean_square - share**2 * shift.square().sum()
        return Advance(averaging, share, centred, shift, anchor + share * shift, trace)


@dataclass(frozen=True)
class Step:
    """What a solve of either kind gives."""

    basis: Basis
    root_trace: Tensor
    moved: Tensor
    """(z - m_q) T [B, d], in the precision of the solve."""
    diagnostics: Diagnostics


def absorbed(basis: Basis, advance: Advance) -> tuple[Plain, Tensor]:
    """M with the batch in it, in float64, and the batch in its coordinates, (z - m_q) P [B, r]."""
    rows = advance.centred @ basis.factor
    shift = advance.shift @ basis.factor
    share = advance.share
    matrix = torch.addmm(basis.matrix64(), rows.T, rows, beta=1 - share, alpha=share / len(rows))
    matrix.addr_(shift, shift, alpha=-(share**2))
    return Plain(basis.factor, matrix), rows.sub_(shift, alpha=share)


def solve_plain(basis: Basis, advance: Advance) -> Step:
    """Exact: one eigendecomposition of M with the batch in it, in float64; a frozen basis where M allows one."""
    plain, rows = absorbed(basis, advance)
    values, vectors = linalg.eigh(plain.matrix)
    if len(values) and not values[0] > linalg.MIN_RATIO * values[-1]:
        graded = linalg.graded_eigh(plain.matrix)
        is_regular = graded is not None
        values, vectors = graded or (values, vectors)
    else:
        is_regular = len(values) > 0
    kept = values > (0 if is_regular else len(values) * linalg.EPS * values[-1:].clamp(min=0))
    roots = values.clamp(min=0).sqrt()
    turned = plain.factor @ vectors
    whitened = (rows @ vectors) * torch.where(kept, 1 / roots, 0)
    nothing = torch.zeros((), dtype=torch.float32, device=turned.device).expand_as(vectors)
    frozen = Frozen(turned, roots, nothing)
    noise = torch.finfo(torch.float32).eps * advance.trace.sqrt() * torch.linalg.vector_norm(turned, dim=0) / roots
    is_regular = is_regular and bool((noise <= MAX_NOISE).all())
    diagnostics = Diagnostics("refresh" if is_regular else "plain", refreshed=True)
    return Step(frozen if is_regular else plain, roots[kept].sum(), whitened @ turned.T, diagnostics)


def solve_frozen(basis: Frozen, advance: Advance, pull: Tensor) -> Step | None:
    """First order in the frozen basis, in float32; None where the step has to be exact.

    `pull` = m_q - m_p [d], which the gradient holds besides (z - m_q)(I - T): the estimate is relative to both.
    """
    if basis.age + 1 >= MAX_AGE:
        return None
    factor, roots = basis.factor.float(), basis.roots.float()
    share, size = advance.share, len(advance.centred)
    whitened = (advance.centred.float() @ factor).div_(roots)
    shift = (advance.shift @ basis.factor / basis.roots).float()
    change = torch.addmm(basis.change, whitened.T, whitened, beta=1 - share, alpha=share / size)
    change.diagonal().sub_(share)
    change.addr_(shift, shift, alpha=-(share**2))
    if not float(torch.linalg.matrix_norm(change)) <= MAX_CHANGE * len(roots) ** 0.5:
        return None
    whitened.sub_(shift, alpha=share)
    sums = roots + roots[:, None]
    first = change / sums
    scaled = whitened * roots
    correction = scaled @ first
    lengths = torch.linalg.vector_norm(factor, dim=0)
    correction_size = float(torch.linalg.norm(correction * lengths) / torch.linalg.norm(whitened * lengths))
    moved = (whitened - correction) @ factor.T
    after = dataclasses.replace(basis, change=change, age=basis.age + 1)
    estimate = None
    if after.age >= basis.due or correction_size > basis.limit:
        second = (scaled @ _second_order(change, first, roots, sums)) @ factor.T
        moved += second
        whole = advance.recentred().float().add_(pull.float()).sub_(moved)
        estimate = float(torch.linalg.norm(second) / torch.linalg.norm(whole))
        if not estimate <= TOLERANCE:
            return None
        due = after.age * (OVERSHOOT * TOLERANCE / max(estimate, 1e-12)) ** (1 / ERROR_ORDER)
        due = min(max(round(due), after.age + 1), after.age + CHECK_EVERY)
        limit = SUDDEN * correction_size * (due / after.age) ** 2
        after = dataclasses.replace(after, due=due, limit=limit)
    route = "frozen" if estimate is None else "frozen-2"
    root_trace = _root_trace(basis.roots, change, first)
    return Step(after, root_trace, moved, Diagnostics(route, estimate))


def _second_order(change: Tensor, first: Tensor, roots: Tensor, sums: Tensor) -> Tensor:
    """What to add to M^{-1/2} = 1/s - H [r, r]: E / (s_i + s_j) with the residual E = I - N M N.

    With W = H s and W + W^T = D, the first order cancels in closed form: E = W D + (W D)^T - (W + W D) W^T.
    """
    scaled = first * roots
    product = scaled @ change
    return (product + product.T - (scaled + product) @ scaled.T) / sums


def _root_trace(roots: Tensor, change: Tensor, first: Tensor) -> Tensor:
    """tr M^{1/2} to second order, in float64."""
    linear = (change.diagonal().double() * roots).sum() / 2
    weights = roots.float()
    return roots.sum() + linear - (weights @ (change * first) @ weights).double() / 4


class FastEmaTerm(AbstractTerm):
    """Exponentially averaged moments in a frozen basis: P in float64 and D in float32, 1.5 d^2 float64 in all.

    A pending step adds D, 0.5 d^2, or P, d^2, where it refreshed.
    """

    def __init__(self, target: Target, is_unit: bool, beta: float) -> None:
        left, roots, _ = linalg.svd(target.factor)
        rank = len(roots)
        factor = left.new_zeros(target.dim, rank)
        factor[target.columns] = left * roots  # graded, so that M keeps the digits of its small eigenvalues
        super().__init__(
            dataclasses.replace(target, factor=torch.empty_like(target.factor[:0])), is_unit
        )  # the basis holds its own
        self.beta = beta
        empty = Plain(factor, factor.new_zeros(rank, rank))
        self.moments = FrozenMoments(Averaging(), torch.zeros_like(target.mean), factor.new_zeros(()), empty)
        self.pending: FrozenMoments | None = None

    def commit(self) -> None:
        self.moments, self.pending = self.pending or self.moments, None

    def discard(self) -> None:
        self.pending = None

    def state_dict(self) -> dict[str, Tensor]:
        moments, basis = self.moments, self.moments.basis
        state = {"mean": moments.mean, "trace": moments.trace, "factor": basis.factor, **moments.averaging.state()}
        if isinstance(basis, Plain):
            return state | {"matrix": basis.matrix}
        schedule = torch.tensor([basis.age, basis.due, basis.limit], dtype=torch.float64)
        return state | {"roots": basis.roots, "change": basis.change.contiguous(), "schedule": schedule}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        check_state(state, self._expected(is_frozen="change" in state))
        own = {name: value.to(self.device, copy=True) for name, value in state.items()}
        if "matrix" in own:
            basis: Basis = Plain(own["factor"], own["matrix"])
        else:
            age, due, limit = state["schedule"].tolist()
            basis = Frozen(own["factor"], own["roots"], own["change"], int(age), int(due), limit)
        self.moments, self.pending = FrozenMoments(Averaging.of(state), own["mean"], own["trace"], basis), None

    def _expected(self, is_frozen: bool) -> dict[str, Tensor]:
        """A state of the right names, shapes and dtypes, of no memory."""
        r = self.moments.basis.factor.shape[1]
        zero, shapes = torch.zeros((), dtype=torch.float64), {"mean": (self.dim,), "trace": (), "factor": (self.dim, r)}
        expected = {name: zero.expand(shape) for name, shape in shapes.items()} | self.moments.averaging.state()
        if not is_frozen:
            return expected | {"matrix": zero.expand(r, r)}
        return expected | {"roots": zero.expand(r), "change": zero.float().expand(r, r), "schedule": zero.expand(3)}

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
        centred = advance.recentred().to(step.moved.dtype)
        gradient = weights.gradient(self.target, advance.mean, centred, step.moved, self.is_unit)
        self.pending = advance.moments(step.basis)
        return TermValue(fd, gradient, step.diagnostics)
