"""Improved precision and recall (Kynkäänniemi et al. 2019): how much of one set lies in the manifold of the other.

The manifold of a set is the union of balls around its features, each reaching to the k-th nearest neighbour in the set.
Precision is the share of the samples in the manifold of the reference, recall the reverse. A point on the border is in.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fdr.errors import InputError
from fdr.metrics.base import AbstractFeaturesMetric, Score
from fdr.metrics.distances import ADM, EXACT, DistanceRule, squared_radii
from fdr.runtime import Progress, SilentProgress, resolve_device

if TYPE_CHECKING:
    import torch

K = 3


@dataclass(frozen=True)
class _Coverage(AbstractFeaturesMetric):
    """The common part of precision and recall; `kind` is the name without the suffix of the rule."""

    rule: DistanceRule
    kind = ""
    lower_is_better = False
    needs_reference = True

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.kind + self.rule.suffix

    @property
    def settings(self) -> Mapping[str, str]:  # type: ignore[override]
        return {"k": str(K), **self.rule.settings}

    def score(
        self, samples: np.ndarray, reference: np.ndarray, *, device: str | None = None, progress: Progress | None = None
    ) -> Score:
        _check(self.name, samples, reference)
        total = self._own(samples, reference) ** 2 + len(samples) * len(reference)
        with (progress or SilentProgress()).task(self.name, total, "distances") as task:
            inside = self._inside(samples, reference, resolve_device(device or "cpu"), task.advance)
        return Score(float(inside.double().mean()), details={"k": K}, notes=self._notes(samples, reference))

    @abstractmethod
    def _own(self, samples: np.ndarray, reference: np.ndarray) -> int:
        """The size of the set whose manifold is used."""

    @abstractmethod
    def _inside(
        self, samples: np.ndarray, reference: np.ndarray, device: torch.device, done: Callable[[float], None]
    ) -> torch.Tensor:
        """Which of the points are in the manifold of the other set."""

    def _notes(self, samples: np.ndarray, reference: np.ndarray) -> tuple[str, ...]:
        if self.rule is not EXACT or len(samples) == len(reference):
            return ()
        return (
            f"{len(samples)} samples and {len(reference)} reference images: {self.name} moves with either number, "
            "compare it at equal ones only",
        )


@dataclass(frozen=True)
class Precision(_Coverage):
    """The share of the samples within the reference's balls."""

    kind = "precision"

    def _own(self, samples: np.ndarray, reference: np.ndarray) -> int:
        return len(reference)

    def _inside(
        self, samples: np.ndarray, reference: np.ndarray, device: torch.device, done: Callable[[float], None]
    ) -> torch.Tensor:
        import torch

        radii = squared_radii(reference, K, self.rule, device, done)
        inside = torch.zeros(len(samples), dtype=torch.bool, device=device)
        for rows, columns, squared in self.rule.blocks(reference, samples, device):
            inside[columns] |= (squared <= radii[rows, None]).any(0)
            done(squared.numel())
        return inside


@dataclass(frozen=True)
class Recall(_Coverage):
    """The share of the reference within the samples' balls."""

    kind = "recall"

    def _own(self, samples: np.ndarray, reference: np.ndarray) -> int:
        return len(samples)

    def _inside(
        self, samples: np.ndarray, reference: np.ndarray, device: torch.device, done: Callable[[float], None]
    ) -> torch.Tensor:
        import torch

        radii = squared_radii(samples, K, self.rule, device, done)
        inside = torch.zeros(len(reference), dtype=torch.bool, device=device)
        for rows, columns, squared in self.rule.blocks(reference, samples, device):  # in this order, as ADM rounds it
            inside[rows] |= (squared <= radii[columns]).any(1)
            done(squared.numel())
        return inside


def precision() -> Precision:
    """With exact distances."""
    return Precision(EXACT)


def recall() -> Recall:
    """With exact distances."""
    return Recall(EXACT)


def precision_adm() -> Precision:
    """With the half-precision distances of ADM's evaluator."""
    return Precision(ADM)


def recall_adm() -> Recall:
    """With the half-precision distances of ADM's evaluator."""
    return Recall(ADM)


def _check(name: str, samples: np.ndarray, reference: np.ndarray) -> None:
    for side, features in (("samples", samples), ("reference images", reference)):
        if features.ndim != 2:
            raise InputError(f"Features of the {side} have shape {list(features.shape)}; expected [N, D].")
        if len(features) <= K:
            raise InputError(
                f"{name} needs more than {K} {side}, for a {K}rd neighbour; got {len(features)}: give it more images."
            )
    if samples.shape[1] != reference.shape[1]:
        raise InputError(
            f"Samples have features of width {samples.shape[1]}, the reference of width {reference.shape[1]}; "
            "both sides need the same encoder and output."
        )
