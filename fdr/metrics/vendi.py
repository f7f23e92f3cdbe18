"""Vendi score: the effective number of different images in a set (Friedman & Dieng 2023), of order q (Pasarkar &
Dieng 2024), with the cosine of features as the similarity of two images.

It is the exponential of the Rényi entropy of order q of the eigenvalues of K / N, with K [N, N] the similarities. Those
above 0 are also the eigenvalues of the mean of x xᵀ [D, D] over the features x of length 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fdr.errors import InputError
from fdr.metrics.base import CollectedFeatures, Context, Labelled, Metric, Score
from fdr.metrics.resampling import NUM_GROUPS, jackknife_groups, jackknife_stderr
from fdr.runtime import resolve_device

if TYPE_CHECKING:
    from torch import Tensor

ORDERS = {"vendi": 1.0, "vendi:0.5": 0.5, "vendi:2": 2.0, "vendi:inf": math.inf}
"""q of each metric. A smaller q counts rare kinds of images more."""
MIN_EIGENVALUE = 1e-15
"""Smaller eigenvalues, which are rounding, do not count."""
CHUNK = 4096
"""Rows that are converted to float64 at once."""


def vendi(samples: np.ndarray, reference: None, context: Context) -> dict[str, Score]:
    """The score of each order in `context.names`, from features [N, D], with the standard error of the jackknife."""
    if len(samples) < 2:
        raise InputError(f"{context.names[0]} needs at least 2 samples; got {len(samples)}.")
    with context.progress.task(", ".join(context.names), 1 + NUM_GROUPS, "spectra") as task:
        whole, errors = _with_errors(samples, [ORDERS[name] for name in context.names], context, task.advance)
    return {name: Score(value, error) for name, value, error in zip(context.names, whole, errors, strict=True)}


def vendi_per_class(samples: Labelled, reference: None, context: Context) -> Score:
    """The mean over the classes of the score of order 1 of the images of a class, as dgm-eval reports it."""
    classes, sizes = np.unique(samples.labels, return_counts=True)
    if sizes.min() < 2:
        raise InputError(
            f"vendi:class needs at least 2 samples of every class; class {classes[sizes.argmin()]} of {samples.source} "
            "has 1: give it more images."
        )
    values: list[float] = []
    errors: list[float | None] = []
    with context.progress.task("vendi:class", len(classes), "classes") as task:
        for label in classes:
            (value,), (error,) = _with_errors(samples.collected[samples.labels == label], [1.0], context)
            values.append(value)
            errors.append(error)
            task.advance()
    known = [error for error in errors if error is not None]
    stderr = math.hypot(*known) / len(known) if known else None
    details = {"classes": len(classes), "smallest": min(values), "largest": max(values)}
    return Score(float(np.mean(values)), stderr, details=details)


def _with_errors(
    features: np.ndarray, orders: Sequence[float], context: Context, done: Callable[[], object] = lambda: None
) -> tuple[list[float], list[float | None]]:
    """The score of every order, and its standard error by the jackknife; `done` is called after each spectrum."""
    groups = jackknife_groups(len(features)) if context.stderr else []
    x = Units(features, context)
    values = []
    for spectrum in (_of_features if len(x) > features.shape[1] else _of_similarities)(x, groups):
        values.append([_score(spectrum, order) for order in orders])
        done()
    whole, parts = values[0], np.array(values[1:])
    return whole, [jackknife_stderr(parts[:, k]) if groups else None for k in range(len(orders))]


def vendi_score(similarities: np.ndarray, order: float = 1.0) -> float:
    """The Vendi score of order q of a positive semidefinite matrix of similarities [N, N] with 1 on its diagonal."""
    import torch

    values = torch.linalg.eigvalsh(torch.from_numpy(np.asarray(similarities, np.float64)) / len(similarities))
    return _score(values, order)


def _score(eigenvalues: Tensor, order: float) -> float:
    p = eigenvalues[eigenvalues > MIN_EIGENVALUE]
    if order == 1:
        return math.exp(-float((p * p.log()).sum()))
    if math.isinf(order):
        return 1 / float(p.max())
    return float((p**order).sum()) ** (1 / (1 - order))


class Units:
    """The features scaled to length 1, float64, computed anew for each use."""

    def __init__(self, features: np.ndarray, context: Context) -> None:
        self._features, self._name = features, context.names[0]
        self._device = resolve_device(context.device or "cpu")

    def __len__(self) -> int:
        return len(self._features)

    def of(self, rows: np.ndarray | slice) -> Tensor:
        """The features of some rows."""
        import torch

        features = torch.from_numpy(self._features[rows]).to(self._device).double()
        lengths = features.norm(dim=1, keepdim=True)
        if not bool((lengths > 0).all()):
            raise InputError(f"{self._name} compares the directions of features; those of an image are all 0.")
        return features / lengths

    def scatter(self, rows: np.ndarray) -> Tensor:
        """[D, D] the sum of x xᵀ over some rows."""
        import torch

        dim = self._features.shape[1]
        total = torch.zeros(dim, dim, dtype=torch.float64, device=self._device)
        for start in range(0, len(rows), CHUNK):
            part = self.of(rows[start : start + CHUNK])
            total.addmm_(part.T, part)
        return total


def _of_features(x: Units, groups: Sequence[np.ndarray]) -> Iterator[Tensor]:
    """The eigenvalues for all rows, then for the rows without each group, from the mean of x xᵀ."""
    import torch

    total = x.scatter(np.arange(len(x)))
    yield torch.linalg.eigvalsh(total / len(x))
    for group in groups:
        yield torch.linalg.eigvalsh((total - x.scatter(group)) / (len(x) - len(group)))


def _of_similarities(x: Units, groups: Sequence[np.ndarray]) -> Iterator[Tensor]:
    """The same from K, which is smaller for N < D."""
    import torch

    units = x.of(slice(None))
    similarities = units @ units.T
    yield torch.linalg.eigvalsh(similarities / len(x))
    for group in groups:
        rest = torch.from_numpy(np.delete(np.arange(len(x)), group)).to(units.device)
        yield torch.linalg.eigvalsh(similarities[rest][:, rest] / len(rest))


VENDI = Metric(vendi, CollectedFeatures, needs_reference=False, settings={"kernel": "cosine"})
VENDI_PER_CLASS = Metric(
    vendi_per_class, CollectedFeatures, needs_reference=False, labels=("samples",), settings={"kernel": "cosine"}
)
