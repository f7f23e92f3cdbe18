"""`LossOutput.fd_debiased`: theta against sums over all samples, and FD against the truth of known distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from covariances import rotation
from drawn_features import det_features
from loss_worlds import generator, make_loss, noise
from oracles import make_term, reference
from scipy.optimize import brentq
from test_frozen_basis import Drift
from torch import Tensor

import fdr
from fdr import frechet_distance
from fdr.frechet import Moments
from fdr.loss import EmaPopulation
from fdr.loss.debiased_value import Weights


def theta_of(weights: np.ndarray, h: float) -> float:
    """theta by a sum over all samples, and a root finder."""
    log_q = brentq(lambda t: (weights * math.exp(t) / (1 + weights * math.exp(t))).sum() - h, -30, 60, xtol=1e-13)
    return float((weights / (1 + weights * math.exp(log_q))).sum())


def weights_after(beta: float, sizes: list[int], fill: int) -> tuple[np.ndarray, float]:
    """The weights of all samples, and the share of the last batch."""
    weights, total = (np.full(fill, 1 / fill), 1.0) if fill else (np.empty(0), 0.0)
    share = 1.0
    for size in sizes:
        share = (1 - beta) / (beta * total + 1 - beta)
        total = beta * total + 1 - beta
        weights = np.concatenate([(1 - share) * weights, np.full(size, share / size)])
    return weights, share


@pytest.mark.parametrize(
    ("beta", "sizes", "fill", "tolerance"),
    [
        pytest.param(0.8, [16] * 80, 0, 1e-6, id="steady"),
        pytest.param(0.999, [32] * 300, 5000, 1e-6, id="part-of-a-fill"),
        pytest.param(0.999, [32] * 4000, 5000, 2e-5, id="long"),
        pytest.param(0.99, [32] * 20, 0, 1e-12, id="beginning"),
        pytest.param(0.5, [64] * 20, 0, 1e-5, id="short"),
        pytest.param(0.0, [64] * 3, 0, 1e-12, id="batch-alone"),
        pytest.param(0.9, [64, 32] * 30, 200, 5e-2, id="sizes-differ"),
    ],
)
def test_theta_is_that_of_all_samples(beta: float, sizes: list[int], fill: int, tolerance: float) -> None:
    each, share = weights_after(beta, sizes, fill)
    squares = np.square(each).sum()
    weights = Weights.of(share, squares, beta, len(sizes), fill)
    assert weights.totals.sum() == pytest.approx(1, abs=1e-12)
    for part in (0.01, 0.3, 0.9):
        h = part / squares
        assert weights.theta(np.array([h]))[0] == pytest.approx(theta_of(each, h), abs=tolerance)


def test_theta_has_the_numbers_of_the_study() -> None:
    """A steady average of beta = .8 and B = 16; the closed form of long memory is 7e-5 from it."""
    squares = (1 - 0.8) / (1 + 0.8) / 16
    found = Weights.of(0.2, squares, 0.8, 1000, 0).theta(np.array([8.0, 16.0]))
    assert found == pytest.approx([0.945457496, 0.892943475], abs=2e-8)
    t = 2 * np.array([8.0, 16.0]) * squares
    assert found == pytest.approx(t / np.expm1(t), abs=7e-5)


def values(population: EmaPopulation, transform: Tensor, offset: Tensor, steps: int, **options: int) -> np.ndarray:
    """The mean FD, raw and debiased, over steps of a generator that stands still, against diag(1 / k)."""
    dim, size = len(offset), options["size"]
    term = make_term(population, Moments(np.zeros(dim), np.diag(1 / np.arange(1, dim + 1))), "exact")
    draw, found = torch.Generator().manual_seed(0), []
    for step in range(steps):
        rows = torch.randn(size, dim, dtype=torch.float64, generator=draw) @ transform + offset
        value = term.evaluate(rows)
        term.commit()
        if step >= steps // 8:
            found.append((float(value.fd), value.fd_debiased))
    return np.mean(found, axis=0)


@pytest.mark.parametrize("batch_weight", ["paper", "debiased"])
@pytest.mark.parametrize("beta", [0.5, 0.8])
def test_nothing_is_left_of_the_bias_at_the_reference(beta: float, batch_weight: str) -> None:
    """The true FD is 0, so that all of the raw value is bias; at most a fiftieth of it is left, either way."""
    root = torch.diag(torch.arange(1, 25, dtype=torch.float64) ** -0.5)
    raw, debiased = values(EmaPopulation(beta, batch_weight), root, torch.zeros(24).double(), 300, size=12)
    assert raw > 0.1
    assert abs(debiased) < 0.025 * raw


def test_the_true_distance_is_found_far_from_the_reference() -> None:
    dim = 24
    other = rotation(dim, 3)
    change = torch.from_numpy((other * np.linspace(0.3, 1.7, dim)) @ other.T)
    transform = torch.diag(torch.arange(1, dim + 1, dtype=torch.float64) ** -0.5) @ change
    offset = 0.3 * torch.arange(1, dim + 1, dtype=torch.float64) ** -0.5
    target = Moments(np.zeros(dim), np.diag(1 / np.arange(1, dim + 1)))
    truth = frechet_distance(Moments(offset.numpy(), (transform.T @ transform).numpy()), target)
    raw, debiased = values(EmaPopulation(0.5), transform, offset, 900, size=12)
    assert raw - truth > 0.3
    assert abs(debiased - truth) < 0.05 * (raw - truth)


def test_the_fast_solver_has_the_value_of_the_exact_one() -> None:
    """At a refresh from its eigenvalues; in between by the size that the bias had then, relative to W."""
    drift = Drift(48, 0.002)
    fast, exact = (make_term(EmaPopulation(0.99), drift.reference, solver) for solver in ("fast", "exact"))
    for term in (fast, exact):
        term.fill(drift.batch(0, 400))
    routes = set()
    for step in range(60):
        a, b = (term.evaluate(drift.batch(step, 64)) for term in (fast, exact))
        assert a.fd_debiased is not None and b.fd_debiased is not None
        assert float(b.fd) - b.fd_debiased > 0.01
        close = 1e-5 if a.diagnostics.refreshed else 0.05 * (float(b.fd) - b.fd_debiased)
        assert a.fd_debiased == pytest.approx(b.fd_debiased, abs=close)
        routes.add(a.diagnostics.route)
        fast.commit()
        exact.commit()
    assert "frozen" in routes


def test_it_is_absent_where_it_is_not_known() -> None:
    rows = torch.from_numpy(det_features(24, 12, 1))
    few = make_term(EmaPopulation(0.9), reference(12), "exact").evaluate(rows[:11])
    assert few.fd_debiased is None
    assert make_term(EmaPopulation(0.9), reference(12), "newton-schulz").evaluate(rows).fd_debiased is None
    assert make_term(fdr.QueuePopulation(50), reference(12), "exact").evaluate(rows).fd_debiased is None
    constant = Moments(np.ones(12), np.zeros((12, 12)))
    value = make_term(EmaPopulation(0.9), constant, "exact").evaluate(rows)
    assert value.fd_debiased == pytest.approx(float(value.fd))


@pytest.mark.parametrize("solver", ["exact", "fast"])
def test_it_goes_on_with_a_state_and_is_read_without(solver: str) -> None:
    drift = Drift(48, 0.002)
    term, resumed, older = (make_term(EmaPopulation(0.99), drift.reference, solver) for _ in range(3))
    term.fill(drift.batch(0, 400))
    for step in range(4):
        term.evaluate(drift.batch(step, 64))
        term.commit()
    state = {name: value.clone() for name, value in term.state_dict().items()}
    resumed.load_state_dict(state)
    older.load_state_dict({name: value for name, value in state.items() if name not in ("squares", "excess")})
    a, b, c = (one.evaluate(drift.batch(4, 64)) for one in (term, resumed, older))
    assert a.fd_debiased == b.fd_debiased is not None
    assert torch.equal(a.fd, c.fd) and torch.equal(a.gradient, c.gradient)
    if solver == "exact":
        assert c.fd_debiased == pytest.approx(a.fd_debiased, rel=1e-9)
    else:
        assert c.fd_debiased is None  # until the next refresh


def test_the_loss_has_it_by_encoder() -> None:
    loss = make_loss(2)
    assert loss(generator()(noise(0))).fd_debiased.keys() == {"e0", "e1"}
    out = loss(generator()(noise(1)))
    assert all(out.fd[name] > value for name, value in out.fd_debiased.items())
    assert make_loss(1, population=fdr.BatchPopulation())(generator()(noise(0))).fd_debiased == {}
