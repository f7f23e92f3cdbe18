"""The fast solver: between eigendecompositions the eigenbasis is frozen, and M^{-1/2} is followed to first order.

FD needs of the population only its mean, tr S_q and M = P^T S_q P, where P is any factor of the reference, P P^T = S_p.
At a refresh P is turned so that M = diag(s^2). From then on M = s (I + D) s with a small D, and M^{-1/2} is expanded
in it (`expansion.py`): the first order is elementwise in this basis. A step costs three products of B x d by d x d
and half of one of d x B by B x d, in float32, and nothing cubic in d.

The error is estimated where it is due. Where the estimate is too large, chord steps (four products d x d x d in
float32) give the higher orders. They are kept: later steps scale them as |D|^2, and their error is the second order of
what D has changed since. Where that does not do, or has been done for long, the step is solved exactly, which is a
refresh. No covariance in the coordinates of the features is ever stored.

D is stored, never I + D: in float32, (1 - a) + a is not 1, and the difference would add up.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fdr import frechet
from fdr.loss.expansion import Expansion, absorbed_change, sketched_norm
from fdr.loss.terms import Averaging
from fdr.loss.transport import Diagnostics

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 6e-4
"""Largest estimated relative error of a step's gradient."""
OVERSHOOT = 1.25
"""Of the tolerance, the error foreseen for the step at which it is estimated next."""
SUDDEN = 1.1
"""How much faster than by age the first-order correction may grow until then."""
AT_CHORD = 0.05
"""Of the age at chord steps, that to which their error soon jumps back: what they gave follows |D| alone."""
CHECK_EVERY = 20
"""Steps between two estimates at most."""
CHORD_REACH = 4
"""Of the tolerance, the largest error at which chord steps are tried."""
CHORD_LEFT = 0.5
"""Of the tolerance, the largest error that chord steps may leave."""
MAX_CHANGE = 0.08
"""Largest |D|_F / sqrt(r) that the expansion is asked to bridge."""
MAX_AGE = 100
"""Steps after which the basis is refreshed in any case."""
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

    def recentred(self, dtype: torch.dtype) -> Tensor:
        """The batch about the new mean, z - m_q [B, d]."""
        return self.centred.to(dtype, copy=True).sub_(self.shift.to(dtype), alpha=self.share)

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
    life: float = 1.0
    """Of the frozen basis that is made of it, see `Schedule`."""

    @property
    def rank(self) -> int:
        """r."""
        return self.matrix.shape[0]

    def matrix64(self) -> Tensor:
        """M."""
        return self.matrix


@dataclass(frozen=True)
class Schedule:
    """How far a frozen basis has come, and when its error is looked at."""

    life: float = 1.0
    """The share of `MAX_AGE` and `MAX_CHANGE` that the basis may reach; less than 1 sets encoders apart."""
    age: int = 0
    """Steps since the refresh."""
    due: int = 0
    """The age at which the error is estimated next."""
    limit: float = 0.0
    """The size of the first-order correction above which it is estimated before that."""
    since: int = 0
    """The age at the last chord steps, 0 before the first."""
    reach: float = 0.0
    """|D|_F at that step."""
    beyond: float = 0.0
    """What `Expansion.root_trace` lacked there, of fourth order in D."""

    @classmethod
    def of(cls, state: Tensor) -> Schedule:
        """From its fields, in order."""
        life, age, due, limit, since, *others = state.tolist()
        return cls(life, int(age), int(due), limit, int(since), *others)

    @property
    def is_over(self) -> bool:
        """True where the next step has to be a refresh."""
        return self.age + 1 >= max(MAX_AGE * self.life, 1)

    def estimated(self, error: float, growth: float) -> Schedule:
        """After an estimate: the next one where an error that grows as age^2 exceeds the tolerance by little.

        After chord steps the next step tells how fast it grows; it does not start at 0.
        """
        room = (OVERSHOOT * TOLERANCE / max(error, 1e-12)) ** 0.5 - 1
        grown = self.age - (1 - AT_CHORD) * self.since if self.age > self.since else 0
        due = self.age + min(max(round(grown * room), 1), CHECK_EVERY, self.age + 1)
        return dataclasses.replace(self, due=due, limit=SUDDEN * growth * due / self.age)


@dataclass(frozen=True)
class Frozen:
    """M = s (I + D) s in a basis in which it was diagonal."""

    high: Tensor
    """P [d, r] rounded to float32; rows of 0 where the reference does not vary."""
    low: Tensor
    """P less that, float32: together 48 bits, in the memory of one float64."""
    lengths: Tensor
    """Of the columns of P [r], float32."""
    roots: Tensor
    """s [r], float64."""
    change: Tensor
    """D [r, r], float32."""
    second: Tensor | None = None
    """What chord steps added to M^{-1/2} [r, r] at |D|_F = `schedule.reach`, float32; None before the first."""
    schedule: Schedule = Schedule()

    @classmethod
    def at(cls, factor: Tensor, roots: Tensor, life: float) -> Frozen:
        """Right after a refresh."""
        high = factor.float()
        lengths = torch.linalg.vector_norm(high, dim=0)
        nothing = torch.zeros((), dtype=torch.float32, device=factor.device).expand(len(roots), len(roots))
        return cls(high, (factor - high).float(), lengths, roots, nothing, schedule=Schedule(life))

    @property
    def rank(self) -> int:
        """r."""
        return len(self.roots)

    @property
    def factor(self) -> Tensor:
        """P [d, r], float64."""
        return self.high.double().add_(self.low)

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
        mean_square = torch.linalg.vector_norm(centred).square() / len(rows)
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
    factor = basis.factor
    rows, shift, share = advance.centred @ factor, advance.shift @ factor, advance.share
    matrix = torch.addmm(basis.matrix64(), rows.T, rows, beta=1 - share, alpha=share / len(rows))
    matrix.addr_(shift, shift, alpha=-(share**2))
    life = basis.life if isinstance(basis, Plain) else 1.0
    return Plain(factor, matrix, life), rows.sub_(shift, alpha=share)


def solve_plain(basis: Basis, advance: Advance) -> Step:
    """Exact: one eigendecomposition of M with the batch in it, in float64; a frozen basis where M allows one."""
    plain, rows = absorbed(basis, advance)
    values, vectors = frechet.eigh(plain.matrix)
    if len(values) and not values[0] > frechet.MIN_RATIO * values[-1]:
        graded = frechet.graded_eigh(plain.matrix)
        is_regular = graded is not None
        values, vectors = graded or (values, vectors)
    else:
        is_regular = len(values) > 0
    kept = values > (0 if is_regular else len(values) * frechet.EPS * values[-1:].clamp(min=0))
    roots = values.clamp(min=0).sqrt()
    turned = plain.factor @ vectors
    whitened = (rows @ vectors) * torch.where(kept, 1 / roots, 0)
    frozen = Frozen.at(turned, roots, plain.life)
    noise = torch.finfo(torch.float32).eps * advance.trace.sqrt() * torch.linalg.vector_norm(turned, dim=0) / roots
    is_regular = is_regular and bool((noise <= MAX_NOISE).all())
    diagnostics = Diagnostics("refresh" if is_regular else "plain", refreshed=True)
    return Step(frozen if is_regular else plain, roots[kept].sum(), whitened @ turned.T, diagnostics)


@dataclass(frozen=True)
class Attempt:
    """A step by expansion in the frozen basis, in float32."""

    basis: Frozen
    """With the batch in it."""
    expansion: Expansion
    correction: Tensor
    """G [r, r], see `Expansion`."""
    scaled: Tensor
    """(z - m_q) P [B, r]."""
    moved: Tensor
    """(z - m_q) T [B, d]."""
    size: float
    """|D|_F."""
    growth: float
    """|(z - m_q) P G P^T| relative to |(z - m_q) P s^{-1} P^T|, as if the columns of P were at right angles."""

    @classmethod
    def of(cls, basis: Frozen, advance: Advance) -> Attempt | None:
        """To first order and with what earlier chord steps gave; None where D has become too large."""
        schedule = dataclasses.replace(basis.schedule, age=basis.schedule.age + 1)
        roots = basis.roots.float()
        whitened = (advance.centred.float() @ basis.high).div_(roots)
        shift = whitened.mean(0)
        change = absorbed_change(basis.change, whitened, shift, advance.share)
        size = float(torch.linalg.matrix_norm(change))
        if not size <= MAX_CHANGE * schedule.life * len(roots) ** 0.5:
            return None
        whitened.sub_(shift, alpha=advance.share)
        second = None if basis.second is None else basis.second * (size / schedule.reach) ** 2
        expansion = Expansion(roots, change, second)
        correction = expansion.correction()
        scaled = whitened * roots
        corrected = scaled @ correction
        growth = float(torch.linalg.norm(corrected * basis.lengths) / torch.linalg.norm(whitened * basis.lengths))
        moved = whitened.sub_(corrected) @ basis.high.T
        after = dataclasses.replace(basis, change=change, schedule=schedule)
        return cls(after, expansion, correction, scaled, moved, size, growth)

    def error(self, whole: float) -> float:
        """Estimated, of the gradient relative to `whole`; infinite where that is 0."""
        found = sketched_norm(self.expansion, self.correction, self.scaled, self.basis.high, self.basis.schedule.age)
        return found / whole if whole > 0 else math.inf

    def after_chord_steps(self) -> Attempt:
        """With the higher orders in it, which the basis keeps."""
        expansion, beyond = self.expansion.after_chord_steps(self.correction)
        correction = expansion.correction()
        moved = self.moved + (self.scaled @ (self.correction - correction)) @ self.basis.high.T
        schedule = self.basis.schedule
        schedule = dataclasses.replace(schedule, since=schedule.age, reach=self.size, beyond=beyond)
        basis = dataclasses.replace(self.basis, second=expansion.second, schedule=schedule)
        return dataclasses.replace(self, basis=basis, expansion=expansion, correction=correction, moved=moved)

    def step(self, diagnostics: Diagnostics) -> Step:
        """As the term takes it."""
        schedule = self.basis.schedule
        beyond = schedule.beyond * (self.size / schedule.reach) ** 4 if schedule.reach else 0.0
        root_trace = self.expansion.root_trace(self.correction, self.basis.roots) + beyond
        return Step(self.basis, root_trace, self.moved, diagnostics)


def solve_frozen(basis: Frozen, advance: Advance, pull: Tensor) -> Step | None:
    """By expansion in the frozen basis; None where the step has to be exact.

    `pull` = m_q - m_p [d], which the gradient holds besides (z - m_q)(I - T): the error is relative to both.
    """
    attempt = None if basis.schedule.is_over else Attempt.of(basis, advance)
    if attempt is None:
        return None
    schedule, route = attempt.basis.schedule, "frozen"
    if schedule.age < schedule.due and attempt.growth <= schedule.limit:
        return attempt.step(Diagnostics(route))
    whole = float(torch.linalg.norm(advance.recentred(torch.float32).add_(pull).sub_(attempt.moved)))
    error = attempt.error(whole)
    if not error <= TOLERANCE:
        if not error <= CHORD_REACH * TOLERANCE:
            return None
        attempt, route = attempt.after_chord_steps(), "frozen-2"
        error = attempt.error(whole)
        if not error <= CHORD_LEFT * TOLERANCE:
            return None
    schedule = attempt.basis.schedule.estimated(error, attempt.growth)
    basis = dataclasses.replace(attempt.basis, schedule=schedule)
    return dataclasses.replace(attempt, basis=basis).step(Diagnostics(route, error))
