"""The two shapes a metric can have: over the moments of both sides, or over a stream of one output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fdr.moments import Moments


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
    lower_is_better: bool
    needs_reference: bool

    @abstractmethod
    def output_of(self, main: str, outputs: tuple[str, ...]) -> str | None:
        """The output that the metric reads, of an encoder with these; None when it does not apply to the encoder."""


class AbstractMomentsMetric(AbstractMetric):
    """A metric over the moments of the encoder's main output."""

    def output_of(self, main: str, outputs: tuple[str, ...]) -> str | None:
        return main

    @abstractmethod
    def score(self, samples: Moments, reference: Moments) -> Score:
        """The metric between two moments of one width."""


class AbstractStream(ABC):
    """Accumulates one output batch by batch."""

    @abstractmethod
    def update(self, rows: np.ndarray, values: np.ndarray) -> None:
        """`values` [n, D] float32 belong to the images `rows` [n] of the selection."""

    @abstractmethod
    def score(self) -> Score:
        """The metric over everything seen. Raises `InputError` when that is too little."""


class AbstractStreamMetric(AbstractMetric):
    """A metric over a stream of one named output; memory does not grow with the number of images."""

    output: str

    def output_of(self, main: str, outputs: tuple[str, ...]) -> str | None:
        return self.output if self.output in outputs else None

    @abstractmethod
    def stream(self, num_rows: int) -> AbstractStream:
        """A fresh accumulator for a selection of `num_rows` images."""
