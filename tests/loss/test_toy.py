"""A linear generator in 16 dimensions with batches of 8: what a population is for.

The features are N(b, W^T W), so FD of the generator is known in closed form, without samples. What batches can teach it
has a floor: n samples of the reference itself are at FD = tr S (1 + (d + 1) / 4) / n to it, 0.003 for the 24,000 whose
steps the average of the weights covers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from covariances import rotation
from oracles import make_term
from torch import Tensor

from fdr import frechet_distance
from fdr.frechet import Moments
from fdr.loss import BatchPopulation, EmaPopulation, QueuePopulation
from fdr.loss.transport import frechet_loss

pytestmark = pytest.mark.slow
DIM, BATCH, STEPS, RATE = 16, 8, 4000, 5e-3
START = 1000
"""From this step on, the weights are averaged."""


def target() -> Moments:
    basis = rotation(DIM, 0)
    return Moments(np.linspace(-1, 1, DIM), (basis * np.linspace(0.3, 1.5, DIM)) @ basis.T)


def true_fd(weight: Tensor, bias: Tensor) -> float:
    """FD of N(b, W^T W)."""
    sigma = (weight.T @ weight).detach().numpy()
    return frechet_distance(Moments(bias.detach().numpy(), (sigma + sigma.T) / 2), target())


def trained_fd(population: Any, solver: str = "exact") -> float:
    """FD of the average of the weights, after plain gradient descent on batches of 8."""
    weight = torch.eye(DIM, dtype=torch.float64).requires_grad_()
    bias = torch.zeros(DIM, dtype=torch.float64, requires_grad=True)
    averages = [torch.zeros_like(weight), torch.zeros_like(bias)]
    optimizer = torch.optim.SGD([weight, bias], lr=RATE)
    term = make_term(population, target(), solver, gradient="unit")
    draw = torch.Generator().manual_seed(0)

    def samples(count: int) -> Tensor:
        return torch.randn(count, DIM, dtype=torch.float64, generator=draw) @ weight + bias

    with torch.no_grad():
        term.fill(samples(4000))
    for step in range(STEPS):
        rows = samples(BATCH)
        value = term.evaluate(rows)
        optimizer.zero_grad()
        frechet_loss(rows, value.fd, value.gradient).backward()
        optimizer.step()
        term.commit()
        if step >= START:
            for average, parameter in zip(averages, (weight, bias), strict=True):
                average.add_(parameter.detach(), alpha=1 / (STEPS - START))
    return true_fd(*averages)


@pytest.mark.parametrize(
    ("population", "solver"),
    [(EmaPopulation(0.99), "exact"), (EmaPopulation(0.99), "fast"), (QueuePopulation(1600), "exact")],
)
def test_a_population_reaches_the_reference(population: Any, solver: str) -> None:
    """From 6.8 at the start. The step of the generator is small against the window of the population, 100 to 200
    batches: at four times the rate a queue oscillates."""
    assert true_fd(torch.eye(DIM, dtype=torch.float64), torch.zeros(DIM, dtype=torch.float64)) > 6
    assert trained_fd(population, solver) < 1e-2


def test_a_batch_alone_stays_biased() -> None:
    """Eight samples have a covariance of rank 7: the generator learns to make up for what they seem to lack."""
    assert trained_fd(BatchPopulation()) > 1
