"""The fast solver: against the exact one at every step, its estimate, its guards, its state."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from covariances import features, relu_features, rotation, transported
from oracles import batch, make_term, reference
from torch import Tensor

from fdr.errors import InputError
from fdr.frechet import Moments
from fdr.loss import BatchPopulation, EmaPopulation
from fdr.loss import frozen_basis as _frozen_basis
from fdr.loss.fast_term import FastEmaTerm
from fdr.loss.frozen_basis import TOLERANCE, Frozen, Plain, solve_frozen, solve_plain
from fdr.loss.transport import frechet_loss

DIM, SIZE = 48, 64


class Drift:
    """A generator of N(m(t), A(t) S A(t)) that moves from a transform of the reference towards it."""

    def __init__(self, dim: int, rate: float, condition: float = 1e4, jump: int | None = None) -> None:
        spectrum = np.geomspace(1, 1 / condition, dim)
        basis, other = rotation(dim, 1), rotation(dim, 2)
        sigma = (basis * spectrum) @ basis.T
        self.reference = Moments(np.zeros(dim), (sigma + sigma.T) / 2)
        self.root = torch.from_numpy((basis * spectrum**0.5) @ basis.T)
        self.change = torch.from_numpy((other * np.linspace(-0.4, 0.4, dim)) @ other.T)
        self.rate, self.jump = rate, jump
        self.offset = torch.from_numpy(np.random.default_rng(3).standard_normal((1, dim))) @ self.root

    def batch(self, step: int, size: int) -> Tensor:
        away = 1 - self.rate * step
        if self.jump is not None and step >= self.jump:
            away = -1.0
        noise = torch.randn(size, len(self.root), dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        transform = torch.eye(len(self.root), dtype=torch.float64) + away * self.change
        return (noise @ (transform @ self.root) + away * self.offset).float()


def pair(target: Moments, beta: float = 0.99, **options: Any) -> tuple[FastEmaTerm, Any]:
    fast, exact = (make_term(EmaPopulation(beta), target, s, **options) for s in ("fast", "exact"))
    assert isinstance(fast, FastEmaTerm)
    return fast, exact


def scheduled(term: FastEmaTerm, **when: Any) -> None:
    """Change when the next estimate is due."""
    assert isinstance(term.moments.basis, Frozen)
    schedule = dataclasses.replace(term.moments.basis.schedule, **when)
    basis = dataclasses.replace(term.moments.basis, schedule=schedule)
    term.moments = dataclasses.replace(term.moments, basis=basis)


def gap(a: Tensor, b: Tensor) -> float:
    return float(torch.linalg.norm(a.double() - b.double()) / torch.linalg.norm(b.double()))


@pytest.mark.parametrize(
    ("rate", "beta", "size", "jump", "most_refreshes"),
    [
        pytest.param(0.0, 0.999, 256, None, 5, id="steady"),
        pytest.param(0.001, 0.999, 256, None, 15, id="drift"),
        pytest.param(0.005, 0.999, 256, None, 25, id="fast-drift"),
        pytest.param(0.005, 0.999, 32, None, 60, id="small-batches"),
        pytest.param(0.0, 0.999, 256, 40, 60, id="jump"),
        pytest.param(0.001, 0.9, 256, None, 100, id="short-window"),
    ],
)
def test_value_and_gradient_follow_the_exact_ones_at_every_step(
    rate: float, beta: float, size: int, jump: int | None, most_refreshes: int
) -> None:
    generator = Drift(DIM, rate, jump=jump)
    terms = pair(generator.reference, beta)
    refreshes = 0
    for term in terms:
        term.fill(generator.batch(10**6 if jump is None and rate == 0 else 0, 4000))
    for step in range(100):
        rows = generator.batch(step, size)
        fast, exact = (term.evaluate(rows) for term in terms)
        assert float(fast.fd) == pytest.approx(float(exact.fd), rel=2e-6)
        assert gap(fast.gradient, exact.gradient) < 1e-3
        refreshes += fast.diagnostics.refreshed
        for term in terms:
            term.commit()
    assert 1 <= refreshes <= most_refreshes


def test_the_estimate_tells_the_error_of_the_first_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the first-order gradient of the same step, which is had by never estimating."""
    generator = Drift(DIM, 0.002)
    fast, exact = pair(generator.reference, 0.999)
    for term in (fast, exact):
        term.fill(generator.batch(0, 4000))
    monkeypatch.setattr(_frozen_basis, "MAX_AGE", 10**9)
    monkeypatch.setattr(_frozen_basis, "TOLERANCE", 1.0)
    ratios = []
    for step in range(40):
        rows = generator.batch(step, 256)
        expected = exact.evaluate(rows).gradient
        if step % 10 == 9:
            scheduled(fast, limit=0.0)
            estimate = fast.evaluate(rows).diagnostics.error_estimate
            scheduled(fast, limit=10.0, due=10**9)
            value = fast.evaluate(rows)
            assert value.diagnostics.route == "frozen" and estimate is not None
            ratios.append(estimate / gap(value.gradient, expected))
        else:
            fast.evaluate(rows)
        fast.commit()
        exact.commit()
    assert all(0.7 < ratio < 1.3 for ratio in ratios), ratios


def test_a_step_with_higher_orders_is_better_than_the_first() -> None:
    generator = Drift(DIM, 0.005)
    fast, exact = pair(generator.reference, 0.999)
    for term in (fast, exact):
        term.fill(generator.batch(0, 4000))
    errors: dict[str, list[float]] = {"frozen": [], "frozen-2": [], "refresh": []}
    for step in range(120):
        rows = generator.batch(step, 256)
        value = fast.evaluate(rows)
        errors[value.diagnostics.route].append(gap(value.gradient, exact.evaluate(rows).gradient))
        fast.commit()
        exact.commit()
    assert all(errors.values())
    refresh, second, first = (max(errors[route]) for route in ("refresh", "frozen-2", "frozen"))
    assert refresh < 1e-6 < second < 1e-5 < 10 * second < first < 1e-3, (refresh, second, first)


def test_what_chord_steps_gave_is_used_later() -> None:
    """The step after them: without it, the error would be that of the first order again."""
    generator = Drift(DIM, 0.005)
    fast, exact = pair(generator.reference, 0.999)
    for term in (fast, exact):
        term.fill(generator.batch(0, 4000))
    checked = 0
    for step in range(120):
        rows = generator.batch(step, 256)
        expected = exact.evaluate(rows).gradient
        basis = fast.moments.basis
        if isinstance(basis, Frozen) and basis.second is not None and basis.schedule.age == basis.schedule.since:
            scheduled(fast, due=10**9, limit=10.0)
            kept = gap(fast.evaluate(rows).gradient, expected)
            without = dataclasses.replace(fast.moments.basis, second=None)
            entry = fast.moments.average.stepped(rows.double(), 0.999)
            first, with_it = (_frozen_basis.Attempt.of(b, entry) for b in (without, fast.moments.basis))
            assert first is not None and with_it is not None
            assert kept < 0.3 * gap(first.moved, with_it.moved) * float(
                torch.linalg.norm(with_it.moved) / torch.linalg.norm(expected) * 2 * entry.share / len(rows)
            )
            scheduled(fast, due=basis.schedule.due, limit=basis.schedule.limit)
            checked += 1
        fast.evaluate(rows)
        fast.commit()
        exact.commit()
    assert checked


def test_gradcheck_with_the_steps_of_float32() -> None:
    """Differences of 1e-2 in features of order 1: the value is float64 sums of float32 products."""
    term = make_term(EmaPopulation(0.9), reference(6), "fast")
    term.fill(batch(500, 6, 1))
    term.evaluate(batch(300, 6, 2))
    term.commit()
    assert isinstance(term, FastEmaTerm)
    scheduled(term, limit=0.0)
    routes = set()

    def fd(rows: Tensor) -> Tensor:
        value = term.evaluate(rows)
        routes.add(value.diagnostics.route)
        return 1e3 * frechet_loss(rows, value.fd, value.gradient)

    rows = batch(8, 6, 3).requires_grad_()
    assert torch.autograd.gradcheck(fd, rows, eps=1e-2, atol=1e-2, rtol=2e-3)
    assert routes <= {"frozen-2", "refresh"}


def test_gradcheck_before_the_first_step() -> None:
    """An exact step in float64, whatever the history."""
    for fill in (None, batch(200, 6, 1)):
        term = make_term(EmaPopulation(0.9), reference(6), "fast")
        if fill is not None:
            term.fill(fill)

        def fd(rows: Tensor, term: Any = term) -> Tensor:
            value = term.evaluate(rows)
            return frechet_loss(rows, value.fd, value.gradient)

        assert torch.autograd.gradcheck(fd, batch(20, 6, 3).requires_grad_(), atol=1e-8, rtol=1e-5)


@pytest.mark.parametrize("condition", [1e4, 1e7, 1e9])
def test_ill_conditioned_features_keep_their_gradient(condition: float) -> None:
    """Samples of exactly S_q = T S_p T, T known: the gradient is 2 a / B (z - z T), after a refresh and after it."""
    dim, size = 48, 200
    s_p, s_q, root = transported(dim, condition, seed=4)
    values, vectors = np.linalg.eigh(s_p)
    other = rotation(dim, 5)
    transform = torch.from_numpy((other * np.linspace(0.5, 1.5, dim)) @ other.T)  # takes S_p to S_q
    noise = torch.linalg.qr(torch.from_numpy(np.random.default_rng(0).standard_normal((size, dim + 1))))[0]
    noise = torch.linalg.qr(noise - noise.mean(0))[0][:, :dim] * size**0.5
    rows = noise @ torch.from_numpy((vectors * values**0.5) @ vectors.T) @ transform
    truth = rows - rows @ torch.linalg.inv(transform)
    target = Moments(np.zeros(dim), s_p)
    exact = make_term(BatchPopulation(), target, "exact").evaluate(rows)
    assert gap(exact.gradient * size / 2, truth) < 1e-6
    term = make_term(EmaPopulation(0.9), target, "fast", gradient="unit")
    term.fill(rows)
    routes = []
    for _ in range(3):
        value = term.evaluate(rows)
        term.commit()
        routes.append(value.diagnostics.route)
        assert float(value.fd) == pytest.approx(s_p.trace() + s_q.trace() - 2 * root, rel=1e-6)
        assert gap(value.gradient * size / 2, truth) < 1e-4
    assert routes[0] == "refresh" and set(routes[1:]) <= {"frozen", "frozen-2"}


def test_no_drift_adds_up_over_many_steps() -> None:
    """The same batch for ever is a fixed point: after 1000 steps of float32 FD is still that of the batch."""
    rows = batch(200, 8, 1).float()
    fast, exact = pair(reference(8), 0.9)
    for term in (fast, exact):
        term.fill(rows)
    expected = float(exact.evaluate(rows).fd)
    for _ in range(1000):
        value = fast.evaluate(rows)
        fast.commit()
    assert float(value.fd) == pytest.approx(expected, rel=1e-6)


# ------------------------------------------------------------------------------------------------------------ hazards


def hazards() -> dict[str, tuple[Moments, list[Tensor]]]:
    calm = [batch(100, 16, seed).float() for seed in range(3)]
    dead = [rows * (torch.arange(16) != 3) for rows in calm]
    full = Moments.from_features(features(300, 16, 2))
    dead_there = features(300, 16, 2)
    dead_there[:, 5] = 0
    relu = [torch.from_numpy(relu_features(200, seed)).float() for seed in range(3)]
    return {
        "dead in both": (Moments.from_features(relu_features(900, 9)), relu),
        "dead in the samples": (full, dead),
        "dead in the reference": (Moments.from_features(dead_there), calm),
        "a dead feature comes to life": (full, dead + calm),
        "a feature dies": (full, calm + dead),
        "all samples equal": (full, [rows[:1].expand(50, 16) for rows in calm]),
        "one sample a step": (full, [rows[:1] for rows in calm]),
        "fewer samples than features": (full, [rows[:9] for rows in calm]),
        "reference of lower rank": (Moments.from_features(features(9, 16, 2)), calm),
        "constant reference": (Moments(np.ones(16), np.zeros((16, 16))), calm),
        "collapse": (full, calm + [rows[:1] + 1e-6 * rows for rows in calm]),
        "far away at once": (full, calm + [1e4 * rows + 1e5 for rows in calm]),
        "and back": (full, [1e3 * rows for rows in calm] + calm),
    }


def assert_equal_steps(fast: Any, exact: Any, batches: list[Tensor]) -> None:
    """The value and the gradient of the fast solver are those of the exact one at every step."""
    for rows in batches:
        a, b = fast.evaluate(rows), exact.evaluate(rows)
        assert bool(a.fd.isfinite()) and bool(a.gradient.isfinite().all())
        assert float(a.fd) == pytest.approx(float(b.fd), rel=1e-5)
        assert gap(a.gradient, b.gradient) < 1e-3
        fast.commit()
        exact.commit()


@pytest.mark.parametrize("beta", [0.99, 0.5])
@pytest.mark.parametrize("name", hazards())
def test_hazards_are_as_the_exact_solver_has_them(name: str, beta: float) -> None:
    target, batches = hazards()[name]
    assert_equal_steps(*pair(target, beta), batches)


def test_a_singular_population_is_solved_plainly_until_it_is_regular() -> None:
    fast, _ = pair(reference(16), 0.9)
    routes = []
    for seed in range(5):
        routes.append(fast.evaluate(batch(6, 16, seed)).diagnostics.route)
        fast.commit()
    assert routes[0] == "plain" and isinstance(fast.moments.basis, Frozen)


def test_a_sudden_change_is_refused_by_the_guard() -> None:
    generator = Drift(DIM, 0.0)
    fast, _ = pair(generator.reference, 0.9)
    fast.fill(generator.batch(0, 4000))
    assert fast.evaluate(generator.batch(1, 256)).diagnostics.route == "refresh"
    fast.commit()
    assert isinstance(fast.moments.basis, Frozen)
    rows = 10 * generator.batch(2, 256).double()
    entry = fast.moments.average.stepped(rows, 0.9)
    assert solve_frozen(fast.moments.basis, entry, entry.average.mean) is None
    assert solve_plain(fast.moments.basis, entry, fast.moments.trace)[1].diagnostics.refreshed


def test_the_basis_is_refreshed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_frozen_basis, "MAX_AGE", 7)
    generator = Drift(DIM, 0.0)
    fast, _ = pair(generator.reference, 0.9999)
    fast.fill(generator.batch(0, 4000))
    refreshed = []
    for step in range(22):
        refreshed.append(fast.evaluate(generator.batch(step, 256)).diagnostics.refreshed)
        fast.commit()
    assert [step for step, was in enumerate(refreshed) if was] == [0, 7, 14, 21]


def test_terms_that_begin_together_refresh_at_different_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_frozen_basis, "MAX_AGE", 12)
    generator = Drift(DIM, 0.0)
    refreshed = []
    for life in (1 / 3, 2 / 3, 1.0):
        term = make_term(EmaPopulation(0.9999), generator.reference, "fast", first_life=life)
        term.fill(generator.batch(0, 4000))
        refreshed.append([])
        for step in range(30):
            if term.evaluate(generator.batch(step, 256)).diagnostics.refreshed:
                refreshed[-1].append(step)
            term.commit()
    assert refreshed == [[0, 4, 16, 28], [0, 8, 20], [0, 12, 24]]


def test_a_short_first_life_also_ends_at_a_smaller_change() -> None:
    """Where |D| ends it before its age does."""
    generator = Drift(DIM, 0.01)
    ends = []
    for life in (1 / 3, 1.0):
        term = make_term(EmaPopulation(0.99), generator.reference, "fast", first_life=life)
        term.fill(generator.batch(0, 4000))
        refreshed = [False]
        while not any(refreshed[1:]):
            refreshed.append(term.evaluate(generator.batch(len(refreshed), 256)).diagnostics.refreshed)
            if len(refreshed) == 2:
                refreshed[1] = False  # the first step makes the basis
            term.commit()
        ends.append(len(refreshed))
    assert 5 < ends[0] < 0.7 * ends[1] < 60


def test_an_error_relative_to_a_gradient_of_zero_asks_for_an_exact_step() -> None:
    generator = Drift(DIM, 0.0)
    fast, _ = pair(generator.reference, 0.99)
    fast.fill(generator.batch(0, 4000))
    fast.evaluate(generator.batch(1, 256))
    fast.commit()
    entry = fast.moments.average.stepped(generator.batch(2, 256).double(), 0.99)
    assert isinstance(fast.moments.basis, Frozen)
    attempt = _frozen_basis.Attempt.of(fast.moments.basis, entry)
    assert attempt is not None and attempt.error(0.0) == float("inf") and 0 < attempt.error(1.0) < 1


def test_the_estimate_is_within_the_tolerance_or_the_step_is_exact() -> None:
    generator = Drift(DIM, 0.01)
    fast, _ = pair(generator.reference, 0.995)
    fast.fill(generator.batch(0, 4000))
    estimates = []
    for step in range(60):
        found = fast.evaluate(generator.batch(step, 64)).diagnostics
        assert found.refreshed == (found.route == "refresh")
        assert found.route != "frozen-2" or found.error_estimate is not None
        estimates += [found.error_estimate] if found.error_estimate is not None else []
        fast.commit()
    assert estimates and max(estimates) <= TOLERANCE


# -------------------------------------------------------------------------------------------------------------- state


@pytest.mark.parametrize("life", [1.0, 0.3])
@pytest.mark.parametrize("num_steps", [0, 1, 5, 30])
def test_state_goes_on_bit_for_bit(num_steps: int, life: float) -> None:
    """Whatever life the other was made for: it is part of the state."""
    generator = Drift(DIM, 0.005)
    term, resumed = (make_term(EmaPopulation(0.99), generator.reference, "fast", first_life=x) for x in (life, 1.0))
    term.fill(generator.batch(0, 500))
    for step in range(num_steps):
        term.evaluate(generator.batch(step, 64))
        term.commit()
    term.evaluate(generator.batch(99, 64))  # pending: not part of the state
    saved = {name: value.clone() for name, value in term.state_dict().items()}
    term.discard()
    assert ("change" in saved) == (num_steps > 0)
    resumed.load_state_dict(saved)
    for step in range(num_steps, num_steps + 40):
        a, b = (x.evaluate(generator.batch(step, 64)) for x in (term, resumed))
        assert torch.equal(a.fd, b.fd) and torch.equal(a.gradient, b.gradient) and a.diagnostics == b.diagnostics
        term.commit()
        resumed.commit()
    assert all(torch.equal(a, resumed.state_dict()[name]) for name, a in term.state_dict().items())


def test_a_step_counts_when_committed_and_only_then() -> None:
    generator = Drift(DIM, 0.005)
    term, plain = (make_term(EmaPopulation(0.99), generator.reference, "fast") for _ in range(2))
    for step in range(12):
        rows = generator.batch(step, 64)
        term.evaluate(rows * 5)
        term.discard()
        term.commit()
        term.evaluate(rows * 3)
        a, b = term.evaluate(rows), plain.evaluate(rows)
        assert torch.equal(a.fd, b.fd) and torch.equal(a.gradient, b.gradient)
        term.commit()
        plain.commit()
    assert all(torch.equal(a, plain.state_dict()[name]) for name, a in term.state_dict().items())


def test_the_state_is_small() -> None:
    """P in 48 bits and D in float32: 1.5 d^2 float64; 0.5 more after chord steps, and 3 with a step pending."""
    dim = 96
    generator = Drift(dim, 0.01)
    fast, _ = pair(generator.reference, 0.99)
    fast.fill(generator.batch(0, 1000))
    with_second = 0
    for step in range(40):
        fast.evaluate(generator.batch(step, 64))
        held = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors_of(fast)}
        assert sum(held.values()) < 3.1 * dim**2 * 8
        fast.commit()
        size = sum(value.numel() * value.element_size() for value in fast.state_dict().values())
        has_second = "second" in fast.state_dict()
        assert size < (2.1 if has_second else 1.6) * dim**2 * 8
        with_second += has_second
    assert 0 < with_second < 40


def tensors_of(value: Any) -> list[Tensor]:
    """All that an object holds."""
    if isinstance(value, Tensor):
        return [value]
    if dataclasses.is_dataclass(value) or isinstance(value, FastEmaTerm):
        return [x for item in vars(value).values() for x in tensors_of(item)]
    return []


def test_states_that_do_not_fit() -> None:
    fast, exact = pair(reference(16), 0.9)
    with pytest.raises(InputError, match="'sigma' is float64"):
        fast.load_state_dict({**fast.state_dict(), **exact.state_dict()})
    with pytest.raises(InputError, match="does not fit"):
        fast.load_state_dict(pair(reference(8), 0.9)[0].state_dict())
    assert isinstance(fast.moments.basis, Plain)
    fast.evaluate(batch(50, 16, 0))
    fast.commit()
    with pytest.raises(InputError, match="only be filled before the first"):
        fast.fill(batch(50, 16, 0))


@pytest.mark.parametrize(("scale", "route"), [(1e-3, "refresh"), (1e-7, "plain")])
def test_a_population_that_float32_cannot_whiten_is_not_frozen(scale: float, route: str) -> None:
    """A direction with a share of 1e-7 of the deviation is lost in float32's rounding of the others."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(400, 6, generator=generator, dtype=torch.float64) * torch.tensor([1, 1, 1, 1, 1, scale])
    term = make_term(EmaPopulation(0.9), Moments(np.zeros(6), np.eye(6)), "fast")
    assert term.evaluate(rows).diagnostics.route == route


def attempted() -> tuple[Any, _frozen_basis.Attempt]:
    """The entry of a batch, and the first step by expansion in a basis that is two steps old."""
    generator = Drift(DIM, 0.02)
    fast, _ = pair(generator.reference)
    fast.fill(generator.batch(0, 4000))
    for step in range(2):
        fast.evaluate(generator.batch(step, 256))
        fast.commit()
    entry = fast.moments.average.stepped(generator.batch(2, 256).double(), 0.99)
    attempt = _frozen_basis.Attempt.of(fast.moments.basis, entry)
    assert attempt is not None
    return entry, attempt


def test_the_trace_that_chord_steps_found_is_scaled_by_the_fourth_power_of_the_change() -> None:
    _, attempt = attempted()
    traces = []
    for beyond in (0.0, 0.5):
        schedule = dataclasses.replace(attempt.basis.schedule, beyond=beyond, reach=2 * attempt.size)
        basis = dataclasses.replace(attempt.basis, schedule=schedule)
        _, found = dataclasses.replace(attempt, basis=basis).solution(_frozen_basis.Diagnostics("frozen"))
        traces.append(float(found.root_trace))
    assert traces[1] - traces[0] == pytest.approx(0.5 / 2**4, rel=1e-9)


def test_chord_steps_that_leave_too_large_an_error_end_in_a_refresh(monkeypatch: pytest.MonkeyPatch) -> None:
    entry, attempt = attempted()
    pull = entry.average.mean
    whole = float(torch.linalg.norm(entry.recentred(torch.float32).add_(pull).sub_(attempt.moved)))
    basis = dataclasses.replace(attempt.basis, schedule=dataclasses.replace(attempt.basis.schedule, due=0))
    monkeypatch.setattr(_frozen_basis.Attempt, "of", classmethod(lambda *_: dataclasses.replace(attempt, basis=basis)))
    monkeypatch.setattr(_frozen_basis, "TOLERANCE", attempt.error(whole) / 2)
    solved = solve_frozen(basis, entry, pull)
    assert solved is not None and solved[1].diagnostics.route == "frozen-2", "they help"
    monkeypatch.setattr(_frozen_basis.Attempt, "after_chord_steps", lambda attempt: attempt)
    assert solve_frozen(basis, entry, pull) is None, "they do not"
