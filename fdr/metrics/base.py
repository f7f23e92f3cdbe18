"""The three shapes a metric can have: over the moments of both sides, over their features, or over a stream."""

from __future__ import annotations

import types
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fdr.frechet import Moments
from fdr.runtime import Progress


@dataclass(frozen=True)
class Score:
    """What a metric computed; `evaluation` turns it into a `Result` with provenance."""

    value: float
    stderr: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class AbstractMetric(ABC):
    """A named metric of one encoder."""

    name: str
    output: str | None = None
    """The encoder output that the metric reads; None for the main one."""
    lower_is_better: bool
    needs_reference: bool
    settings: Mapping[str, str] = types.MappingProxyType({})
    """Constants of the definition that signatures show: {"k": "3"}."""

    def output_of(self, main: str, outputs: tuple[str, ...]) -> str | None:
        """The output that the metric reads, of an encoder with these; None when it does not apply to the encoder."""
        if self.output is None:
            return main
        return self.output if self.output in outputs else None


class AbstractMomentsMetric(AbstractMetric):
    """A metric over the moments of one output."""

    @abstractmethod
    def score(self, samples: Moments, reference: Moments) -> Score:
        """The metric between two moments of one width."""


class AbstractFeaturesMetric(AbstractMetric):
    """A metric over all features of one output, of both sides; a reference of moments alone is not enough for it."""

    @abstractmethod
    def score(
        self, samples: np.ndarray, reference: np.ndarray, *, device: str | None = None, progress: Progress | None = None
    ) -> Score:
        """The metric between float32 features [N, D] and [M, D]. Raises `InputError` for too few rows."""


class AbstractStream(ABC):
    """Accumulates one output batch by batch."""

    @abstractmethod
    def update(self, rows: np.ndarray, values: np.ndarray) -> None:
        """`values` [n, D] float32 belong to the images `rows` [n] of the selection."""

    @abstractmethod
    def state(self) -> list[np.ndarray]:
        """The arrays that `absorb` needs; their size must not grow with the number of images."""

    @abstractmethod
    def absorb(self, state: list[np.ndarray]) -> None:
        """Add the state of a stream over the same selection on another rank."""

    @abstractmethod
    def score(self) -> Score:
        """The metric over everything seen. Raises `InputError` when that is too little."""


class AbstractStreamMetric(AbstractMetric):
    """A metric over a stream of one named output; memory does not grow with the number of images."""

    output: str

    @abstractmethod
    def stream(self, num_rows: int) -> AbstractStream:
        """A fresh accumulator for a selection of `num_rows` images."""
