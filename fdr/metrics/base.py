"""What a metric is: how it is computed, and what it needs from the encoder for that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from fdr.frechet import Moments, Sums
from fdr.neighbours import DEFAULT_MEMORY
from fdr.runtime import Progress, SilentProgress

MAX_ROWS_BYTES = 2**31
"""Features beside moments are kept up to this size: 260,000 images of Inception. Raising it takes more memory; beyond
it moments have no `rows`, and their FD has no standard error."""
Side = Literal["samples", "reference", "training"]
"""A set of images that a metric may read."""


@dataclass(frozen=True)
class Score:
    """A computed number; `fdr.evaluation` turns it into a row of the report."""

    value: float
    stderr: float | None = None
    interval: tuple[float, float] | None = None
    """The range that a rounded constant leaves open."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Parts of the number."""
    notes: tuple[str, ...] = ()
    """Sentences that a reader of the number must know."""


@dataclass(frozen=True)
class Labelled:
    """What was collected of a set whose labels the metric needs, and the class of each image behind it."""

    collected: Any
    """What the collector gives, such as features [N, D]."""
    labels: np.ndarray
    """int64 [N], in the order of the images and without bad images, as features are."""
    class_names: tuple[str, ...] | None
    """The name of class 0, 1, ...; None if classes have no names."""
    source: str
    """The name of the images, for errors and notes."""


@dataclass(frozen=True)
class Texts:
    """The embeddings of the prompts of the samples, by the text tower of the encoder."""

    embeddings: np.ndarray
    """float32 [N, D], not normalised, in the order of the images and without bad images, as features are."""
    is_cut: np.ndarray
    """bool [N]: which prompts have more tokens than the tower reads."""
    max_tokens: int
    categories: np.ndarray | None = None
    """The category of each prompt, str [N]; None if they have none."""


@dataclass(frozen=True)
class Context:
    """What a metric may use beside the data."""

    names: tuple[str, ...] = ()
    """The numbers that the user asked for, of those that the metric can compute."""
    device: str | None = None
    """The GPU to compute on; None for the CPU."""
    audit: bool = False
    """True if the result must be checked by a second method, where there is one."""
    progress: Progress = field(default_factory=SilentProgress)
    spectra: bool = False
    """True if the eigenvalues of both covariances go into the details of FD."""
    stderr: bool = True
    """False if no standard error is wanted where it costs time."""
    memory: int = DEFAULT_MEMORY
    """Bytes that distances between features may take beside the features; does not change the result."""
    training: Any = None
    """What was collected of the training set, for a metric that needs it."""
    labels: np.ndarray | None = None
    """The class of each sample [N], for a metric that notes how classes were drawn; None if the samples have none."""
    texts: Texts | None = None
    """The prompts of the samples, for a metric with a `prompt`."""


class AbstractCollector(ABC):
    """Collects what a metric needs from the features of one output, which arrive batch by batch on all ranks."""

    @abstractmethod
    def add(self, rows: np.ndarray, features: np.ndarray) -> None:
        """Add `features` [n, D] float32 of the images `rows` [n] of the selection."""

    @abstractmethod
    def state(self) -> list[np.ndarray]:
        """The arrays that rank 0 needs of this rank, for `absorb`; none if nothing was added."""

    @abstractmethod
    def absorb(self, state: list[np.ndarray]) -> None:
        """Add the state of another rank."""

    @abstractmethod
    def finish(self) -> Any:
        """What the metric is given, when all features of all ranks have been added."""


class CollectedMoments(AbstractCollector):
    """Mean and covariance: `Moments`."""

    def __init__(self, num_rows: int | None = None) -> None:
        self.sums = Sums(None)

    def add(self, rows: np.ndarray, features: np.ndarray) -> None:
        self.sums.add(features)

    def state(self) -> list[np.ndarray]:
        return self.sums.state()

    def absorb(self, state: list[np.ndarray]) -> None:
        self.sums.absorb(state)

    def finish(self) -> Moments:
        return Moments.from_sums(self.sums)


class CollectedFeatures(AbstractCollector):
    """All features, float32 [N, D], in the order of their images and without rows for bad images.

    If the number of images is known, they go into one array, which is allocated when the first features arrive.
    """

    def __init__(self, num_rows: int | None) -> None:
        self._num_rows = num_rows
        self._array: np.ndarray | None = None
        self._is_there = np.zeros(num_rows or 0, dtype=bool)
        self._parts: list[np.ndarray] = []

    def add(self, rows: np.ndarray, features: np.ndarray) -> None:
        if self._num_rows is None:
            self._parts.append(features)
            return
        if self._array is None:
            self._array = np.empty((self._num_rows, features.shape[1]), np.float32)
        self._array[rows] = features
        self._is_there[rows] = True

    def state(self) -> list[np.ndarray]:
        return [] if self._array is None else [np.flatnonzero(self._is_there), self.finish()]

    def absorb(self, state: list[np.ndarray]) -> None:
        if state:
            self.add(*state)

    def finish(self) -> np.ndarray:
        if self._array is None:
            return np.concatenate(self._parts)
        return self._array if self._is_there.all() else self._array[self._is_there]


class KeptRows(CollectedFeatures):
    """All features, as `CollectedFeatures` has them, for `Moments.rows`; None beyond `MAX_ROWS_BYTES`."""

    _is_too_large = False

    def add(self, rows: np.ndarray, features: np.ndarray) -> None:
        known = sum(map(len, self._parts)) + len(features) if self._num_rows is None else self._num_rows
        self._is_too_large |= known * features.shape[1] * 4 > MAX_ROWS_BYTES
        if self._is_too_large:
            self._parts.clear()
        else:
            super().add(rows, features)

    def finish(self) -> np.ndarray | None:  # type: ignore[override]
        return None if self._is_too_large else super().finish()


Rows = Literal["", "wanted", "needed"]
"""Whether moments come with their `rows`: no; where that is possible; or it is an error where it is not."""


@dataclass(frozen=True)
class Need:
    """Something that is collected from one output of an encoder. Metrics with equal needs share it."""

    output: str
    collector: Callable[[int | None], AbstractCollector] = CollectedMoments
    """Makes a collector for so many images; None if their number is not known."""
    rows: Rows = ""
    """For moments: whether the features are kept as `Moments.rows`."""
    has_labels: bool = False
    """True if the class of every image is needed as well; then `Labelled` is collected."""
    or_classes: bool = False
    """True if `Moments` with their `classes` serve in place of labelled features, as files of statistics give them."""

    @property
    def is_moments(self) -> bool:
        """True for mean and covariance, which caches and files of statistics can give without any image."""
        return self.collector is CollectedMoments and not self.has_labels

    @property
    def plain(self) -> Need:
        """The same without rows and labels, which are added to what one collector gives for all kinds."""
        return replace(self, rows="", has_labels=False, or_classes=False)


@dataclass(frozen=True, eq=False)
class Metric:
    """A computation that gives one number, or several at once because they share work."""

    compute: Callable[[Any, Any, Context], Score | Mapping[str, Score]]
    """`compute(samples, reference, context)` from what was collected of both sides: the score, or for a metric with
    several names the score of each of `context.names`. Raises `InputError` for too few images."""
    collector: Callable[[int | None], AbstractCollector] = CollectedMoments
    """What is collected: `CollectedMoments`, `CollectedFeatures` (all in memory), or a collector of the metric's own,
    whose size must not grow with the number of images."""
    output: str | None = None
    """The encoder output that the metric reads; None for the main one."""
    needs_reference: bool = True
    """True if the same is collected of the reference. If False, `reference` is None."""
    rows: Rows = ""
    """For a metric of moments that can use ("wanted") or must have ("needed") the features as well, `Moments.rows`.
    Statistics as a reference have none in either case."""
    needs_training_set: bool = False
    """True if the same is collected of the images that the model was trained on, as `context.training`."""
    labels: tuple[Side, ...] = ()
    """The sets of which the class of every image is needed; what was collected of them comes as `Labelled`."""
    takes_classes: bool = False
    """True if a file of statistics with the moments of its classes is enough as the reference; it comes as `Moments`
    with `classes`, in place of `Labelled`."""
    prompt: str = ""
    """For a metric that compares samples with their prompts: the text that the encoder's text tower reads, with {} for
    the prompt. The embeddings come as `context.texts`. Encoders without a text tower are left out."""
    image_scores: Callable[[Any, Context], np.ndarray] | None = None
    """For a metric with a `prompt` that is a mean over the samples: `image_scores(samples, context)`, float64 [N], the
    score of each. Sets of the same prompts are then compared prompt by prompt."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Constants of the definition that signatures show: {"k": "3"}."""
    own_settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Further constants of single numbers, by name, where a metric has several."""
    reference_settings: Callable[[Moments | None], Mapping[str, str]] | None = None
    """Further settings that depend on what is known of the reference: its moments, or None for images that are not
    measured yet."""
    names: tuple[str, ...] = ()
    """The numbers that were asked for; `load_metrics` fills it in."""

    def needs(self, side: Side) -> bool:
        """True if the metric reads this set of images."""
        return {"samples": True, "reference": self.needs_reference, "training": self.needs_training_set}[side]

    def need(self, main: str, outputs: tuple[str, ...], side: Side = "samples") -> Need | None:
        """What the metric needs of one side from an encoder with these outputs; None if it does not apply to it."""
        output = self.output or main
        or_classes = self.takes_classes and side == "reference"
        need = Need(output, self.collector, self.rows, side in self.labels, or_classes)
        return need if output in outputs else None

    def settings_of(self, name: str) -> Mapping[str, str]:
        """The constants of the number `name`."""
        return {**self.settings, **self.own_settings.get(name, {})}

    def scores(self, samples: Any, reference: Any, context: Context) -> Mapping[str, Score]:
        """The score of each of `names`."""
        found = self.compute(samples, reference, replace(context, names=self.names))
        return found if isinstance(found, Mapping) else dict.fromkeys(self.names, found)
