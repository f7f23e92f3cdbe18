"""Fréchet distance given the class, and of the joint of features and class; docs/conditional-fd.md derives both.

FD compares all samples with all reference images, so that samples with the labels of others have the same FD. These two
see the labels. Their reference is labelled images, or statistics with the moments of their classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fdr.frechet import (
    ClassMoments,
    ConditionalFD,
    LabelledMoments,
    Moments,
    conditional_frechet_distance,
    fd_influence,
    frechet_terms,
    joint_features,
    joint_moments,
    label_code,
    label_scale,
)
from fdr.metrics.base import MAX_ROWS_BYTES, CollectedFeatures, Context, Labelled, Metric, Score
from fdr.metrics.classes import Classes, listed, match_classes
from fdr.metrics.debiased_fd import reference_bias
from fdr.metrics.fd import STDERR_ROWS

NUM_WORST = 5
"""Classes that the details name as the worst. More make them long."""


def conditional_score(samples: Labelled, reference: Labelled | Moments, context: Context) -> Score:
    """sum_c pi_c |m_c^q - m_c^p|^2, without the noise of the means, + FD of the covariances within the classes."""
    return _conditional_score(samples, reference, context, debiased=False)


def debiased_conditional_score(samples: Labelled, reference: Labelled | Moments, context: Context) -> Score:
    """The same without the bias of the FD of the covariances. The standard error is that of the biased one."""
    return _conditional_score(samples, reference, context, debiased=True)


def _conditional_score(samples: Labelled, reference: Labelled | Moments, context: Context, *, debiased: bool) -> Score:
    sides = _Sides.of(samples, reference, context.names[0])
    found = conditional_frechet_distance(
        sides.samples,
        sides.reference,
        device=context.device,
        stderr=context.stderr,
        max_rows=STDERR_ROWS,
        debiased=debiased,
    )
    rows = _table(found)
    details = {
        "between": found.between,
        "within": found.within,
        "noise_of_means": found.noise,
        "whitened": found.whitened,
        "shrinkage": found.shrinkage,
        "spread": found.spread,
        "worst": sorted(rows, key=lambda name: -rows[name]["mean_term"])[:NUM_WORST],
        "classes": rows,
    }
    return Score(found.value, found.stderr, details=details, notes=tuple(_notes(found, sides)))


def joint_score(samples: Labelled, reference: Labelled | Moments, context: Context) -> Score:
    """FD of the Gaussians of (features, scale * code of the class), whose scale gives both parts the same variance."""
    sides = _Sides.of(samples, reference, context.names[0])
    names, scale = sides.reference.classes.names, label_scale(sides.reference)
    own, other = (joint_moments(side, names, scale) for side in (sides.samples, sides.reference))
    joint = frechet_terms(own, other, device=context.device)
    alone = frechet_terms(sides.samples.total, sides.reference.total, device=context.device)
    dim = sides.reference.total.dim
    details = {
        "fd": alone.value,
        "from_labels": joint.value - alone.value,
        "label_shares": float(np.square(own.mu[dim:] - other.mu[dim:]).sum()),
        "scale": scale,
    }
    return Score(joint.value, _joint_stderr(sides, (own, other), scale, context), details=details, notes=sides.notes)


def _joint_stderr(sides: _Sides, joint: tuple[Moments, Moments], scale: float, context: Context) -> float | None:
    """As for FD, with the code of the class beside each feature; None where that is too large to keep."""
    if not context.stderr:
        return None
    names = sides.reference.classes.names
    place = {name: index for index, name in enumerate(names)}
    code = scale * label_code(len(names))
    whole = []
    for side, moments in zip((sides.samples, sides.reference), joint, strict=True):
        rows, labels = side.total.rows, side.labels
        if rows is None or labels is None:
            whole.append(moments)
            continue
        if 4 * len(rows) * moments.dim > MAX_ROWS_BYTES:
            return None
        codes = code[[place[name] for name in side.classes.names]]
        whole.append(replace(moments, rows=joint_features(rows, codes[labels])))
    return fd_influence(*whole, device=context.device, max_rows=STDERR_ROWS).stderr


@dataclass(frozen=True)
class _Sides:
    """Samples and reference by class, with the same names for the same classes."""

    samples: LabelledMoments
    reference: LabelledMoments
    notes: tuple[str, ...]

    @classmethod
    def of(cls, samples: Labelled, reference: Labelled | Moments, metric: str) -> _Sides:
        stored = reference if isinstance(reference, Moments) else None
        labelled = reference if isinstance(reference, Labelled) else _as_labelled(reference)
        classes = match_classes(samples, labelled, metric)
        own = LabelledMoments.from_features(samples.collected, classes.samples, classes.names)
        if stored is None:
            other = LabelledMoments.from_features(labelled.collected, classes.reference, classes.names)
        else:
            assert stored.classes is not None
            other = LabelledMoments(stored, _renamed(stored.classes, classes))
        return cls(own, other, classes.notes)


def _as_labelled(reference: Moments) -> Labelled:
    """The classes of statistics as labels, one image each; names that are numbers count as no names."""
    assert reference.classes is not None
    names = reference.classes.names
    is_numbered = all(name.isascii() and name.isdigit() for name in names)
    labels = np.array([int(name) for name in names]) if is_numbered else np.arange(len(names))
    source = str(reference.attributes.get("reference", "the reference"))
    return Labelled(None, labels, None if is_numbered else names, source)


def _renamed(stored: ClassMoments, classes: Classes) -> ClassMoments:
    return replace(stored, names=tuple(classes.names[place] for place in classes.reference.tolist()))


def _table(found: ConditionalFD) -> dict[str, dict[str, Any]]:
    """The row of each class: its mean term with the standard error, its spread, and the images of both sides."""
    columns = (found.names, found.mean_terms, found.mean_stderrs, found.spreads, *found.counts)
    return {
        name: {
            "mean_term": float(term),
            "stderr": float(error),
            "spread": None if np.isnan(spread) else float(spread),
            "n": int(own),
            "reference_n": int(other),
        }
        for name, term, error, spread, own, other in zip(*columns, strict=True)
    }


def _notes(found: ConditionalFD, sides: _Sides) -> Iterator[str]:
    yield from sides.notes
    few = [name for name in found.left_out if name in sides.samples.classes.names]
    if few:
        yield f"{len(few)} classes have fewer than 2 images on one side and are left out: {listed(few)}"
    if found.left_out:
        yield "the covariance within the classes of the reference is over all its classes, also those left out here"
    dim = sides.reference.total.dim
    for side, name in ((sides.samples, "samples"), (sides.reference, "reference images")):
        if side.classes.total <= dim:
            yield f"{side.classes.total} {name} for {dim} dimensions: the part within classes is biased upward"


def classes_setting(reference: Moments | None) -> dict[str, str]:
    """The digest of the classes of statistics, for the signature; the labels of images have one of their own."""
    if reference is None or reference.classes is None:
        return {}
    digest = hashlib.sha256()
    for array in reference.classes.arrays.values():
        digest.update(array.tobytes())
    return {"lab": digest.hexdigest()[:8]}


_OPTIONS: dict[str, Any] = {
    "labels": ("samples", "reference"),
    "takes_classes": True,
    "reference_settings": classes_setting,
}
DEBIASED_CONDITIONAL = Metric(
    debiased_conditional_score,
    CollectedFeatures,
    settings={"est": "leverage"},
    **{**_OPTIONS, "reference_settings": lambda reference: classes_setting(reference) | reference_bias(reference)},
)
CONDITIONAL = Metric(conditional_score, CollectedFeatures, **_OPTIONS)
JOINT = Metric(joint_score, CollectedFeatures, settings={"scale": "variance"}, **_OPTIONS)
