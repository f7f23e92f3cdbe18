"""`EmaPopulation.batch_weight`: the gradient against weighted sums in NumPy, its bias, and every solver and state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from drawn_features import det_features
from oracles import make_term, reference
from test_frozen_basis import Drift, assert_equal_steps, gap, hazards

from fdr.errors import InputError
from fdr.frechet import Moments
from fdr.loss import EmaPopulation
from fdr.loss.ema_term import batch_share
from fdr.loss.fast_term import FastEmaTerm
from fdr.loss.frozen_basis import Frozen

SOLVERS = ("exact", "newton-schulz", "fast")
DEBIASED = EmaPopulation(0.8, "debiased")


@dataclass
class Weighted:
    """All samples of a population with their weights: what `EmaTerm` keeps as moments."""

    beta: float
    rows: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    weights: np.ndarray = field(default_factory=lambda: np.empty(0))
    total: float = 0.0
    """The sum of the weights of an average that starts at 0."""

    def fill(self, rows: np.ndarray) -> None:
        self.rows, self.weights, self.total = rows, np.full(len(rows), 1 / len(rows)), 1.0

    def take(self, batch: np.ndarray, share: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Rows and weights with the batch in them; `share` None stands for that of the average."""
        if share is None:
            share = (1 - self.beta) / (self.beta * self.total + 1 - self.beta)
        weights = np.concatenate([(1 - share) * self.weights, np.full(len(batch), share / len(batch))])
        return np.concatenate([self.rows.reshape(-1, batch.shape[1]), batch]), weights

    def step(self, batch: np.ndarray) -> None:
        self.rows, self.weights = self.take(batch)
        self.total = self.beta * self.total + 1 - self.beta

    def share(self, batch: np.ndarray) -> float:
        """The smaller root of a / B = 3/4 [(1 - a)^2 W + a^2 / B], by NumPy's roots; at most that of the average."""
        k = len(batch) * np.square(self.weights).sum()
        kept = (1 - self.beta) / (self.beta * self.total + 1 - self.beta)
        return min(float(min(np.roots([0.75 * (1 + k), -(1 + 1.5 * k), 0.75 * k]).real)), kept) if self.total else 1.0


def gradient_of(batch: np.ndarray, rows: np.ndarray, weights: np.ndarray, target: Moments) -> np.ndarray:
    """2 (z - m_p - T (z - m)), with T of the unbiased covariance of weighted rows."""
    mean = weights @ rows
    centred = rows - mean
    sigma = (centred * weights[:, None]).T @ centred / (1 - np.square(weights).sum())
    values, vectors = np.linalg.eigh(target.sigma)
    root = (vectors * np.sqrt(values)) @ vectors.T
    values, vectors = np.linalg.eigh(root @ sigma @ root)
    transport = root @ (vectors / np.sqrt(values)) @ vectors.T @ root
    return 2 * (batch - target.mu - (batch - mean) @ transport)


def fd_of(rows: np.ndarray, weights: np.ndarray, target: Moments) -> float:
    """FD of the weighted rows, with their biased covariance."""
    mean = weights @ rows
    sigma = ((rows - mean) * weights[:, None]).T @ (rows - mean)
    values, vectors = np.linalg.eigh(target.sigma)
    root = (vectors * np.sqrt(values)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ sigma @ root).clip(0)).sum()
    return float(np.square(mean - target.mu).sum() + sigma.trace() + target.sigma.trace() - 2 * shared)


def diagonal_target(dim: int = 16) -> Moments:
    return Moments(np.zeros(dim), np.diag(1 / np.arange(1, dim + 1)))


def test_the_share_of_a_batch() -> None:
    expected = {
        1 / 3: 0.190983005625, 1 / 9: 0.075500200160, 1 / 19: 0.037620979073, 1 / 199: 0.003751175550,
        8 / 40: 0.126455261402,
    }  # fmt: skip
    for ratio, share in expected.items():
        assert batch_share(ratio) == pytest.approx(share, abs=1e-12)
        assert share == pytest.approx(0.75 * ((1 - share) ** 2 * ratio + share**2), abs=1e-12)
    assert batch_share(0) == 0 and batch_share(1e-12) == pytest.approx(0.75e-12) and batch_share(1e12) < 1
    steady = (1 - 0.999) / (1 + 0.999)
    assert batch_share(steady) / (1 - 0.999) == pytest.approx(3 / 8, abs=1e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_gradient_has_the_numbers_of_the_study(solver: str) -> None:
    fill, rows = torch.from_numpy(det_features(40, 16, 2)), torch.from_numpy(det_features(8, 16, 1))
    expected = {
        "debiased": (3.3410553515, -0.2524281603, -0.0983754345),
        "paper": (3.2655291391, -0.2547737200, -0.0758464623),
    }
    for batch_weight, (norm, first, last) in expected.items():
        term = make_term(EmaPopulation(0.8, batch_weight), diagonal_target(), solver, "unit")
        term.fill(fill)
        gradient = 8 * term.evaluate(rows).gradient
        found = float(torch.linalg.norm(gradient)), float(gradient[0, 0]), float(gradient[7, 15])
        assert found == pytest.approx((norm, first, last), abs=2e-9)


@dataclass(frozen=True)
class Case:
    """A history: rows of a fill, sizes of the batches before the one that is looked at, and its own size."""

    fill: int
    sizes: Sequence[int]
    size: int = 24
    beta: float = 0.8


CASES = {
    "filled": Case(80, (24, 24, 24)),
    "a fill that is worth less than the window": Case(30, (24, 24), beta=0.99),
    "not filled": Case(0, (24, 24, 24)),
    "sizes differ": Case(60, (24, 9, 40, 1), size=17),
    "sizes differ, not filled": Case(0, (40, 24, 9)),
    "beta 0": Case(0, (24, 24), beta=0.0),
}


def prepared(case: Case, solver: str, gradient: str = "unit") -> tuple[Any, Weighted, Any]:
    """The term and the oracle after the history, and the batch."""
    target, oracle = reference(12), Weighted(case.beta)
    term = make_term(EmaPopulation(case.beta, "debiased"), target, solver, gradient)
    if case.fill:
        rows = det_features(case.fill, 12, 5)
        term.fill(torch.from_numpy(rows[:13]))
        term.fill(torch.from_numpy(rows[13:]))
        oracle.fill(rows)
    for number, size in enumerate(case.sizes):
        rows = det_features(size, 12, 10 + number)
        term.evaluate(torch.from_numpy(rows))
        term.commit()
        oracle.step(rows)
    return term, oracle, det_features(case.size, 12, 1)


@pytest.mark.parametrize("solver", ["exact", "newton-schulz"])
@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_that_of_weighted_samples(name: str, solver: str) -> None:
    term, oracle, rows = prepared(CASES[name], solver)
    share = oracle.share(rows)
    value = term.evaluate(torch.from_numpy(rows))
    expected = gradient_of(rows, *oracle.take(rows, share), reference(12)) / len(rows)
    assert gap(value.gradient, torch.from_numpy(expected)) < 1e-9
    assert float(value.fd) == pytest.approx(fd_of(*oracle.take(rows, share), reference(12)), rel=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_the_average_takes_the_batch_as_it_always_does(name: str) -> None:
    """What is kept does not depend on the gradient's population, and it knows the sum of its squared weights."""
    term, oracle, rows = prepared(CASES[name], "exact")
    term.evaluate(torch.from_numpy(rows))
    term.commit()
    oracle.step(rows)
    mean = oracle.weights @ oracle.rows
    sigma = ((oracle.rows - mean) * oracle.weights[:, None]).T @ (oracle.rows - mean)
    state = term.state_dict()
    np.testing.assert_allclose(state["mean"], mean, atol=1e-13)
    np.testing.assert_allclose(state["sigma"], sigma, atol=1e-13)
    assert float(state["squares"]) == pytest.approx(np.square(oracle.weights).sum(), rel=1e-12)


def test_raw_gradients_have_the_weight_with_which_a_sample_is_kept() -> None:
    for name in ("filled", "not filled"):
        (raw, oracle, rows), (unit, _, _) = (prepared(CASES[name], "exact", scale) for scale in ("raw", "unit"))
        kept = oracle.take(rows)[1][-1]
        first, second = (term.evaluate(torch.from_numpy(rows)) for term in (raw, unit))
        assert gap(first.gradient, second.gradient * len(rows) * kept) < 1e-13
        assert torch.equal(first.fd, second.fd)


def test_the_first_batch_of_an_average_that_was_not_filled_is_all_of_it() -> None:
    rows = det_features(40, 12, 1)
    value = make_term(DEBIASED, reference(12), "exact", "unit").evaluate(torch.from_numpy(rows))
    expected = gradient_of(rows, rows, np.full(40, 1 / 40), reference(12)) / 40
    assert gap(value.gradient, torch.from_numpy(expected)) < 1e-10


# ------------------------------------------------------------------------------------------------------------ the bias


def stationary_bias(population: EmaPopulation, *, dim: int = 32, size: int = 16, steps: int = 700) -> float:
    """The mean of tr(G^T Z) / (B tr S) over steps of a generator that is at the reference, where it should be 0."""
    spectrum = torch.arange(1, dim + 1, dtype=torch.float64).reciprocal()
    term = make_term(population, Moments(np.zeros(dim), np.diag(spectrum.numpy())), "exact", "unit")
    draw, found = torch.Generator().manual_seed(1), []
    for step in range(steps + 100):
        rows = torch.randn(size, dim, dtype=torch.float64, generator=draw) * spectrum.sqrt()
        gradient = term.evaluate(rows).gradient / 2
        term.commit()
        if step >= 100:
            found.append(float((gradient * rows).sum() / spectrum.sum()))
    return float(np.mean(found))


def test_the_debiased_weight_removes_nine_tenths_of_the_bias() -> None:
    """The study has +.156 and +.016 ± .001; the bias is per unit of 2 (z - ...) there."""
    paper, debiased = (2 * stationary_bias(EmaPopulation(0.8, weight)) for weight in ("paper", "debiased"))
    assert paper == pytest.approx(0.156, abs=0.01)
    assert debiased == pytest.approx(0.016, abs=0.008)


def test_a_window_of_a_thousand_batches_has_no_bias_to_remove() -> None:
    """At beta = .999 both gradients are the same to a part in a hundred, once the fill has been forgotten."""
    rows = [torch.from_numpy(det_features(64, 16, seed)) for seed in (1, 2)]
    found = []
    for weight in ("paper", "debiased"):
        term = make_term(EmaPopulation(0.999, weight), diagonal_target(), "exact", "unit")
        term.fill(rows[1])
        state = term.state_dict()
        term.load_state_dict({**state, "squares": torch.tensor(1e-3 / 1.999 / 64, dtype=torch.float64)})
        found.append(term.evaluate(rows[0]))
    assert gap(found[1].gradient, found[0].gradient) < 3e-3
    assert float(found[1].fd) == pytest.approx(float(found[0].fd), rel=3e-3)


# ---------------------------------------------------------------------------------------------------- the fast solver


def pair_at(generator: Drift, beta: float, size: int) -> tuple[Any, Any]:
    """The fast and the exact term, filled, with a sum of squared weights as if the fill were long forgotten."""
    terms = [make_term(EmaPopulation(beta, "debiased"), generator.reference, solver) for solver in ("fast", "exact")]
    for term in terms:
        term.fill(generator.batch(0, 2000))
        squares = torch.tensor((1 - beta) / (1 + beta) / size, dtype=torch.float64)
        term.load_state_dict({**term.state_dict(), "squares": squares})
        entry = term.stepped(generator.batch(0, size).double())
        assert entry.share < 0.4 * entry.kept
    return terms[0], terms[1]


@pytest.mark.parametrize(
    ("rate", "beta", "size", "routes"),
    [
        pytest.param(0.002, 0.999, 256, {"frozen", "refresh"}, id="long-window"),
        pytest.param(0.005, 0.99, 64, {"frozen", "frozen-2", "refresh"}, id="middle"),
        pytest.param(0.005, 0.9, 256, {"refresh"}, id="short-window"),
        pytest.param(0.005, 0.5, 64, {"refresh"}, id="shortest"),
    ],
)
def test_the_fast_solver_follows_the_exact_one(rate: float, beta: float, size: int, routes: set[str]) -> None:
    generator = Drift(48, rate)
    fast, exact = pair_at(generator, beta, size)
    seen = set()
    for step in range(60):
        rows = generator.batch(step, size)
        a, b = fast.evaluate(rows), exact.evaluate(rows)
        assert float(a.fd) == pytest.approx(float(b.fd), rel=4e-6)
        assert gap(a.gradient, b.gradient) < 1e-3
        seen.add(a.diagnostics.route)
        fast.commit()
        exact.commit()
    assert routes <= seen
    kept, expected = _congruences(fast, exact, generator.reference)
    assert gap(kept, expected) < 1e-6


def _congruences(fast: Any, exact: Any, target: Moments) -> tuple[torch.Tensor, torch.Tensor]:
    """The eigenvalues of S_p S_q of both."""
    kept = torch.linalg.eigvalsh(fast.moments.basis.matrix64())
    root = torch.linalg.cholesky(torch.from_numpy(np.array(target.sigma)))
    return kept, torch.linalg.eigvalsh(root.T @ exact.moments.sigma @ root)


def test_chord_steps_of_the_gradients_population() -> None:
    """They are used, and the steps after them follow as closely."""
    generator = Drift(48, 0.005)
    fast, exact = pair_at(generator, 0.999, 256)
    errors: dict[str, list[float]] = {"refresh": [], "frozen": [], "frozen-2": []}
    for step in range(120):
        rows = generator.batch(step, 256)
        value = fast.evaluate(rows)
        errors[value.diagnostics.route].append(gap(value.gradient, exact.evaluate(rows).gradient))
        fast.commit()
        exact.commit()
    assert max(errors["frozen-2"]) < 5e-5 and max(errors["frozen"]) < 1.5e-3
    assert errors["refresh"] and max(errors["refresh"]) < 1e-6


@pytest.mark.parametrize("name", hazards())
def test_hazards_are_as_the_exact_solver_has_them(name: str) -> None:
    target, batches = hazards()[name]
    fast, exact = (make_term(EmaPopulation(0.9, "debiased"), target, solver) for solver in ("fast", "exact"))
    assert_equal_steps(fast, exact, batches)


def test_the_memory_of_a_pending_step_is_that_of_the_papers_weight() -> None:
    generator = Drift(48, 0.0)
    held = []
    for weight in ("paper", "debiased"):
        term = make_term(EmaPopulation(0.99, weight), generator.reference, "fast")
        term.fill(generator.batch(0, 4000))
        for step in range(3):
            term.evaluate(generator.batch(step, 256))
            assert isinstance(term, FastEmaTerm) and isinstance(term.pending.basis, Frozen)
            held.append(term.pending.basis.change.untyped_storage().nbytes())
            term.commit()
    assert held[1] == held[2] == held[4] == held[5] == 4 * 48 * 48


# -------------------------------------------------------------------------------------------------------------- states


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_state_goes_on_bit_for_bit(solver: str) -> None:
    generator = Drift(48, 0.002)
    term, resumed = (make_term(EmaPopulation(0.99, "debiased"), generator.reference, solver) for _ in range(2))
    term.fill(generator.batch(0, 1000))
    for step in range(4):
        term.evaluate(generator.batch(step, 64))
        term.commit()
    resumed.load_state_dict({name: value.clone() for name, value in term.state_dict().items()})
    for step in range(4, 8):
        a, b = (one.evaluate(generator.batch(step, 64)) for one in (term, resumed))
        assert torch.equal(a.fd, b.fd) and torch.equal(a.gradient, b.gradient)
        for one in (term, resumed):
            one.commit()
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in term.state_dict().items())


@pytest.mark.parametrize("fill", [0, 80])
@pytest.mark.parametrize("solver", ["exact", "fast"])
def test_a_state_from_before_there_was_a_sum_of_squared_weights_is_read(solver: str, fill: int) -> None:
    """The sum is then what it is for batches of one size, and nothing else depends on it for the paper's weight."""
    term, resumed = (make_term(EmaPopulation(0.8), reference(12), solver) for _ in range(2))
    if fill:
        term.fill(torch.from_numpy(det_features(fill, 12, 5)))
    for seed in range(3):
        term.evaluate(torch.from_numpy(det_features(24, 12, 10 + seed)))
        term.commit()
    old = {name: value.clone() for name, value in term.state_dict().items() if name != "squares"}
    resumed.load_state_dict(old)
    assert math.isnan(float(resumed.state_dict()["squares"]))
    rows = torch.from_numpy(det_features(24, 12, 1))
    a, b = (one.evaluate(rows) for one in (term, resumed))
    assert torch.equal(a.fd, b.fd) and torch.equal(a.gradient, b.gradient)
    for one in (term, resumed):
        one.commit()
    squares = [float(one.state_dict()["squares"]) for one in (term, resumed)]
    assert squares[0] == pytest.approx(squares[1], rel=1e-12) and squares[0] > 0


def test_an_unknown_batch_weight_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"Unknown batch weight 'debaised'; did you mean 'debiased'"):
        EmaPopulation(0.9, "debaised")


def test_the_text_of_a_population_is_that_of_saved_states() -> None:
    assert repr(EmaPopulation(0.9)) == "EmaPopulation(beta=0.9)"
    assert repr(EmaPopulation(0.9, "debiased")) == "EmaPopulation(beta=0.9, batch_weight='debiased')"
