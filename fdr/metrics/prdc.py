"""Precision, recall, density, coverage and realism: one set of features against the neighbourhoods of another.

The balls of a set are centred at its features, and each reaches to the k-th nearest other feature of the set.

- Improved precision and recall (Kynkäänniemi et al. 2019, eq. 1 and 2), k = 3: the share of the samples in any ball of
  the reference, and the reverse. A point on the border is inside. The variants "prdc" take k = 5 and open balls.
- Density and coverage (Naeem et al. 2020, eq. 4 and 5), k = 5, open balls of the reference: 1/k times the mean number
  of balls that a sample lies in, and the share of the balls that hold a sample.
- Realism (Kynkäänniemi et al. 2019, eq. 3), k = 3: the mean over the samples of the largest ratio of a ball's radius
  and the sample's distance to its centre, among the balls of the reference with radii below the median.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdr.errors import InputError
from fdr.metrics.base import CollectedFeatures, Context, Metric, Score
from fdr.metrics.feature_checks import check_features
from fdr.metrics.resampling import influence_stderr, share_stderr
from fdr.neighbours import Balls, Hits, ball_hits, nearest_centre, nearest_others
from fdr.runtime import ProgressTask, resolve_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

K, K_PRDC = 3, 5
"""k of Kynkäänniemi et al. 2019 and of Naeem et al. 2020."""
LEAST_DISTANCE = 1e-5
"""Smaller distances count as this one in realism, so that a copy of a reference image has a finite score."""


class Kind(NamedTuple):
    """The balls that a number is about."""

    k: int
    of_reference: bool
    is_open: bool = False
    is_counted: bool = False


KINDS = {
    "precision": Kind(K, True),
    "recall": Kind(K, False),
    "precision:prdc": Kind(K_PRDC, True, is_open=True),
    "recall:prdc": Kind(K_PRDC, False, is_open=True),
    "density": Kind(K_PRDC, True, is_open=True, is_counted=True),
    "coverage": Kind(K_PRDC, True, is_open=True, is_counted=True),
    "realism": Kind(K, True),
}


@dataclass(frozen=True)
class Sides:
    """Both sets of features, and what is known of them."""

    samples: np.ndarray
    reference: np.ndarray
    device: torch.device
    memory: int
    task: ProgressTask
    radii: dict[bool, Tensor] = field(default_factory=dict)
    """Squared distances [n, k] to the nearest others, of the reference (True) and of the samples (False)."""

    def find_radii(self, kinds: Sequence[Kind]) -> None:
        """Find the radii that `kinds` need."""
        for of_reference in {kind.of_reference for kind in kinds}:
            features = self.reference if of_reference else self.samples
            k = max(kind.k for kind in kinds if kind.of_reference == of_reference)
            self.radii[of_reference] = nearest_others(features, k, self.device, self.memory, self.task.advance)

    def squared_radii(self, kind: Kind) -> Tensor:
        """[n]"""
        return self.radii[kind.of_reference][:, kind.k - 1]

    def hits(self, kinds: Sequence[Kind]) -> dict[Kind, Hits]:
        """The points of one side in the balls of the other, for every kind."""
        balls = [Balls(self.squared_radii(kind), kind.of_reference, kind.is_open, kind.is_counted) for kind in kinds]
        found = ball_hits(self.reference, self.samples, balls, self.device, self.memory, self.task.advance)
        return dict(zip(kinds, found, strict=True))


def prdc(samples: np.ndarray, reference: np.ndarray, context: Context) -> dict[str, Score]:
    """The numbers in `context.names` between features [N, D] and [M, D]; all distances are computed once."""
    kinds = {name: KINDS[name] for name in context.names}
    for name, kind in kinds.items():
        check_features(name, samples, reference, kind.k)
    in_balls = list(dict.fromkeys(kind for name, kind in kinds.items() if name != "realism"))
    sizes = {True: len(reference), False: len(samples)}
    between = len(samples) * len(reference)
    total = sum(sizes[of] ** 2 for of in {kind.of_reference for kind in kinds.values()})
    total += (between if in_balls else 0) + (between if "realism" in kinds else 0)
    with context.progress.task(", ".join(kinds), total, "distances") as task:
        sides = Sides(samples, reference, resolve_device(context.device or "cpu"), context.memory, task)
        sides.find_radii(list(kinds.values()))
        hits = sides.hits(in_balls) if in_balls else {}
        return {
            name: realism(sides) if name == "realism" else _SCORES[name.partition(":")[0]](name, hits[kind], sides)
            for name, kind in kinds.items()
        }


def share_in_balls(name: str, hits: Hits, sides: Sides) -> Score:
    """Precision or recall. The standard error is binomial, over the points with the balls as they are."""
    inside = float((hits.by_point > 0).double().mean())
    stderr = share_stderr(inside, len(hits.by_point))
    return Score(inside, stderr, details={"k": KINDS[name].k}, notes=_notes(name, sides))


def density(name: str, hits: Hits, sides: Sides) -> Score:
    """Density. The standard error is of the mean over the samples, with the balls as they are."""
    k, num_balls = KINDS[name].k, hits.by_point.cpu().numpy()
    stderr = influence_stderr(num_balls / k)
    return Score(float(num_balls.mean()) / k, stderr, details={"k": k})


def coverage(name: str, hits: Hits, sides: Sides) -> Score:
    """Coverage. The standard error is the jackknife's over the samples, with the balls as they are.

    Without sample j, coverage falls by the share of the balls that hold j alone.
    """
    held, index_sum, num_samples = hits.by_ball.cpu().numpy(), hits.index_sum.cpu().numpy(), len(hits.by_point)
    lone = np.bincount(index_sum[held == 1], minlength=num_samples) / len(held)
    stderr = float(((lone - lone.mean()) ** 2).sum() * (num_samples - 1) / num_samples) ** 0.5
    return Score(float((held > 0).mean()), stderr, details={"k": KINDS[name].k}, notes=_notes(name, sides))


_SCORES: Mapping[str, Callable[[str, Hits, Sides], Score]] = {
    "precision": share_in_balls,
    "recall": share_in_balls,
    "density": density,
    "coverage": coverage,
}


def realism(sides: Sides) -> Score:
    """The mean realism. The standard error is of the mean over the samples, with the balls as they are."""
    squared = sides.squared_radii(KINDS["realism"]).cpu().numpy()
    chosen = np.flatnonzero((squared < np.median(squared)) & (squared > 0))
    if not len(chosen):
        raise InputError(
            f"realism needs balls of different size, but half of the {len(squared)} reference images or more have {K} "
            "copies each, or all are equally far apart; look at the reference."
        )
    radii, distances = _nearest_balls(sides, chosen, squared[chosen])
    scores = radii / distances.clip(min=LEAST_DISTANCE)
    copies = int((distances == 0).sum())
    details = {"k": K, "median": float(np.median(scores)), "copies": copies}
    return Score(
        float(scores.mean()),
        influence_stderr(scores),
        details=details,
        notes=(*_notes("realism", sides), *_warn(copies)),
    )


def _nearest_balls(sides: Sides, chosen: np.ndarray, squared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The radius and the distance [N] of the ball with the largest ratio of the two, for every sample."""
    import torch

    share = len(sides.reference) / len(chosen)
    ratios, places = nearest_centre(
        sides.samples,
        sides.reference[chosen],
        sides.device,
        1 / torch.from_numpy(squared).to(sides.device),
        sides.memory,
        lambda amount: sides.task.advance(amount * share),
    )
    nearest = squared[places.cpu().numpy()]
    return np.sqrt(nearest), np.sqrt(ratios.cpu().numpy() * nearest)


def _warn(copies: int) -> tuple[str, ...]:
    if not copies:
        return ()
    return (
        f"{copies} samples have the features of a reference image: their realism, radius / {LEAST_DISTANCE:g}, "
        "outweighs that of all others; the median is in the details",
    )


def _notes(name: str, sides: Sides) -> tuple[str, ...]:
    num_samples, num_reference = len(sides.samples), len(sides.reference)
    if num_samples == num_reference:
        return ()
    return (
        f"{num_samples} samples and {num_reference} reference images: {name} moves with either number, compare it at "
        "equal ones only",
    )


PRDC = Metric(
    prdc,
    CollectedFeatures,
    own_settings={name: {"k": str(kind.k)} for name, kind in KINDS.items()},
)
