"""A small world for the tests of the loss, all in float64: a generator, encoders as plain functions, references."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

import fdr
from fdr.frechet import LabelledMoments
from fdr.loss.terms import TermValue

DIM = 6
PIXELS = 3 * 4 * 4


def drawn(seed: int, *shape: int) -> Tensor:
    """Standard normal, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noise(step: int, start: int = 0, stop: int = 24) -> Tensor:
    """Rows `start` to `stop` of the noise of a step: they are the same whichever rank draws them."""
    return drawn(1000 + step, 24, 5)[start:stop]


def generator(seed: int = 0) -> nn.Module:
    """noise [B, 5] -> images [B, 3, 4, 4] in [0, 1]."""
    net = nn.Sequential(nn.Linear(5, PIXELS), nn.Sigmoid(), nn.Unflatten(1, (3, 4, 4))).double()
    with torch.no_grad():
        for index, parameter in enumerate(net.parameters()):
            parameter.copy_(0.5 * drawn(seed + index, *parameter.shape))
    return net


def encoder(seed: int, dim: int = DIM) -> Callable[[Tensor], Tensor]:
    """images -> features [B, dim], smooth and not linear."""
    matrix = drawn(100 + seed, PIXELS, dim) / PIXELS**0.5

    def encode(images: Tensor) -> Tensor:
        return torch.tanh(images.flatten(1) @ matrix.to(images.dtype))

    return encode


def encoders(count: int = 2) -> dict[str, Callable[[Tensor], Tensor]]:
    return {f"e{index}": encoder(index, DIM + index) for index in range(count)}


def references(count: int = 2) -> dict[str, fdr.Moments]:
    """Of other images than the generator makes."""
    images = torch.rand(300, 3, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64) ** 2
    return {name: fdr.Moments.from_features(encode(images)) for name, encode in encoders(count).items()}


def make_loss(count: int = 2, **options: object) -> fdr.FDLoss:
    """`options` are those of `LossOptions` and of `FDLoss`."""
    given = {"population": fdr.EmaPopulation(0.9), "solver": "exact", **options}
    names = {field.name for field in dataclasses.fields(fdr.LossOptions)} & given.keys()
    chosen = fdr.LossOptions(**{name: given.pop(name) for name in names})  # type: ignore[arg-type]
    return fdr.FDLoss(encoders(count), references(count), options=chosen, **given)  # type: ignore[arg-type]


def gradient_of(net: nn.Module) -> Tensor:
    """All gradients in one vector; they are cleared."""
    found = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    net.zero_grad()
    return found


def distance(features: Tensor, reference: fdr.Moments) -> Tensor:
    """FD of a batch (biased covariance) by autograd through eigvalsh: an oracle that shares nothing with the code."""
    mu, sigma = (torch.from_numpy(array.copy()) for array in (reference.mu, reference.sigma))
    values, vectors = torch.linalg.eigh(sigma)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    mean, centred = features.mean(0), features - features.mean(0)
    covariance = centred.T @ centred / len(features)
    trace = torch.linalg.eigvalsh(root @ covariance @ root).clamp(min=1e-300).sqrt().sum()
    return (mean - mu).square().sum() + covariance.trace() + sigma.trace() - 2 * trace


class Recorded:
    """A term that does what `make_term` made, and records the calls."""

    def __init__(self, term: object) -> None:
        self.term = term
        self.calls: list[str] = []
        self.dim: int = term.dim  # type: ignore[attr-defined]

    def evaluate(self, features: Tensor) -> TermValue:
        self.calls.append("evaluate")
        return self.term.evaluate(features)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        method = getattr(self.term, name)

        def call(*arguments: object) -> object:
            self.calls.append(name)
            return method(*arguments)

        return call


NUM_CLASSES = 3


class ClassGenerator(nn.Module):
    """noise [B, 5] and labels [B] of `NUM_CLASSES` -> images [B, 3, 4, 4] in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(NUM_CLASSES, 5, dtype=torch.float64)
        self.table.weight.data = drawn(40, NUM_CLASSES, 5)
        self.network = generator()

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        images: Tensor = self.network(noise + self.table(labels))
        return images


def labels_of_step(step: int, start: int = 0, stop: int = 24) -> Tensor:
    """Rows `start` to `stop` of the labels of a step."""
    draw = torch.Generator().manual_seed(2000 + step)
    return torch.randint(NUM_CLASSES, (24,), generator=draw)[start:stop]


def labelled_references(count: int = 2) -> dict[str, LabelledMoments]:
    """Of other images than the generator makes, in classes of different sizes and colours."""
    labels = torch.arange(300).remainder(7).remainder(NUM_CLASSES)
    images = torch.rand(300, 3, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64) ** 2
    images[:, 0] *= (1 + labels.double())[:, None, None] / NUM_CLASSES
    return {name: LabelledMoments.from_features(encode(images), labels) for name, encode in encoders(count).items()}


def make_conditional_loss(count: int = 2, **options: object) -> fdr.FDLoss:
    """As `make_loss`, with a reference that has classes."""
    chosen = fdr.LossOptions(solver=str(options.pop("solver", "exact")))
    given = {"population": fdr.EmaPopulation(0.9), "conditional": 1.0, **options}
    return fdr.FDLoss(encoders(count), labelled_references(count), options=chosen, **given)  # type: ignore[arg-type]
