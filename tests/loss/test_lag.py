"""Lag correction: the history of an EMA is carried along with the weights, with a floor on its eigenvalues."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from loss_worlds import (
    ClassGenerator,
    drawn,
    generator,
    gradient_of,
    labels_of_step,
    make_conditional_loss,
    make_loss,
    noise,
)
from oracles import batch, make_term, moments_of, reference
from torch import Tensor, nn

import fdr
from fdr.errors import InputError, PeerError
from fdr.loss.transport import FLOOR, Target, solve_exact, solve_floored

DIM, SIZE, BETA = 6, 20, 0.9
POPULATION = fdr.EmaPopulation(BETA, lag_correction=True)


def features(step: int, latents: Tensor) -> Tensor:
    """Of a linear generator, which moves fast."""
    return latents @ (drawn(40, 8, DIM) + 0.3 * step * drawn(41, 8, DIM)) + 0.2 * step * drawn(42, DIM)


def shrinking(step: int, latents: Tensor) -> Tensor:
    """Of a linear generator that soon makes everything equal: what a batch says about it is wrong for other noise."""
    return 0.3**step * latents @ drawn(40, 8, DIM)


def stepped(term: Any, steps: int, latents: Any, features: Any = features) -> None:
    for step in range(steps):
        rows = features(step, latents(step))
        if step:
            term.evaluate_carried(rows, features(step - 1, latents(step)))
        else:
            term.evaluate(rows)
        term.commit()


@pytest.mark.parametrize("solver", ["exact", "fast"])
@pytest.mark.parametrize("batch_weight", ["paper", "debiased"])
def test_with_the_same_noise_at_every_step_the_history_is_the_batch_at_the_present_weights(
    batch_weight: str, solver: str
) -> None:
    population = fdr.EmaPopulation(BETA, batch_weight, lag_correction=True)
    term, latents = make_term(population, reference(DIM), solver), drawn(1, SIZE, 8)
    stepped(term, 12, lambda _: latents)
    mean, sigma = moments_of(features(11, latents))
    state = term.state_dict()
    assert torch.linalg.norm(state["mean"] - mean) <= 1e-14 * torch.linalg.norm(mean)
    if solver == "exact":
        assert torch.linalg.norm(state["sigma"] - sigma) <= 1e-14 * torch.linalg.norm(sigma)
    else:
        assert float(state["trace"]) == pytest.approx(float(sigma.trace()), rel=1e-13)
        matrix = term.moments.basis.factor.T @ sigma @ term.moments.basis.factor
        assert torch.linalg.norm(term.moments.basis.matrix64() - matrix) <= 1e-5 * torch.linalg.norm(matrix)


def raw_moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows.mean(0), rows.T @ rows / len(rows)


def oracle(steps: int, latents: Any, target: fdr.Moments, features: Any = features) -> tuple[float, np.ndarray, float]:
    """FD and gradient of the last of `steps` in NumPy, in raw second moments; and the least eigenvalue over its floor.

    M is S_p^{1/2} S_q S_p^{1/2}, so that its eigenvectors are in another basis than those of the solver.
    """
    now = [features(step, latents(step)).numpy() for step in range(steps)]
    before = [features(max(step - 1, 0), latents(step)).numpy() for step in range(steps)]
    first, second, weight = np.zeros(DIM), np.zeros((DIM, DIM)), 0.0
    for rows, old in zip(now, before, strict=True):
        if weight:  # the averages are kept divided by the sum of the weights
            first = first + raw_moments(rows)[0] - raw_moments(old)[0]
            second = second + raw_moments(rows)[1] - raw_moments(old)[1]
        weight = BETA * weight + 1 - BETA
        share = (1 - BETA) / weight
        first = (1 - share) * first + share * raw_moments(rows)[0]
        second = (1 - share) * second + share * raw_moments(rows)[1]
    sigma = second - np.outer(first, first)
    spectrum, vectors = np.linalg.eigh(target.sigma)
    root = (vectors * np.sqrt(spectrum)) @ vectors.T
    values, vectors = np.linalg.eigh(root @ sigma @ root)
    floor = 0.01 * np.einsum("ai,ab,bi->i", vectors, target.sigma @ target.sigma, vectors)
    raised = np.maximum(values, floor)
    transport = root @ (vectors / np.sqrt(raised)) @ vectors.T @ root
    inverse = np.linalg.inv(root)
    lifted = inverse @ (vectors * raised) @ vectors.T @ inverse
    fd = ((first - target.mu) ** 2).sum() + np.trace(lifted) + np.trace(target.sigma) - 2 * np.sqrt(raised).sum()
    gradient = 2 * share / len(now[-1]) * (first - target.mu + (now[-1] - first) @ (np.eye(DIM) - transport))
    return float(fd), gradient, float((values / floor).min())


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_step_is_that_of_numpy(steps: int) -> None:
    target, latents = reference(DIM), lambda step: drawn(60 + step, SIZE, 8)
    fd, gradient, _ = oracle(steps, latents, target)
    term = make_term(POPULATION, target, "exact")
    stepped(term, steps - 1, latents)
    last = steps - 1
    rows = features(last, latents(last))
    value = term.evaluate_carried(rows, features(max(last - 1, 0), latents(last)))
    assert float(value.fd) == pytest.approx(fd, rel=1e-11)
    assert np.linalg.norm(value.gradient.numpy() - gradient) <= 1e-11 * np.linalg.norm(gradient)


def test_steps_whose_history_is_not_positive_definite_are_those_of_numpy() -> None:
    """A generator that moves far makes eigenvalues below the floor; this is what the floor is for."""
    target, latents = reference(DIM), lambda step: drawn(60 + step, 5, 8)
    fd, gradient, least = oracle(4, latents, target, shrinking)
    assert least < 0
    term = make_term(POPULATION, target, "exact")
    stepped(term, 3, latents, shrinking)
    value = term.evaluate_carried(shrinking(3, latents(3)), shrinking(2, latents(3)))
    assert value.diagnostics.route == "floored"
    assert float(value.fd) == pytest.approx(fd, rel=1e-10) and fd > 0
    assert np.linalg.norm(value.gradient.numpy() - gradient) <= 1e-9 * np.linalg.norm(gradient)


# ------------------------------------------------------------------------------------------------------------ the floor


def spectra(least: float) -> tuple[Target, Tensor]:
    """A reference, and a covariance that shares its eigenvectors but for a factor by direction, one of them least."""
    target = reference(DIM)
    values, vectors = np.linalg.eigh(target.sigma)
    ratios = np.array([least, 0.5, 1.0, 2.0, 0.3, 1.5])
    return Target.of(target, torch.device("cpu")), torch.from_numpy((vectors * (ratios * values)) @ vectors.T)


@pytest.mark.parametrize("least", [0.02, 0.009, 0.0, -0.5])
def test_a_direction_is_raised_to_a_hundredth_of_the_variance_of_the_reference(least: float) -> None:
    target, sigma = spectra(least)
    rows = drawn(5, 9, DIM)
    found = solve_floored(target, sigma, rows)
    _, raised = spectra(max(least, FLOOR))
    expected = solve_exact(target, raised, rows)
    assert float(found.root_trace) == pytest.approx(float(expected.root_trace), rel=1e-11)
    assert torch.allclose(found.moved, expected.moved, rtol=1e-9, atol=1e-12)
    assert float(sigma.trace() + found.raised) == pytest.approx(float(raised.trace()), rel=1e-11)
    assert (found.diagnostics.route == "floored") == (least < FLOOR)


def test_the_floor_is_that_of_a_reference_of_few_samples_too() -> None:
    """Its covariance is singular, so that its factor is not triangular."""
    rows = drawn(8, 4, DIM)
    target = Target.of(fdr.Moments.from_features(rows.numpy()), torch.device("cpu"))
    sigma = torch.from_numpy(-fdr.Moments.from_features(rows.numpy()).sigma)
    found = solve_floored(target, sigma, rows)
    assert float(found.root_trace) == pytest.approx(FLOOR**0.5 * target.trace, rel=1e-10)
    assert float(sigma.trace() + found.raised) == pytest.approx(FLOOR * target.trace, rel=1e-10)


@pytest.mark.parametrize("condition", [1e3, 1e9])
def test_a_positive_definite_population_is_solved_as_without_a_floor(condition: float) -> None:
    spectrum = np.geomspace(1, 1 / condition, 12)
    basis = np.linalg.qr(drawn(3, 12, 12).numpy())[0]
    sigma = (basis * spectrum) @ basis.T
    target = Target.of(fdr.Moments(np.zeros(12), (sigma + sigma.T) / 2), torch.device("cpu"))
    turn = np.eye(12) + 0.05 * drawn(4, 12, 12).numpy() / 12**0.5
    root = (basis * spectrum**0.5) @ turn
    rows, population = drawn(5, 7, 12) @ torch.from_numpy(root.T), torch.from_numpy(root @ root.T)
    found, expected = (solve(target, population, rows) for solve in (solve_floored, solve_exact))
    assert float(found.root_trace) == pytest.approx(float(expected.root_trace), rel=1e-10)
    assert torch.linalg.norm(found.moved - expected.moved) <= 1e-8 * torch.linalg.norm(expected.moved)
    assert float(found.raised) == 0


# ----------------------------------------------------------------------------------------------------------- the term


def gradients(steps: int, latents: Any, population: fdr.EmaPopulation, is_still: bool = False) -> Tensor:
    """The gradient of the last of `steps` of a generator that moves, or stands still."""
    term = make_term(population, reference(DIM), "exact")
    for step in range(steps):
        rows = features(0 if is_still else step, latents(step))
        before = features(0 if is_still else max(step - 1, 0), latents(step))
        value = term.evaluate_carried(rows, before) if population.lag_correction else term.evaluate(rows)
        term.commit()
    return value.gradient


@pytest.mark.parametrize("is_still", [True, False])
def test_the_correction_changes_the_gradient_of_a_generator_that_moves_and_no_other(is_still: bool) -> None:
    latents = lambda step: drawn(60 + step, SIZE, 8)  # noqa: E731
    plain = gradients(6, latents, fdr.EmaPopulation(BETA), is_still)
    carried = gradients(6, latents, POPULATION, is_still)
    gap = float((plain - carried).norm() / plain.norm())
    assert gap < 1e-11 if is_still else gap > 0.01


@pytest.mark.parametrize("batch_weight", ["paper", "debiased"])
def test_the_fast_solver_follows_the_exact_one(batch_weight: str) -> None:
    """Its frozen basis is carried along in float32, between exact refreshes."""
    population = fdr.EmaPopulation(0.999, batch_weight, lag_correction=True)
    target = reference(DIM)
    root = torch.from_numpy(np.linalg.cholesky(target.sigma))

    def near(step: int, latents: Tensor) -> Tensor:
        turn = torch.eye(DIM, dtype=torch.float64) + 0.0005 * step * drawn(43, DIM, DIM)
        return latents @ turn @ root.T

    fast, exact = (make_term(population, target, solver) for solver in ("fast", "exact"))
    for term in (fast, exact):
        term.fill(near(0, drawn(199, 40_000, DIM)))
    routes = []
    for step in range(40):
        latents = drawn(200 + step, 200, DIM)
        rows, before = near(step, latents), near(max(step - 1, 0), latents)
        found, expected = (term.evaluate_carried(rows, before) for term in (fast, exact))
        assert float(found.fd) == pytest.approx(float(expected.fd), abs=1e-4 * float(target.sigma.trace()))
        assert torch.linalg.norm(found.gradient - expected.gradient) <= 2e-3 * torch.linalg.norm(expected.gradient)
        routes.append(found.diagnostics.route)
        fast.commit()
        exact.commit()
    assert routes.count("frozen") >= 15


def test_the_fast_solver_raises_the_same_directions() -> None:
    latents = lambda step: drawn(60 + step, 5, 8)  # noqa: E731
    values = []
    for solver in ("fast", "exact"):
        term = make_term(POPULATION, reference(DIM), solver)
        stepped(term, 3, latents, shrinking)
        values.append(term.evaluate_carried(shrinking(3, latents(3)), shrinking(2, latents(3))))
    fast, exact = values
    assert fast.diagnostics.route == exact.diagnostics.route == "floored"
    assert float(fast.fd) == pytest.approx(float(exact.fd), rel=1e-9)
    assert torch.linalg.norm(fast.gradient - exact.gradient) <= 1e-8 * torch.linalg.norm(exact.gradient)
    assert fast.fd_debiased is exact.fd_debiased is None


@pytest.mark.parametrize("solver", ["exact", "fast"])
def test_a_state_of_a_carried_history_goes_on_bit_for_bit(solver: str) -> None:
    latents = lambda step: drawn(60 + step, SIZE, 8)  # noqa: E731
    first, second = (make_term(POPULATION, reference(DIM), solver) for _ in range(2))
    stepped(first, 3, latents)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for step in (3, 4):
        values = []
        for term in (first, second):
            values.append(term.evaluate_carried(features(step, latents(step)), features(step - 1, latents(step))))
            term.commit()
        assert torch.equal(values[0].gradient, values[1].gradient) and values[0].fd == values[1].fd


def test_a_history_may_be_carried_at_every_second_step_only() -> None:
    population = fdr.EmaPopulation(BETA, lag_correction=2)
    net, loss = generator(), make_loss(population=population)
    for step in range(5):
        images = net(noise(step))
        if step in (2, 4):
            with pytest.raises(InputError, match="images of the previous weights are missing"):
                loss(images)
        loss(images, previous=images.detach() if step in (2, 4) else None).total.backward()
    with pytest.raises(InputError, match="lag_correction is -1"):
        fdr.EmaPopulation(lag_correction=-1)


def test_a_batch_that_is_dropped_leaves_the_history_where_it_was() -> None:
    term, latents = make_term(POPULATION, reference(DIM), "exact"), lambda step: drawn(60 + step, SIZE, 8)
    stepped(term, 3, latents)
    before = copy.deepcopy(term.state_dict())
    term.evaluate_carried(features(3, latents(3)), features(2, latents(3)))
    assert all(torch.equal(value, before[name]) for name, value in term.state_dict().items())
    term.discard()
    assert all(torch.equal(value, before[name]) for name, value in term.state_dict().items())


def test_an_empty_history_is_not_carried() -> None:
    rows = batch(SIZE, DIM, 3)
    first = make_term(POPULATION, reference(DIM), "exact").evaluate_carried(rows, rows + 5.0)
    assert torch.equal(first.gradient, make_term(POPULATION, reference(DIM), "exact").evaluate(rows).gradient)


# ------------------------------------------------------------------------------------------------------------- the loss


class Training:
    """Steps of FDLoss with lag correction on the small world, with the weights of the step before."""

    def __init__(self, **options: Any) -> None:
        self.net, self.loss = generator(), make_loss(population=POPULATION, **options)
        self.old: nn.Module | None = None
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.02)

    def step(self, number: int, chunks: int = 1) -> dict[str, float]:
        """One step; the gradient is kept in `gradient`."""
        with torch.no_grad():
            before = None if self.old is None else self.old(noise(number))
        if chunks > 1:
            parts = noise(number).chunk(chunks)
            earlier = None if before is None else before.chunk(chunks)
            out = self.loss.accumulate(
                lambda i: self.net(parts[i]), chunks, previous=None if earlier is None else lambda i: earlier[i]
            )
        else:
            out = self.loss(self.net(noise(number)), previous=before)
            out.total.backward()
        self.old = copy.deepcopy(self.net)
        self.optimizer.step()
        self.gradient = gradient_of(self.net)
        return out.fd


def test_the_loss_carries_trained_encoders_and_not_watched_ones() -> None:
    training = Training(weights={"e1": 0.0})
    plain = make_loss(population=fdr.EmaPopulation(BETA), weights={"e1": 0.0})
    for step in range(4):
        again = plain(training.net(noise(step)))
        plain.commit()
        fd = training.step(step)
    assert fd["e1"] == again.fd["e1"] and fd["e0"] != again.fd["e0"]


@pytest.mark.parametrize("chunks", [2, 3])
def test_accumulate_gives_what_the_whole_batch_gives(chunks: int) -> None:
    whole, parts = Training(), Training()
    for step in range(4):
        fds, again = whole.step(step), parts.step(step, chunks)
        assert fds == pytest.approx(again, rel=1e-10)
        torch.testing.assert_close(whole.gradient, parts.gradient, rtol=1e-7, atol=1e-11)


def test_a_loaded_state_goes_on_bit_for_bit() -> None:
    first = Training()
    for step in range(3):
        first.step(step)
    second = Training()
    second.net.load_state_dict(first.net.state_dict())
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.loss.load_state_dict(first.loss.state_dict())
    second.old = copy.deepcopy(first.old)
    for step in range(3, 6):
        assert first.step(step) == second.step(step)
        assert torch.equal(first.gradient, second.gradient)


def test_the_population_of_a_state_is_carried_or_not_for_ever() -> None:
    state = make_loss(population=fdr.EmaPopulation(BETA)).state_dict()
    assert state["encoders"]["e0"]["population"] == "EmaPopulation(beta=0.9)"
    with pytest.raises(InputError, match="saved with another population"):
        make_loss(population=POPULATION).load_state_dict(state)


def test_a_later_step_needs_the_previous_images() -> None:
    training = Training()
    training.step(0)
    with pytest.raises((InputError, PeerError), match=r"call loss\(images, previous=old_images\)"):
        training.loss(training.net(noise(1)))
    training.step(1)


def test_a_population_that_is_not_carried_takes_no_previous_images() -> None:
    images = generator()(noise(0))
    for population in (fdr.EmaPopulation(BETA), fdr.QueuePopulation(50), fdr.BatchPopulation()):
        with pytest.raises(InputError, match="carries no history along"):
            make_loss(population=population)(images, previous=images.detach())


def test_previous_images_of_another_number_are_refused() -> None:
    images = generator()(noise(0))
    with pytest.raises(InputError, match=r"have shape \[9, 3, 4, 4\], the batch \[24, 3, 4, 4\]"):
        make_loss(population=POPULATION)(images, previous=images[:9].detach())


def test_previous_images_of_other_noise_are_refused() -> None:
    net = generator()
    with pytest.raises(InputError, match="made of the same noise and labels"):
        make_loss(population=POPULATION)(net(noise(0)), previous=net(noise(1)).detach())


def test_newton_schulz_is_refused() -> None:
    with pytest.raises(InputError, match="lag correction does not keep"):
        make_loss(population=POPULATION, solver="newton-schulz")


def test_a_conditional_loss_takes_the_previous_images_with_its_labels() -> None:
    """In chunks too; the class means are not carried."""
    net, old = ClassGenerator(), ClassGenerator()
    with torch.no_grad():
        for parameter in old.parameters():
            parameter.mul_(0.9)
    outs = []
    for chunks in (1, 3):
        loss = make_conditional_loss(population=POPULATION)
        loss(old(noise(0), labels_of_step(0)), labels_of_step(0)).total.backward()
        latents, labels = noise(1).chunk(chunks), labels_of_step(1).chunk(chunks)
        made = [(net(z, y), y) for z, y in zip(latents, labels, strict=True)]
        before = [old(z, y).detach() for z, y in zip(latents, labels, strict=True)]
        if chunks == 1:
            out = loss(*made[0], previous=before[0])
            out.total.backward()
        else:
            out = loss.accumulate(made.__getitem__, chunks, previous=before.__getitem__)
        outs.append((out, gradient_of(net)))
    (whole, gradient), (parts, again) = outs
    assert whole.fd == pytest.approx(parts.fd, rel=1e-10)
    assert whole.class_distance == pytest.approx(parts.class_distance, rel=1e-10)
    torch.testing.assert_close(gradient, again, rtol=1e-8, atol=1e-12)
