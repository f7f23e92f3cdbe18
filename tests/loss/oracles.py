"""Populations as plain formulas of the batch, and FD with gradient by autograd: independent of how fdr does it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from covariances import features
from torch import Tensor

from fdr.frechet import Moments
from fdr.loss import LossOptions
from fdr.loss.rank_terms import make_term as make_term_of
from fdr.loss.terms import AbstractTerm


def make_term(
    population: Any, target: Moments, solver: str = "fast", gradient: str = "raw", **more: Any
) -> AbstractTerm:
    """The term of a population: the subject of the tests, not an oracle."""
    return make_term_of(population, target, LossOptions(solver, gradient=gradient), **more)


def reference(dim: int = 12, count: int = 400, seed: int = 90) -> Moments:
    return Moments.from_features(features(count, dim, seed))


def batch(size: int, dim: int, seed: int, offset: float = 0.3) -> Tensor:
    return torch.from_numpy(features(size, dim, seed, offset))


def moments_of(rows: Tensor, ddof: int = 0) -> tuple[Tensor, Tensor]:
    mean = rows.mean(0)
    return mean, (rows - mean).T @ (rows - mean) / (len(rows) - ddof)


def ema(batches: list[Tensor], beta: float, fill: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and covariance by averaging raw moments, divided by the sum of the weights."""
    first = torch.zeros_like(batches[0][0])
    second = torch.outer(first, first)
    weight = 0.0
    if fill is not None:
        first, second, weight = fill.mean(0), fill.T @ fill / len(fill), 1.0
    for rows in batches:
        first = beta * first + (1 - beta) * rows.mean(0)
        second = beta * second + (1 - beta) * rows.T @ rows / len(rows)
        weight = beta * weight + 1 - beta
    mean = first / weight
    return mean, second / weight - torch.outer(mean, mean)


def autograd_fd(mean: Tensor, sigma: Tensor, target: Moments) -> Tensor:
    """FD through eigvalsh of S_p^{1/2} S_q S_p^{1/2}, the textbook way."""
    values, vectors = np.linalg.eigh(target.sigma)
    root = torch.from_numpy((vectors * np.sqrt(values.clip(0))) @ vectors.T)
    product = root @ sigma @ root
    trace = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    shift = (mean - torch.from_numpy(np.array(target.mu))).square().sum()
    return shift + sigma.trace() + float(target.sigma.trace()) - 2 * trace


def moments(mean: Tensor, sigma: Tensor, count: int | None = None) -> Moments:
    return Moments(mean.detach().numpy(), ((sigma + sigma.T) / 2).detach().numpy(), count)
