"""The fast solver: it freezes the eigenbasis of one step, and follows M^{-1/2} by expansion in the steps after it.

Symbols, for features of width d and a reference whose covariance has rank r <= d:

    m_p [d], S_p [d, d]   mean and covariance of the reference
    m_q [d], S_q [d, d]   mean and covariance of the population of generated features
    P [d, r]              a factor of the reference, P P^T = S_p
    M [r, r]              P^T S_q P, which has the nonzero eigenvalues of S_p S_q
    T [d, d]              P M^{-1/2} P^T, the transport map from the population to the reference
    z [d], a              a feature of the batch of B, and the weight (share) of the batch in the population

FD and its gradient need m_q, tr S_q, tr M^{1/2} and the rows (z - m_q) T (`transport.py`), so the population is stored
as m_q, tr S_q and M. S_q itself is never stored. A step is solved in one of three ways, the cheapest that will do:

1. Frozen. At the last refresh P was rotated to the eigenvectors of M, so that M was the diagonal matrix s^2. Since then
   batches have entered, and M = s (I + D) s with a small D [r, r]. M^{-1/2} is expanded in D (`expansion.py`); its
   first order is elementwise. The cost is three products of B x d by d x d and half of one of d x B by B x d, in
   float32, and nothing cubic in d.
2. Chord steps. `Schedule` says at which steps the error of the gradient is estimated. Where the estimate is too large,
   two chord steps (four products of d x d by d x d in float32) add the higher orders in D. What they add is kept, and
   later steps scale it by |D|_F^2; its error is then of second order in the change of D since.
3. Refresh. Where chord steps do not suffice, D has become too large or the basis too old, M is decomposed in float64,
   which is exact and gives the next basis.

D is stored and not I + D, because (1 - a) + a is not exactly 1 in float32, and the difference would add up over steps.

Where the batch has one share in the population of the gradient and another in the population that is kept
(`ema_term.batch_share`), a step is solved with the D of the first. Then D of the second takes its place.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fdr import frechet
from fdr.loss.ema_term import Entry, updated
from fdr.loss.expansion import Expansion, absorbed_change, sketched_norm
from fdr.loss.lag import floored
from fdr.loss.transport import Diagnostics, Transport

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 6e-4
"""Largest estimated relative error of a step's gradient. Raising it saves chord steps and refreshes."""
OVERSHOOT = 1.25
"""The next estimate is made at the step where the error is predicted to be this many times `TOLERANCE`.

Raising it makes estimates rarer and lets the steps before them exceed the tolerance by more.
"""
SUDDEN = 1.1
"""The estimate is made early where the correction G has grown by this factor more than in proportion to age.

Raising it makes early estimates rarer, so that a sudden change of the generator is noticed later.
"""
AT_CHORD = 0.05
"""After chord steps the error restarts as if the basis were at this share of its age then, and not at age 0.

The reason is that the stored correction follows the size of D only, not its direction. Raising it expects a larger
error after chord steps, and plans the next estimate sooner.
"""
CHECK_EVERY = 20
"""Most steps between two estimates. Raising it saves time where the error grows slowly."""
CHORD_REACH = 4
"""Chord steps are tried up to this many times `TOLERANCE`; above it the step is a refresh.

Raising it tries them where they more often fail, and a failed try costs its products besides the refresh.
"""
CHORD_LEFT = 0.5
"""Chord steps are used where they leave an error of at most this share of `TOLERANCE`; else the step is a refresh.

Raising it makes refreshes rarer, and chord steps needed again sooner.
"""
MAX_CHANGE = 0.08
"""Largest |D|_F / sqrt(r) at which the expansion is used. Raising it makes refreshes rarer and the expansion worse."""
MAX_AGE = 100
"""Steps after which the basis is refreshed in any case. Raising it lets float32 rounding in D add up for longer."""
MAX_NOISE = 1e-2
"""Largest float32 rounding error of a whitened feature, whose variance is 1, with which a frozen basis is used.

Raising it uses frozen bases for worse conditioned populations, with less accurate gradients.
"""


# ------------------------------------------------------------------------------------------------------- what is stored


@dataclass(frozen=True)
class Schedule:
    """The age of a frozen basis, and when its error is estimated next."""

    life: float = 1.0
    """The share of `MAX_AGE` and `MAX_CHANGE` at which the basis is refreshed.

    Encoders that start together get different shares for their first basis, so that they refresh at different steps.
    """
    age: int = 0
    """Steps since the refresh."""
    due: int = 0
    """The age at which the error is estimated next at the latest."""
    limit: float = 0.0
    """`Attempt.growth` above which the error is estimated before that."""
    since: int = 0
    """The age at the last chord steps; 0 before the first."""
    reach: float = 0.0
    """|D|_F at the last chord steps."""
    beyond: float = 0.0
    """What `Expansion.root_trace` lacked at the last chord steps; it is of fourth order in D."""

    @classmethod
    def of(cls, state: Tensor) -> Schedule:
        """The schedule whose fields `state` holds, in their order."""
        life, age, due, limit, since, *others = state.tolist()
        return cls(life, int(age), int(due), limit, int(since), *others)

    @property
    def is_over(self) -> bool:
        """True where the next step has to be a refresh because of the basis's age."""
        return self.age + 1 >= max(MAX_AGE * self.life, 1)

    def estimated(self, error: float, growth: float) -> Schedule:
        """The schedule after an estimate of `error`, with the next estimate planned.

        The error grows as age^2, so it is `OVERSHOOT` times the tolerance when the age has grown by the factor
        1 + `room`. After chord steps it grows from a small age that is not 0, see `AT_CHORD`; right at chord steps
        nothing is known about its growth, and the next step is estimated again.
        """
        room = (OVERSHOOT * TOLERANCE / max(error, 1e-12)) ** 0.5 - 1
        grown = self.age - (1 - AT_CHORD) * self.since if self.age > self.since else 0
        due = self.age + min(max(round(grown * room), 1), CHECK_EVERY, self.age + 1)
        return dataclasses.replace(self, due=due, limit=SUDDEN * growth * due / self.age)


@dataclass(frozen=True)
class Frozen:
    """M = s (I + D) s, in the basis of the last refresh, in which M was diagonal then."""

    high: Tensor
    """P [d, r] rounded to float32; its rows are 0 for features in which the reference does not vary."""
    low: Tensor
    """P - `high` [d, r], float32. The two hold 48 bits of P in the memory of one float64; steps read `high` alone."""
    lengths: Tensor
    """The Euclidean lengths of the columns of P [r], float32."""
    roots: Tensor
    """s [r], float64."""
    change: Tensor
    """D [r, r], float32."""
    second: Tensor | None = None
    """S [r, r], float32: what the last chord steps added to M^{-1/2}, at |D|_F = `schedule.reach`; None before them."""
    schedule: Schedule = Schedule()

    @classmethod
    def at(cls, factor: Tensor, roots: Tensor, life: float) -> Frozen:
        """The basis right after a refresh, with D = 0; `factor` is P [d, r], `roots` is s [r]."""
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


@dataclass(frozen=True)
class Plain:
    """M in float64, for populations without a frozen basis: before the first step, in a fill, or with a singular M."""

    factor: Tensor
    """P [d, r], float64; its rows are 0 for features in which the reference does not vary."""
    matrix: Tensor
    """M [r, r], float64; only the lower triangle is read."""
    life: float = 1.0
    """`Schedule.life` of the frozen basis that the next refresh makes."""

    @property
    def rank(self) -> int:
        """r."""
        return self.matrix.shape[0]

    def matrix64(self) -> Tensor:
        """M."""
        return self.matrix


Basis = Plain | Frozen


# --------------------------------------------------------------------------------------------------- steps by expansion


def solve_frozen(basis: Frozen, entry: Entry, pull: Tensor) -> tuple[Frozen, Transport] | None:
    """A step by expansion, and the basis that is kept; None where the step has to be a refresh.

    The gradient of a row is (z - m_q)(I - T) + (m_q - m_p) up to a factor. `pull` = m_q - m_p [d] is needed because the
    error is relative to the whole of it.
    """
    attempt = None if basis.schedule.is_over else Attempt.of(basis, entry)
    if attempt is None:
        return None
    schedule, route = attempt.basis.schedule, "frozen"
    if schedule.age < schedule.due and attempt.growth <= schedule.limit:
        return _solved(attempt, Diagnostics(route), basis.change, entry)
    whole = float(torch.linalg.norm(entry.recentred(torch.float32).add_(pull).sub_(attempt.moved)))
    error = attempt.error(whole)
    if not error <= TOLERANCE:
        if not error <= CHORD_REACH * TOLERANCE:
            return None
        attempt, route = attempt.after_chord_steps(), "frozen-2"
        error = attempt.error(whole)
        if not error <= CHORD_LEFT * TOLERANCE:
            return None
    schedule = attempt.basis.schedule.estimated(error, attempt.growth)
    attempt = dataclasses.replace(attempt, basis=dataclasses.replace(attempt.basis, schedule=schedule))
    return _solved(attempt, Diagnostics(route, error), basis.change, entry)


def _solved(attempt: Attempt, diagnostics: Diagnostics, before: Tensor, entry: Entry) -> tuple[Frozen, Transport]:
    """The basis that is kept, and the solution of the step; `before` is D without the batch.

    It ends the attempt, whose D gives its memory to the D that is kept.
    """
    basis, found = attempt.solution(diagnostics)
    change = entry.reweighted(before, basis.change, attempt.shift)
    return dataclasses.replace(basis, change=change), found


@dataclass(frozen=True)
class Attempt:
    """A step by expansion in the frozen basis, in float32, whose error may not have been estimated yet."""

    basis: Frozen
    """The basis with D of the population that the batch is in."""
    shift: Tensor
    """e P / s [r]."""
    expansion: Expansion
    """M^{-1/2} in that basis."""
    correction: Tensor
    """G [r, r], see `Expansion`."""
    scaled: Tensor
    """(z - m_q) P [B, r]."""
    moved: Tensor
    """(z - m_q) T [B, d]."""
    size: float
    """|D|_F."""
    growth: float
    """The size of the correction: |(z - m_q) P G P^T|_F over |(z - m_q) P s^{-1} P^T|_F.

    It is computed as if the columns of P were orthogonal, which saves a product; it only has to show fast growth.
    """

    @classmethod
    def of(cls, basis: Frozen, entry: Entry) -> Attempt | None:
        """The step to first order in D, plus what earlier chord steps gave; None where D has become too large."""
        schedule = dataclasses.replace(basis.schedule, age=basis.schedule.age + 1)
        roots = basis.roots.float()
        whitened = (entry.centred.float() @ basis.high).div_(roots)
        shift = whitened.mean(0)
        change = absorbed_change(basis.change, whitened, shift, entry.share)
        size = float(torch.linalg.matrix_norm(change))
        if not size <= MAX_CHANGE * schedule.life * len(roots) ** 0.5:
            return None
        whitened.sub_(shift, alpha=entry.share)
        second = None if basis.second is None else basis.second * (size / schedule.reach) ** 2
        expansion = Expansion(roots, change, second)
        correction = expansion.correction()
        scaled = whitened * roots
        corrected = scaled @ correction
        growth = float(torch.linalg.norm(corrected * basis.lengths) / torch.linalg.norm(whitened * basis.lengths))
        moved = whitened.sub_(corrected) @ basis.high.T
        after = dataclasses.replace(basis, change=change, schedule=schedule)
        return cls(after, shift, expansion, correction, scaled, moved, size, growth)

    def error(self, whole: float) -> float:
        """The estimated error of (z - m_q) T relative to `whole`, the gradient's norm; infinite where that is 0."""
        found = sketched_norm(self.expansion, self.correction, self.scaled, self.basis.high, self.basis.schedule.age)
        return found / whole if whole > 0 else math.inf

    def after_chord_steps(self) -> Attempt:
        """The attempt with higher orders in D, by two chord steps. The basis keeps them for later steps."""
        expansion, beyond = self.expansion.after_chord_steps(self.correction)
        correction = expansion.correction()
        moved = self.moved + (self.scaled @ (self.correction - correction)) @ self.basis.high.T
        schedule = self.basis.schedule
        schedule = dataclasses.replace(schedule, since=schedule.age, reach=self.size, beyond=beyond)
        basis = dataclasses.replace(self.basis, second=expansion.second, schedule=schedule)
        return dataclasses.replace(self, basis=basis, expansion=expansion, correction=correction, moved=moved)

    def solution(self, diagnostics: Diagnostics) -> tuple[Frozen, Transport]:
        """The basis, and the solution of the step."""
        schedule = self.basis.schedule
        beyond = schedule.beyond * (self.size / schedule.reach) ** 4 if schedule.reach else 0.0
        root_trace = self.expansion.root_trace(self.correction, self.basis.roots) + beyond
        return self.basis, Transport(root_trace, self.moved, diagnostics)


# ------------------------------------------------------------------------------------------------------------ refreshes


def solve_plain(basis: Basis, entry: Entry, trace: Tensor, *, has_floor: bool = False) -> tuple[Basis, Transport]:
    """The exact solution, and the basis that is kept: one eigendecomposition M = V s^2 V^T in float64.

    P V [d, r] and s become the next frozen basis, unless M is singular or so badly conditioned that whitened features
    would be lost in the rounding of float32. Then M stays as it is, and the next step is exact as well. Directions with
    s = 0 are left out of M^{-1/2}.

    With `has_floor`, eigenvalues are raised as in `transport.solve_floored`; M, which is kept, stays as it is.
    """
    plain, rows = absorbed(basis, entry)
    values, vectors = frechet.eigh(plain.matrix)
    low = floored(plain.factor, rows, values, vectors) if has_floor else None
    if low is not None:
        return _kept_plain(basis, plain, entry), low
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
    noise = torch.finfo(torch.float32).eps * trace.sqrt() * torch.linalg.vector_norm(turned, dim=0) / roots
    is_regular = is_regular and bool((noise <= MAX_NOISE).all())
    found = Transport(roots[kept].sum(), whitened @ turned.T, Diagnostics("plain", refreshed=True), roots[kept])
    if not is_regular:
        return _kept_plain(basis, plain, entry), found
    found = dataclasses.replace(found, diagnostics=Diagnostics("refresh", refreshed=True))
    return _kept_at_refresh(Frozen.at(turned, roots, plain.life), whitened, entry), found


def _kept_plain(basis: Basis, plain: Plain, entry: Entry) -> Plain:
    """The basis that is kept where it stays in float64; `plain` is that of the gradient's population."""
    matrix = entry.reweighted(basis.matrix64(), plain.matrix, entry.shift @ plain.factor)
    return dataclasses.replace(plain, matrix=matrix)


def _kept_at_refresh(frozen: Frozen, whitened: Tensor, entry: Entry) -> Frozen:
    """The basis that is kept after a refresh, at which D = 0 in the population of the gradient.

    `whitened` [B, r] are the rows of the batch about that population's mean, in its eigenbasis. With shares a and b
    and c = (b - a) / (1 - a), the population that is kept has D = c (Z^T Z / B - I) - (b^2 - a^2 (1 - c)) e e^T, where
    Z [B, r] is about the mean without the batch, and e [r] is its mean.
    """
    if entry.kept == entry.share:
        return frozen
    a, b = entry.share, entry.kept
    c = (b - a) / (1 - a)
    shift = whitened.mean(0) / (1 - a)
    rows, shift = whitened.add(shift, alpha=a).float(), shift.float()
    change = absorbed_change(frozen.change, rows, shift, c)
    return dataclasses.replace(frozen, change=change.addr_(shift, shift, alpha=c**2 - b**2 + a**2 * (1 - c)))


def absorbed(basis: Basis, entry: Entry) -> tuple[Plain, Tensor]:
    """M with the batch in it, in float64, and the batch in the coordinates of P, (z - m_q) P [B, r].

    M is updated as S_q is (`ema_term.py`), with X P [B, r] in place of X and e P [r] in place of e.
    """
    factor = basis.factor
    rows, shift = entry.centred @ factor, entry.shift @ factor
    matrix = updated(basis.matrix64(), rows, shift, entry.share)
    life = basis.life if isinstance(basis, Plain) else 1.0
    return Plain(factor, matrix, life), rows.sub_(shift, alpha=entry.share)
