"""A linear generator in 16 dimensions with batches of 8: what a population is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numerics.covariances import rotation

from fdr import frechet_distance
from fdr.moments import Moments
from fdr.population import BatchPopulation, EmaPopulation, QueuePopulation, make_term
from fdr.transport import frechet_loss

pytestmark = pytest.mark.slow
DIM, BATCH, STEPS, RATE = 16, 8, 3000, 3e-3


def trained_fd(population: Any, solver: str) -> float:
    """FD of the generator's true moments to the reference, after training on batches of 8."""
    basis = rotation(DIM, 0)
    target = Moments(np.linspace(-1, 1, DIM), (basis * np.linspace(0.3, 1.5, DIM)) @ basis.T)
    weight = torch.eye(DIM, dtype=torch.float64).requires_grad_()
    bias = torch.zeros(DIM, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    term = make_term(population, target, solver, gradient="unit")
    draw = torch.Generator().manual_seed(0)

    def samples(count: int) -> torch.Tensor:
        return torch.randn(count, DIM, dtype=torch.float64, generator=draw) @ weight + bias

    with torch.no_grad():
        term.fill(samples(4000))
    for _ in range(STEPS):
        rows = samples(BATCH)
        value = term.evaluate(rows)
        optimizer.zero_grad()
        frechet_loss(rows, value.fd, value.gradient).backward()
        optimizer.step()
        schedule.step()
        term.commit()
    sigma = (weight.T @ weight).detach().numpy()
    return frechet_distance(Moments(bias.detach().numpy(), (sigma + sigma.T) / 2), target)


@pytest.mark.parametrize(
    ("population", "solver"),
    [(EmaPopulation(0.98), "exact"), (EmaPopulation(0.98), "fast"), (QueuePopulation(500), "exact")],
)
def test_a_population_nears_the_reference(population: Any, solver: str) -> None:
    """From 6.8 at the start to what the noise of some 500 samples leaves."""
    assert trained_fd(population, solver) < 0.03


def test_a_batch_alone_stays_biased() -> None:
    """Eight samples have a covariance of rank 7: the generator learns to make up for what they seem to lack."""
    assert trained_fd(BatchPopulation(), "exact") > 1
