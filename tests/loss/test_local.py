"""The solver local: printed digits, brute force over U-statistics, the lack of bias, hazards and states."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from covariances import features
from drawn_features import det_features
from oracles import batch, make_term, reference
from torch import Tensor

from fdr.errors import InputError
from fdr.frechet import Moments, frechet_distance
from fdr.loss import BatchPopulation, EmaPopulation, LossOptions, QueuePopulation
from fdr.loss.quadratic import Quadratic
from fdr.loss.rank_terms import make_term as make_term_of

GRADED = Moments(np.zeros(16), np.diag(1 / np.arange(1, 17)))
DIM = 5


def local(population: Any, target: Moments = GRADED, rho: float = 0.0, gradient: str = "unit") -> Any:
    return make_term_of(population, target, LossOptions("local", gradient=gradient, local_rho=rho))


def drawn(count: int, seed: int) -> Tensor:
    return torch.from_numpy(det_features(count, 16, seed))


def weights_of(target: Moments, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """The eigenbasis, and 1 / (sigma_i + sigma_j + 2 rho)."""
    values, basis = np.linalg.eigh(target.sigma)
    values = values.clip(0) + rho * values.mean()
    return basis, 1 / (values[:, None] + values)


def loss_of(mean: np.ndarray, sigma: np.ndarray, target: Moments, rho: float) -> float:
    basis, weights = weights_of(target, rho)
    gap = basis.T @ (sigma - target.sigma) @ basis
    return float(np.square(mean - target.mu).sum() + 0.5 * (weights * gap**2).sum())


def slope_of(mean: np.ndarray, sigma: np.ndarray, target: Moments, rho: float, row: np.ndarray) -> np.ndarray:
    """The gradient of the loss of a population in a new sample of it, per weight of the sample."""
    basis, weights = weights_of(target, rho)
    gap = basis @ (weights * (basis.T @ (sigma - target.sigma) @ basis)) @ basis.T
    return 2 * (mean - target.mu) + 2 * (row - mean) @ gap


# ------------------------------------------------------------------------------------------------------------- oracles


def test_the_printed_digits_of_another_implementation_of_the_batch() -> None:
    gradient = local(EmaPopulation(0.0)).evaluate(drawn(24, 1)).gradient * 24
    found = float(torch.linalg.norm(gradient)), float(gradient[0, 0]), float(gradient[-1, -1])
    assert found == pytest.approx((8.86173113, 0.24175446, 0.14652541), abs=6e-9)


def test_the_printed_digits_of_another_implementation_of_an_average() -> None:
    """It divides the covariance of the other samples by 1 - W - w, which is unbiased for equal weights only."""
    history, rows, w = drawn(40, 2), drawn(8, 1), 0.2 / 8
    squares = 0.8**2 / 40 + 0.2**2 / 8
    term = local(EmaPopulation(0.8))
    term.fill(history)
    gradient = term.evaluate(rows).gradient * 8
    mean = 0.8 * history.mean(0) + 0.2 * rows.mean(0)
    sigma = 0.8 * history.T @ history / 40 + 0.2 * rows.T @ rows / 8 - torch.outer(mean, mean)
    x, weights = rows - mean, torch.from_numpy(weights_of(GRADED, 0.0)[1]).flip(0, 1)
    others = x @ (weights * sigma) - w / (1 - w) * x * (x.square() @ weights)
    theirs, ours = 1 / (1 - squares - w), (1 - w) / ((1 - w) ** 2 - squares + w**2)
    gradient = gradient + 2 / (1 - w) * (theirs - ours) * others
    found = float(torch.linalg.norm(gradient)), float(gradient[0, 0]), float(gradient[-1, -1])
    assert found == pytest.approx((3.1048360188, -0.2278903294, -0.0836512164), abs=6e-11)


@pytest.mark.parametrize("rho", [0.0, 0.3])
@pytest.mark.parametrize("is_filled", [True, False])
def test_the_gradient_of_an_average_is_that_of_all_the_other_samples(is_filled: bool, rho: float) -> None:
    """Weighted moments without the sample, unbiased, put into the gradient of the loss."""
    target, beta = reference(DIM), 0.7
    parts = [batch(size, DIM, seed).numpy() for size, seed in ((9, 1), (6, 2), (7, 3))]
    term = local(EmaPopulation(beta), target, rho)
    if is_filled:
        term.fill(torch.from_numpy(parts[0]))
    else:
        term.evaluate(torch.from_numpy(parts[0]))
        term.commit()
    term.evaluate(torch.from_numpy(parts[1]))
    term.commit()
    found = term.evaluate(torch.from_numpy(parts[2])).gradient.numpy() * 7
    first = beta**2 if is_filled else beta**2 * (1 - beta)
    shares = np.array([first, beta * (1 - beta), 1 - beta])
    rows = np.concatenate(parts)
    weights = np.repeat(shares / shares.sum() / (9, 6, 7), (9, 6, 7))
    for index in range(7):
        own = weights.copy()
        own[15 + index] = 0
        own /= own.sum()
        mean = own @ rows
        sigma = ((rows - mean).T * own) @ (rows - mean) / (1 - (own**2).sum())
        expected = slope_of(mean, sigma, target, rho, parts[2][index])
        np.testing.assert_allclose(found[index], expected, rtol=1e-9, atol=1e-10)


def test_the_loss_of_a_batch_is_a_u_statistic() -> None:
    """mean over distinct a, b, c, d of sum W_ij s_ij(a, b) s_ij(c, d), with s(a, b) = (z_a - z_b) (z_a - z_b)^T / 2."""
    target, rows = reference(3), batch(6, 3, 4).numpy()
    basis, weights = weights_of(target, 0.1)
    z, own = (rows - target.mu) @ basis, basis.T @ target.sigma @ basis
    products = [
        (weights * np.outer(z[a] - z[b], z[a] - z[b]) * np.outer(z[c] - z[d], z[c] - z[d])).sum() / 4
        for a, b, c, d in itertools.permutations(range(6), 4)
    ]
    sigma = np.cov(z.T)
    pairs = [z[a] @ z[b] for a, b in itertools.permutations(range(6), 2)]
    expected = np.mean(pairs) + 0.5 * (np.mean(products) - 2 * (weights * own * sigma).sum() + (weights * own**2).sum())
    value = local(BatchPopulation(), target, 0.1).evaluate(torch.from_numpy(rows))
    assert value.fd_debiased == pytest.approx(expected, rel=1e-11)
    assert float(value.fd) == pytest.approx(loss_of(rows.mean(0), np.cov(rows.T), target, 0.1), rel=1e-11)
    assert value.fd_debiased < float(value.fd)


def test_the_gradient_of_a_batch_is_that_of_its_unbiased_loss() -> None:
    target, rows = reference(DIM), batch(9, DIM, 3)
    term = local(BatchPopulation(), target, 0.05, "raw")
    gradient = term.evaluate(rows).gradient
    for row, column in ((0, 0), (4, 2), (8, 4)):
        sides = []
        for step in (1e-5, -1e-5):
            moved = rows.clone()
            moved[row, column] += step
            sides.append(term.evaluate(moved).fd_debiased)
        assert (sides[0] - sides[1]) / 2e-5 == pytest.approx(float(gradient[row, column]), rel=1e-7, abs=1e-9)


def test_the_value_of_an_average_is_the_loss_of_its_moments() -> None:
    target, rows = reference(DIM), batch(30, DIM, 5).numpy()
    term = local(EmaPopulation(0.9), target, 0.02)
    term.fill(torch.from_numpy(rows))
    new = batch(10, DIM, 6).numpy()
    value = term.evaluate(torch.from_numpy(new))
    weights = np.repeat([0.9 / 30, 0.1 / 10], [30, 10])
    both = np.concatenate([rows, new])
    mean = weights @ both
    sigma = ((both - mean).T * weights) @ (both - mean) / (1 - (weights**2).sum())
    assert float(value.fd) == pytest.approx(loss_of(mean, sigma, target, 0.02), rel=1e-11)


def test_near_the_reference_it_is_fd() -> None:
    target = reference(DIM)
    for far, tolerance in ((1e-2, 0.03), (1e-3, 0.003)):
        other = np.random.default_rng(0).standard_normal((DIM, DIM)) * far
        sigma = (np.eye(DIM) + other) @ target.sigma @ (np.eye(DIM) + other).T
        near = Moments(target.mu + far, sigma)
        expected = frechet_distance(near, target)
        assert loss_of(near.mu, near.sigma, target, 0.0) == pytest.approx(expected, rel=tolerance)


# ---------------------------------------------------------------------------------------------------------------- laws


def skewed(count: int, generator: torch.Generator) -> Tensor:
    """Correlated exponential features [count, 4] of mean 0, far from Gaussian."""
    draws = -torch.rand(count, 4, generator=generator, dtype=torch.float64).log() - 1
    return draws @ torch.tensor([[1.0, 0.5, 0, 0], [0, 1, 0.5, 0], [0, 0, 1, 0.5], [0, 0, 0, 1]]).double()


@pytest.mark.parametrize("population", [BatchPopulation(), EmaPopulation(0.5)])
def test_nothing_is_biased_at_the_reference(population: Any) -> None:
    """Means over batches of six skewed samples of the gradient along each sample, its plain mean, and the loss."""
    generator = torch.Generator().manual_seed(0)
    root = torch.tensor([[1.0, 0.5, 0, 0], [0, 1, 0.5, 0], [0, 0, 1, 0.5], [0, 0, 0, 1]]).double()
    target = Moments(np.zeros(4), (root.T @ root).numpy())
    term, raw = local(population, target), make_term(population, target, "exact", "unit")
    found = []
    for step in range(500):
        rows = skewed(6, generator)
        value, theirs = term.evaluate(rows), raw.evaluate(rows)
        term.commit()
        raw.commit()
        if step >= 10:
            along = [float((one.gradient * rows).sum()) for one in (value, theirs)]
            found.append([*along, value.fd_debiased, float(value.fd)])
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / len(found) ** 0.5
    assert abs(mean[0]) < 3.5 * error[0]
    assert mean[1] > 10 * error[1]  # the exact gradient shrinks
    assert abs(mean[2]) < (3.5 * error[2] if isinstance(population, BatchPopulation) else 0.1 * mean[3])


def test_rho_moves_no_minimum() -> None:
    """At equal moments the loss is 0 whatever rho is, and rho changes it elsewhere."""
    target = reference(DIM)
    values, basis = np.linalg.eigh(target.sigma)
    ends = np.concatenate([np.eye(DIM), -np.eye(DIM)]) * (DIM - 0.1) ** 0.5  # 10 rows of unbiased covariance I
    ends *= (9 / 2 / (DIM - 0.1)) ** 0.5
    rows = torch.from_numpy(target.mu + (ends * np.sqrt(values)) @ basis.T)
    found = [local(BatchPopulation(), target, rho).evaluate(rows) for rho in (0.0, 0.1, 1.0)]
    assert all(float(value.fd) < 1e-12 for value in found)
    elsewhere = [float(local(BatchPopulation(), target, rho).evaluate(rows * 1.1).fd) for rho in (0.0, 0.1, 1.0)]
    assert elsewhere[0] > elsewhere[1] > elsewhere[2] > 0


def test_weights_are_a_thin_product() -> None:
    values = torch.logspace(-6, 0, 120, dtype=torch.float64)
    quadratic = Quadratic.around(torch.eye(120, dtype=torch.float64), values, 1e-3)
    assert quadratic.thin.shape[1] < 50
    torch.testing.assert_close(quadratic.thin @ quadratic.thin.T, quadratic.weights, rtol=1e-9, atol=0)


def test_raw_is_unit_times_the_share() -> None:
    for population, share in ((EmaPopulation(0.9), 0.1), (BatchPopulation(), 1.0)):
        raw, unit = (local(population, gradient=kind) for kind in ("raw", "unit"))
        for term in (raw, unit):
            term.fill(drawn(40, 2))
        rows = drawn(8, 1)
        torch.testing.assert_close(
            raw.evaluate(rows).gradient, unit.evaluate(rows).gradient * share, rtol=1e-12, atol=0
        )


def test_float32_features_lose_no_more_than_their_own_digits() -> None:
    target = Moments(np.full(48, 3.0), np.diag(np.arange(1.0, 49) ** -2))
    narrow, wide = (local(EmaPopulation(0.9), target, 0.01) for _ in range(2))
    for seed in range(4):
        rows = torch.from_numpy(det_features(20, 48, seed + 1) + 3).float()
        a, b = narrow.evaluate(rows), wide.evaluate(rows.double())
        narrow.commit()
        wide.commit()
        assert a.gradient.dtype == torch.float32
        assert float(torch.linalg.norm(a.gradient - b.gradient)) <= 2e-6 * float(torch.linalg.norm(b.gradient))
        assert float(a.fd) == pytest.approx(float(b.fd), rel=2e-6)
    assert narrow.moments.sigma.dtype == narrow.moments.average.mean.dtype == torch.float64


def test_a_rotated_and_shifted_world_has_the_rotated_gradient() -> None:
    turn = torch.from_numpy(np.linalg.qr(np.random.default_rng(1).standard_normal((16, 16)))[0])
    there = Moments(np.full(16, 2.0), (turn.T @ torch.from_numpy(GRADED.sigma.copy()) @ turn).numpy())
    rows = drawn(9, 1)
    here, other = local(EmaPopulation(0.9)).evaluate(rows), local(EmaPopulation(0.9), there).evaluate(rows @ turn + 2)
    torch.testing.assert_close(other.gradient, here.gradient @ turn, rtol=1e-8, atol=1e-10)
    assert other.fd_debiased == pytest.approx(here.fd_debiased, rel=1e-9)


# ------------------------------------------------------------------------------------------------------------- hazards


def dead(count: int = 4) -> Moments:
    return Moments(np.zeros(16), np.diag(np.where(np.arange(16) < 16 - count, 1 / np.arange(1, 17), 0)))


@pytest.mark.parametrize("population", [BatchPopulation(), EmaPopulation(0.9)])
def test_dead_features_of_the_reference(population: Any) -> None:
    """The gradient is finite, and pulls features to a constant that are constant in the reference."""
    rows = drawn(24, 1)
    value = local(population, dead(), 0.01).evaluate(rows)
    assert value.gradient.isfinite().all()
    assert (value.gradient[:, 12:] * rows[:, 12:]).sum() > 0
    constant = rows.clone()
    constant[:, 12:] = 0
    assert not local(population, dead(), 0.01).evaluate(constant).gradient[:, 12:].any()
    thin = Moments.from_features(features(9, 16, 3))
    assert local(population, thin, 0.01).evaluate(rows).gradient.isfinite().all()


def test_equal_samples() -> None:
    value = local(BatchPopulation(), GRADED, 0.01).evaluate(torch.ones(20, 16, dtype=torch.float64))
    torch.testing.assert_close(value.gradient * 20, torch.full((20, 16), 2.0, dtype=torch.float64))


def test_what_cannot_be_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"does not vary in 4 of 16 directions, .* rho above 0, such as 0.01"):
        local(BatchPopulation(), dead())
    with pytest.raises(InputError, match="needs four samples or more in the population; here they are worth 3"):
        local(BatchPopulation()).evaluate(drawn(3, 1))
    for population in (QueuePopulation(40), EmaPopulation(0.9, "debiased"), BatchPopulation("debiased")):
        with pytest.raises(InputError, match=r"The solver local .*choose another solver, or for this one an EMA"):
            local(population)
    for rho in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"rho is .*expected 0 or a number above it"):
            LossOptions("local", local_rho=rho)


# -------------------------------------------------------------------------------------------------------- as a loss


def test_the_state_holds_the_basis_that_it_is_in() -> None:
    """A machine whose eigenvectors have other signs goes on all the same, bit for bit."""
    first, second = (local(EmaPopulation(0.9), reference(DIM), 0.01) for _ in range(2))
    first.fill(batch(30, DIM, 1))
    first.evaluate(batch(8, DIM, 2))
    first.commit()
    turned = Quadratic.around(-second.quadratic.basis, second.quadratic.values, 0.01)
    second.quadratic = turned
    second.load_state_dict(first.state_dict())
    for seed in (3, 4):
        a, b = first.evaluate(batch(8, DIM, seed)), second.evaluate(batch(8, DIM, seed))
        assert torch.equal(a.gradient, b.gradient) and torch.equal(a.fd, b.fd)
        first.commit()
        second.commit()


def test_a_step_that_is_not_taken_changes_nothing() -> None:
    term = local(EmaPopulation(0.9))
    term.fill(drawn(40, 2))
    once = term.evaluate(drawn(8, 1))
    term.discard()
    again = term.evaluate(drawn(8, 1))
    assert torch.equal(once.gradient, again.gradient)


def test_the_history_can_be_carried_along() -> None:
    """With the same noise at every step the population is that of the present weights."""
    term = local(EmaPopulation(0.9, lag_correction=True), GRADED, 0.01)
    noise, weights = drawn(24, 1), torch.eye(16, dtype=torch.float64)
    term.evaluate(noise)
    term.commit()
    for seed in range(3):
        before, weights = weights, weights + 0.05 * torch.from_numpy(det_features(16, 16, seed + 5))
        term.evaluate_carried(noise @ weights, noise @ before)
        term.commit()
    rows = noise @ weights
    expected = (rows - rows.mean(0)).T @ (rows - rows.mean(0)) / 24
    basis = term.quadratic.basis
    torch.testing.assert_close(basis @ term.moments.sigma @ basis.T, expected, rtol=1e-11, atol=1e-12)


def test_training_on_it_reaches_the_reference() -> None:
    """A linear generator with six dead directions, batches below the width: FD falls to what batches can teach."""
    target, generator = dead(6), torch.Generator().manual_seed(0)
    root = torch.from_numpy(np.sqrt(target.sigma.copy()))
    matrix = (root + 0.1 * torch.randn(16, 16, generator=generator, dtype=torch.float64)).requires_grad_()
    optimizer = torch.optim.Adam([matrix], lr=0.01)
    term = local(EmaPopulation(0.9), target, 0.01)

    def fd() -> float:
        found = matrix.detach()
        return frechet_distance(Moments(np.zeros(16), (found.T @ found).numpy()), target)

    start = fd()
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 150)
        rows = torch.randn(12, 16, generator=generator, dtype=torch.float64) @ matrix
        value = term.evaluate(rows)
        term.commit()
        optimizer.zero_grad()
        rows.backward(value.gradient)
        optimizer.step()
    assert fd() < 0.05 * start
