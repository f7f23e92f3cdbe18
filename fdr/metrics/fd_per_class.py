"""FD within each class, and its mean over the classes: whether each class looks right, not only all of them together.

Classes have few images, so that FD is mostly its bias there; the mean of the debiased FD is the number to look at.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from fdr.errors import FdrWarning, InputError
from fdr.frechet import Moments, debiased_frechet_distance, fd_influence, frechet_terms
from fdr.metrics.base import CollectedFeatures, Context, Labelled, Metric, Score
from fdr.metrics.classes import Classes, listed, match_classes

MIN_COUNT = 2
"""Images of a class on either side that a covariance needs at least."""


def fd_per_class(samples: Labelled, reference: Labelled, context: Context) -> dict[str, Score]:
    """The mean over the classes of FD(samples of the class, reference images of the class), raw and debiased."""
    classes = match_classes(samples, reference, context.names[0])
    pairs = list(_pairs(classes, samples.collected, reference.collected))
    few = [classes.names[c] for c, own, other in pairs if min(len(own), len(other)) < MIN_COUNT]
    usable = [pair for pair in pairs if min(len(pair[1]), len(pair[2])) >= MIN_COUNT]
    if not usable:
        raise InputError(
            f"{context.names[0]} needs a class with at least {MIN_COUNT} images on both sides, and no class of "
            f"{samples.source} and {reference.source} has them; draw more images of each class."
        )
    notes = (
        *classes.notes,
        *([f"{len(few)} classes have fewer than 2 images and are left out: {listed(few)}"] * bool(few)),
    )
    rules = {"fd_per_class": _raw, "fd_per_class_debiased": _debiased}
    with context.progress.task(", ".join(context.names), len(usable) * len(context.names), "classes") as task:
        found = {}
        for name in context.names:
            rows: dict[str, dict[str, Any]] = {}
            for c, own, other in usable:
                rows[classes.names[c]] = {**rules[name](own, other, context), "n": len(own), "reference_n": len(other)}
                task.advance()
            found[name] = _mean(name, rows, notes, samples.collected.shape[1])
    return found


def _pairs(
    classes: Classes, samples: np.ndarray, reference: np.ndarray
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(class, features of its samples, features of its reference images) for each class of both sides."""
    for c in classes.shared:
        yield c, samples[classes.samples == c], reference[classes.reference == c]


def _raw(samples: np.ndarray, reference: np.ndarray, context: Context) -> dict[str, Any]:
    sides = [replace(Moments.from_features(rows), rows=rows) for rows in (samples, reference)]
    error = fd_influence(*sides, device=context.device).stderr if context.stderr else None
    return {"fd": frechet_terms(*sides, device=context.device).value, "stderr": error}


def _debiased(samples: np.ndarray, reference: np.ndarray, context: Context) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FdrWarning)  # a warning for each class would bury the others
        found = debiased_frechet_distance(samples, reference, device=context.device, stderr=context.stderr)
    return {"fd": found.value, "stderr": found.stderr, "regime": found.regime}


def _mean(name: str, rows: dict[str, dict[str, Any]], notes: tuple[str, ...], dim: int) -> Score:
    """The mean over the classes that have a value; classes are independent, so their variances add."""
    values = {key: row["fd"] for key, row in rows.items() if row["fd"] is not None}
    if not values:
        most = max(min(row["n"], row["reference_n"]) for row in rows.values())
        raise InputError(
            f"{name} has no value: the largest class has {most} images for {dim} dimensions, and the debiased FD needs "
            "100 images and half as many as dimensions; draw more images of each class, or take fd_per_class."
        )
    without = [key for key in rows if key not in values]
    if without:
        notes = (*notes, f"{len(without)} classes have too few images for a debiased FD: {listed(without)}")
    if name == "fd_per_class" and any(row["n"] <= dim or row["reference_n"] <= dim for row in rows.values()):
        notes = (*notes, f"classes have no more images than the {dim} dimensions: their FD is biased upward")
    errors = [rows[key]["stderr"] for key in values if rows[key].get("stderr") is not None]
    stderr = math.hypot(*errors) / len(errors) if len(errors) == len(values) else None
    return Score(sum(values.values()) / len(values), stderr, details={"classes": rows}, notes=notes)


FD_PER_CLASS = Metric(fd_per_class, CollectedFeatures, labels=("samples", "reference"))
