"""Predicted classes of two sets, and weights of samples that give them the classes of a reference.

The class of an image is the largest logit of a classifier, its Top-N classes the N largest (Kynkäänniemi et al. 2023,
arXiv 2203.06026, section 3).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from fdr.errors import FdrWarning, InputError
from fdr.frechet import (
    Moments,
    debiased_frechet_distance,
    effective_count,
    frechet_distance,
    lowest_fd_weights,
    weighted_moments,
)
from fdr.runtime import Progress

MOST_TOO_FEW = 2
"""With so many classes or fewer, no N lies between Top-1 and all classes."""
SEED = 0
"""The seed of the order that gives the weights to other samples."""
GOLDEN = 0.6180339887498949
"""Multiples of the golden ratio, modulo 1, are spread evenly in any run of them."""


Distance = Callable[[np.ndarray], float]
"""FD of one set of samples as a function of their weights."""


def distances_by_weights(
    samples: Mapping[str, np.ndarray], targets: Mapping[str, Moments], device: str | None = None
) -> dict[str, Distance]:
    """FD of features [N, D] to the moments of a reference, by encoder, as a function of weights [N] of any sum.

    It is that of the weighted moments, which keeps digits that the optimisation gives away where features hardly vary.
    """

    def of(name: str, weights: np.ndarray) -> float:
        moments = weighted_moments(samples[name], weights, device=device)
        return frechet_distance(moments, targets[name], device=device)

    return {name: partial(of, name) for name in targets}


@dataclass(frozen=True)
class Matching:
    """One way to weight the samples."""

    name: str
    """"top-1", "top-5" (or another N), "optimised", or what a baseline is given."""
    weights: np.ndarray
    """[N] with mean 1."""
    fd: Mapping[str, float]
    """FD of the weighted samples, by encoder."""
    control: Mapping[str, float]
    """FD of samples that have the same weights in an order that ignores the images (`ignoring_order`), by encoder: what
    unequal weights cost by themselves, since they leave fewer effective samples."""
    steps: int = 0
    """Iterations of the optimisation; 0 for Top-1, which needs none."""

    @classmethod
    def of(
        cls, name: str, weights: np.ndarray, classes: np.ndarray, distances: Mapping[str, Distance], steps: int = 0
    ) -> Matching:
        """Measure the weights [N] of samples with predicted `classes` [N]; `distances` are FD of them, by encoder."""
        shuffled = ignoring_order(weights, classes)
        fd, control = ({one: of(each) for one, of in distances.items()} for each in (weights, shuffled))
        return cls(name, weights, fd, control, steps)

    @property
    def effective_count(self) -> float:
        """How many equally weighted samples have as much noise (Kish 1965)."""
        return effective_count(self.weights)

    def gain(self, encoder: str) -> float:
        """How much the weights lower FD, in units of FD; negative if they raise it.

        It is counted from the FD of the same weights in a random order, so that the bias of fewer effective samples,
        which both have, does not hide it.
        """
        return self.control[encoder] - self.fd[encoder]


@dataclass(frozen=True)
class Histograms:
    """The shares of the predicted (Top-1) classes."""

    samples: np.ndarray
    """float64 [C], sum 1."""
    reference: np.ndarray
    """float64 [C], sum 1."""

    @classmethod
    def of(cls, samples: np.ndarray, reference: np.ndarray) -> Histograms:
        """The histograms of logits [N, C] and [M, C]."""
        shares = (np.bincount(one.argmax(1), minlength=one.shape[1]) / len(one) for one in (samples, reference))
        return cls(*shares)

    @property
    def distance(self) -> float:
        """The total variation distance: the share of the samples that would need another class. Between 0 and 1."""
        return float(np.abs(self.samples - self.reference).sum() / 2)

    @property
    def missing(self) -> np.ndarray:
        """The classes of the reference that no sample has."""
        return np.flatnonzero((self.reference > 0) & (self.samples == 0))

    @property
    def missing_share(self) -> float:
        """The share of the reference in classes that no sample has."""
        return float(self.reference[self.missing].sum())


def check_logits(logits: Sequence[np.ndarray], top_n: int) -> None:
    """Raise `InputError` unless the samples, the reference and perhaps the baseline have finite logits [N, C] of the
    same classes, with 1 < top_n < C.
    """
    samples = logits[0]
    for name, one in zip(("samples", "reference", "baseline"), logits, strict=False):
        if one.ndim != 2 or not np.isfinite(one).all():
            raise InputError(f"The logits of the {name} must be finite numbers [N, C]; got shape {list(one.shape)}.")
        if samples.shape[1] != one.shape[1]:
            raise InputError(
                f"The samples have logits of {samples.shape[1]} classes and the {name} of {one.shape[1]}; both need "
                "the same classifier."
            )
    if samples.shape[1] <= MOST_TOO_FEW:
        raise InputError(
            f"The classifier has {samples.shape[1]} classes; an audit of classes needs at least {MOST_TOO_FEW + 1}."
        )
    if not 1 < top_n < samples.shape[1]:
        raise InputError(
            f"Top-{top_n} classes of a classifier with {samples.shape[1]} classes: N must be between 2 and "
            f"{samples.shape[1] - 1} (--top-n, or top_n)."
        )


def top1_weights(
    logits: np.ndarray, histograms: Histograms, names: tuple[str, str] = ("samples", "reference")
) -> np.ndarray:
    """Weights [N], with mean 1, that give the samples the class histogram of the reference exactly.

    Each counts as if it were chosen that many times, without the noise of a draw. What the reference has in classes
    without samples is spread over the others in proportion.
    """
    own, wanted = histograms.samples, histograms.reference * (histograms.samples > 0)
    if not wanted.sum() > 0:
        raise InputError(f"The {names[0]} and the {names[1]} share no predicted class, so that none can be matched.")
    ratio = np.divide(wanted / wanted.sum(), own, out=np.zeros_like(own), where=own > 0)
    weights: np.ndarray = ratio[logits.argmax(1)]
    return weights


def ignoring_order(weights: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The weights [N] in an order that is random within each class [N] and spreads them evenly over the classes.

    So the classes keep their frequencies, as far as their numbers of images allow, and only the weights are unequal.
    """
    by_class = np.lexsort((np.random.default_rng(SEED).random(len(classes)), classes))
    ascending = np.argsort(np.arange(len(classes)) * GOLDEN % 1)
    found = np.empty_like(weights)
    found[by_class[ascending]] = np.sort(weights)
    return found


def top_n_weights(
    samples: np.ndarray,
    reference: np.ndarray,
    top_n: int,
    *,
    steps: int,
    device: str | None = None,
    progress: Progress | None = None,
) -> tuple[np.ndarray, int]:
    """Weights [N] with the lowest FD between the indicators of the Top-N classes, and the iterations they took.

    So the frequencies of the Top-N classes, and of their pairs, become those of the reference.
    """
    own, other = (indicators(logits, top_n).astype(np.float32) for logits in (samples, reference))
    kept = own.any(0) & other.any(0)
    if not kept.any():
        raise InputError(f"The samples and the reference share no Top-{top_n} class, so that none can be matched.")
    target, label = Moments.from_features(other[:, kept]), f"Top-{top_n} matching"
    return lowest_fd_weights(own[:, kept], target, steps=steps, device=device, progress=progress, label=label)


def best_weights(
    samples: np.ndarray,
    target: Moments,
    label: str,
    *,
    steps: int,
    device: str | None = None,
    progress: Progress | None = None,
) -> tuple[np.ndarray, int, float]:
    """The weights [N] that bring FD of features down to its noise, the iterations they took, and that noise.

    `target` is moments with their rows.
    """
    floor = noise_floor(samples, target, device)
    weights, taken = lowest_fd_weights(
        samples, target, steps=steps, floor=floor, device=device, progress=progress, label=label
    )
    return weights, taken, floor


def noise_floor(samples: np.ndarray, reference: Moments, device: str | None = None) -> float:
    """The part of FD that is bias from the numbers of images: raw FD less debiased FD; 0 where that has no value."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FdrWarning)  # they are about the debiased value, which is not shown
        try:
            found = debiased_frechet_distance(samples, reference, device=device, stderr=False)
        except InputError:
            return 0.0
    return 0.0 if found.value is None else max(found.raw - found.value, 0.0)


def indicators(logits: np.ndarray, top_n: int) -> np.ndarray:
    """bool [N, C], True for the `top_n` largest logits of each row."""
    found = np.zeros(logits.shape, bool)
    np.put_along_axis(found, np.argpartition(-logits, top_n - 1, axis=1)[:, :top_n], True, axis=1)
    return found
