"""Lag correction: the history of an exponential average is carried along with the weights of the generator.

An average over batches holds features of earlier weights, so it lags behind a generator that moves fast. A batch whose
noise has also been passed through the weights of the step before says how the moments move from those weights to the
present ones. The history moves by as much before the batch enters it. This is how STORM (Cutkosky and Orabona 2019,
arXiv 1905.10018) carries an average of gradients along, applied here to moments.

Symbols: Z [B, d] are the features of the batch, and Y [B, d] those of the same noise under the weights of the step
before; m [d] and S [d, d] are mean and covariance of the history. In second moments,

    m <- m + mean(Z) - mean(Y),        S + m m^T <- S + m m^T + (Z^T Z - Y^T Y) / B.

With the change V = Z - Y and the middle A = ((Z - m_new) + (Y - m)) / 2, the same is

    m_new = m + mean(V),               S <- S + (V^T A + A^T V) / B,

which takes one product, subtracts no large numbers from each other, and is 0 exactly where nothing has changed. S need
not stay positive definite, because V is seen on one batch only; so the solvers raise small eigenvalues
(`transport.solve_floored`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from fdr.errors import InputError
from fdr.loss.options import EmaPopulation, Population
from fdr.loss.transport import FLOOR, Diagnostics, Transport

if TYPE_CHECKING:
    from torch import Tensor

LEAST_CORRELATION = 0.5
"""Features of the same noise under two successive weights correlate at least so much.

Raising it refuses generators that move faster in their first step; lowering it accepts other noise in small batches.
"""


@dataclass(frozen=True)
class Carry:
    """How far a history moves, between the weights of the step before and the present ones."""

    change: Tensor
    """V, the batch less the same noise under the weights of the step before [B, d]."""
    middle: Tensor
    """A, the mean of the two, each less its own mean of the population [B, d]."""
    mean: Tensor
    """m_new [d]."""

    @classmethod
    def of(cls, mean: Tensor, rows: Tensor, previous: Tensor) -> Carry:
        """The step of a history with `mean` [d], seen on the batch `rows` [B, d] and on `previous` [B, d]."""
        change = rows - previous
        after = mean + change.mean(0)
        return cls(change, ((rows - after) + (previous - mean)) / 2, after)

    def moved(self, matrix: Tensor, factor: Tensor | None = None) -> Tensor:
        """P^T S P [r, r] after the step, given `matrix`, P^T S P before it, and P = `factor` [d, r]; None is I."""
        change, middle = (rows if factor is None else rows @ factor for rows in (self.change, self.middle))
        product = change.T @ middle / len(change)
        return matrix + product + product.T

    def moved_trace(self, trace: Tensor) -> Tensor:
        """tr S after the step."""
        return trace + 2 * (self.change * self.middle).sum() / len(self.change)


def population_of(population: Population, weight: float) -> Population:
    """The population of an encoder; that of an encoder which is only watched is not carried, which saves its pass."""
    if isinstance(population, EmaPopulation) and not weight:
        return replace(population, lag_correction=0)
    return population


def check_previous(population: Population, images: Tensor, previous: Tensor) -> None:
    """Raise `InputError` unless `previous` can be what the weights of the step before made of the noise of `images`."""
    if not (isinstance(population, EmaPopulation) and population.lag_correction):
        raise InputError(
            f"Images of the previous weights were given, but {population!r} carries no history along; use "
            "EmaPopulation(beta, lag_correction=True), or leave them out."
        )
    if previous.shape != images.shape:
        raise InputError(
            f"The images of the previous weights have shape {list(previous.shape)}, the batch {list(images.shape)}; "
            "make both of the same noise."
        )


def check_same_noise(name: str, rows: Tensor, previous: Tensor) -> None:
    """Raise `InputError` where the features [B, d] of the batch and of the previous weights share no noise."""
    now, before = ((x.detach() - x.detach().mean(0)).double() for x in (rows, previous))
    lengths = float(now.norm() * before.norm())
    if lengths > 1e-8 * float(rows.detach().norm()) ** 2 and float((now * before).sum()) < LEAST_CORRELATION * lengths:
        raise InputError(
            f"The features of {name!r} for the images of the previous weights do not follow those of the batch; lag "
            "correction needs both made of the same noise and labels, by a generator that draws no noise of its own."
        )


def missing_previous() -> InputError:
    """The error of a step of a population that is to be carried along, without images of the previous weights."""
    return InputError(
        "The history is to be carried along at this step, but the images of the previous weights are missing; call "
        "loss(images, previous=old_images), with what the weights of the last step that was taken (with "
        "lag_correction=N, of N steps before) make of the same noise."
    )


def joined(chunks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The features of all chunks of a batch by encoder; empty where the chunks are."""
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def floored(factor: Tensor, rows: Tensor, values: Tensor, vectors: Tensor) -> Transport | None:
    """What `transport.solve_floored` finds, given P [d, r], (z - m_q) P [B, r], and eigenvalues and eigenvectors of M.

    None where no eigenvalue is below the floor.
    """
    gram = factor.T @ factor
    raised = torch.maximum(values, FLOOR * (gram @ vectors).square().sum(0))
    is_low = raised > values
    if not bool(is_low.any()):
        return None
    low, roots = vectors[:, is_low], raised.sqrt()
    added = (raised - values)[is_low] @ (low * torch.linalg.solve(gram, low)).sum(0)
    moved = (rows @ vectors / roots) @ (factor @ vectors).T
    return Transport(roots.sum(), moved, Diagnostics("floored", refreshed=True), raised=added)
