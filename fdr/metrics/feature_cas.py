"""Classifiers of features that are trained on samples and tested on real images: cheap relatives of CAS.

The Classification Accuracy Score (Ravuri & Vinyals 2019) trains a ResNet on the pixels of samples; `fdr cas` does that.
Here the network is the encoder, which is fixed, and only a linear or a nearest-neighbour classifier is trained on its
features. A class that the samples lack has an accuracy of 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fdr.errors import InputError
from fdr.metrics.base import CollectedFeatures, Context, Labelled, Metric, Score
from fdr.metrics.classes import Classes, match_classes
from fdr.metrics.resampling import share_stderr
from fdr.neighbours import SearchOptions, nearest
from fdr.runtime import resolve_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

L2 = 1e-3
"""The penalty L2/2 |W|^2 beside the mean cross-entropy. Raising it makes the classifier smoother."""
K = 5
"""Neighbours that vote. Raising it makes the classifier smoother."""
MAX_STEPS = 500
"""Steps of LBFGS. Fewer stop before the optimum."""
GRADIENT = 1e-7
"""LBFGS stops where no entry of the gradient is larger."""
CHUNK_ROWS = 8192
"""Features that are standardised at once. More take more memory."""


def linear_accuracy(samples: Labelled, reference: Labelled, context: Context) -> Score:
    """Top-1 accuracy on the reference of multinomial logistic regression on the standardised features of the samples.

    It minimises mean cross-entropy + L2/2 |W|^2 over W [D, C] and b [C], in float64 from 0, which has one minimum.
    Features are standardised by mean and standard deviation of the samples.
    """
    classes = _classes(samples, reference, context)
    fitted = (samples.collected, classes.samples)
    predicted = predicted_classes(*fitted, reference.collected, len(classes.names), context.device)
    return _score(predicted, classes)


def predicted_classes(
    features: np.ndarray, classes: np.ndarray, others: np.ndarray, num_classes: int, device: str | None
) -> np.ndarray:
    """The classes [M] of features `others` [M, D], by regression on the `features` [N, D] of the `classes` [N]."""
    problem = _Problem(features, classes, num_classes, resolve_device(device or "cpu"))
    weights = problem.minimise()
    return np.concatenate([logits.argmax(1).cpu().numpy() for logits in problem.logits(others, weights)])


def neighbour_accuracy(samples: Labelled, reference: Labelled, context: Context) -> Score:
    """Top-1 accuracy on the reference of the majority of the K nearest samples by Euclidean distance.

    Of classes with equally many votes, the one of the nearest sample wins.
    """
    classes = _classes(samples, reference, context)
    if len(samples.collected) < K:
        raise InputError(f"{context.names[0]} asks the {K} nearest samples, and there are {len(samples.collected)}.")
    options = SearchOptions(K, "l2", context.memory, context.device or "cpu")
    found = nearest(_Rows(reference.collected), _Rows(samples.collected), options, progress=context.progress)
    votes = classes.samples[found.rows]
    predicted = np.array([_winner(row) for row in votes.tolist()])
    return _score(predicted, classes)


def _winner(votes: list[int]) -> int:
    """The class with most votes; of several the one that voted first."""
    return max(votes, key=lambda c: (votes.count(c), -votes.index(c)))


def _classes(samples: Labelled, reference: Labelled, context: Context) -> Classes:
    classes = match_classes(samples, reference, context.names[0])
    if len(np.unique(classes.samples)) < 2:
        raise InputError(f"{context.names[0]} needs samples of at least two classes; {samples.source} has one.")
    return classes


def _score(predicted: np.ndarray, classes: Classes) -> Score:
    """The share of reference images that got their class."""
    found = accuracy_score(predicted == classes.reference, classes.reference, classes.names, "reference_n")
    per_class = {
        name: {"accuracy": row["accuracy"], "n": int((classes.samples == c).sum()), "reference_n": row["reference_n"]}
        for c, name in enumerate(classes.names)
        if (row := found.details["classes"].get(name)) is not None
    }
    return Score(found.value, found.stderr, details={"classes": per_class}, notes=classes.notes)


def accuracy_score(is_right: np.ndarray, classes: np.ndarray, names: Sequence[str], count: str) -> Score:
    """The share of images [N] that got their class, with its binomial standard error, and that of each class.

    `classes` [N] are places in `names`; `count` is the key of the number of images in the details.
    """
    per_class = {
        names[c]: {"accuracy": float(is_right[classes == c].mean()), count: int((classes == c).sum())}
        for c in np.unique(classes).tolist()
    }
    value = float(is_right.mean())
    return Score(value, share_stderr(value, len(is_right)), details={"classes": per_class})


class _Problem:
    """Regularised logistic regression on features [N, D] of classes [N], whose rows are standardised chunk by chunk."""

    def __init__(self, features: np.ndarray, classes: np.ndarray, num_classes: int, device: torch.device) -> None:
        import torch

        self._features, self._device = features, device
        self._classes = torch.from_numpy(classes).to(device)
        self._mean = features.mean(0, dtype=np.float64)
        self._scale = np.sqrt(np.mean((features.astype(np.float64) - self._mean) ** 2, 0))
        self._scale[self._scale == 0] = 1.0
        self._shape = features.shape[1] + 1, num_classes

    def _chunks(self, features: np.ndarray) -> Iterator[tuple[slice, Tensor]]:
        """Standardised rows with a 1 for the intercept, float64 [n, D + 1]."""
        import torch

        for start in range(0, len(features), CHUNK_ROWS):
            part = slice(start, min(start + CHUNK_ROWS, len(features)))
            rows = (features[part].astype(np.float64) - self._mean) / self._scale
            yield part, torch.from_numpy(np.concatenate([rows, np.ones((len(rows), 1))], 1)).to(self._device)

    def minimise(self) -> Tensor:
        """W above b, float64 [D + 1, C]."""
        import torch

        weights = torch.zeros(self._shape, dtype=torch.float64, device=self._device, requires_grad=True)
        optimiser = torch.optim.LBFGS(
            [weights],
            max_iter=MAX_STEPS,
            tolerance_grad=GRADIENT,
            tolerance_change=0.0,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            value, weights.grad = self._loss(weights.detach())
            return value

        optimiser.step(loss)
        return weights.detach()

    def _loss(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its gradient in closed form."""
        penalty = weights.clone()
        penalty[-1] = 0
        value, gradient = L2 / 2 * penalty.square().sum(), L2 * penalty
        count = len(self._features)
        for part, rows in self._chunks(self._features):
            log_p = (rows @ weights).log_softmax(1)
            own = self._classes[part, None]
            value = value - log_p.gather(1, own).sum() / count
            log_p.exp_().scatter_add_(1, own, log_p.new_full((len(rows), 1), -1.0))
            gradient = gradient + rows.T @ log_p / count
        return value, gradient

    def logits(self, features: np.ndarray, weights: Tensor) -> Iterator[Tensor]:
        """The logits of other features, standardised in the same way."""
        return (rows @ weights for _, rows in self._chunks(features))


class _Rows:
    """An array of features as the search of neighbours reads it: in one shard."""

    item_size = 4

    def __init__(self, features: np.ndarray) -> None:
        self._features = features
        self.num_rows, self.dim = features.shape
        self.rows = np.arange(self.num_rows)

    def shards(self) -> list[tuple[int, int]]:
        return [(0, self.num_rows)]

    def read(self, start: int, stop: int) -> tuple[np.ndarray, Tensor]:
        import torch

        return self.rows[start:stop], torch.from_numpy(self._features[start:stop])


CAS_LINEAR = Metric(linear_accuracy, CollectedFeatures, labels=("samples", "reference"), settings={"l2": str(L2)})
CAS_KNN = Metric(neighbour_accuracy, CollectedFeatures, labels=("samples", "reference"), settings={"k": str(K)})
