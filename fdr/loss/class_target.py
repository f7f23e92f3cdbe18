"""What a conditional loss takes from a reference: the classes' means and shares, and the covariance within classes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from fdr import frechet
from fdr.errors import InputError
from fdr.frechet import LabelledMoments
from fdr.references import Reference, reference_for

MIN_IMAGES = 2
"""Images that a class of the reference needs at least: one image is no mean to train towards."""


@dataclass(frozen=True)
class ClassTarget:
    """The classes of the reference of one encoder, as float64 tensors."""

    means: Tensor
    """p_c [C, d]."""
    shares: Tensor
    """pi_c [C]; their sum is 1."""
    precision: Tensor
    """P [d, d]: the inverse of the shrunk covariance within the classes."""

    @classmethod
    def of(cls, reference: LabelledMoments) -> ClassTarget:
        """The target made of `reference`, on the CPU; the shrinkage is that of the metric `fd_conditional`."""
        classes = reference.classes
        lower, _ = frechet.shrunk_factor(reference.within().sigma, classes.within_dof, torch.device("cpu"))
        precision = torch.cholesky_inverse(lower)
        return cls(torch.from_numpy(classes.means.copy()), torch.from_numpy(classes.shares), precision)

    def to(self, device: torch.device) -> ClassTarget:
        """The same on another device."""
        return ClassTarget(*(getattr(self, field.name).to(device) for field in fields(self)))

    def digest(self) -> str:
        """A digest of means and shares, which a saved population belongs to."""
        found = hashlib.sha256(self.means.numpy().tobytes())
        found.update(self.shares.numpy().tobytes())
        return found.hexdigest()[:16]


def class_targets(given: Any, references: Mapping[str, Reference]) -> dict[str, ClassTarget]:
    """The target of each encoder; `given` is the reference as the user gave it.

    Raises `InputError` for a reference without classes, with a class of one image, and where the encoders' references
    have other classes.
    """
    found = {name: _labelled(reference_for(given, name), reference, name) for name, reference in references.items()}
    names = {name: one.classes.names for name, one in found.items()}
    first = next(iter(names))
    for name, classes in names.items():
        if classes != names[first]:
            raise InputError(
                f"The reference of {name!r} has {len(classes)} classes ({_listed(classes)}), that of {first!r} has "
                f"{len(names[first])} ({_listed(names[first])}); all encoders need the same classes."
            )
    return {name: ClassTarget.of(one) for name, one in found.items()}


def without_classes(reference: Any) -> Any:
    """`reference` as `references_of` takes it: `LabelledMoments` become the moments of all their features."""
    if isinstance(reference, Mapping):
        return {name: without_classes(one) for name, one in reference.items()}
    return reference.total if isinstance(reference, LabelledMoments) else reference


def number_of_classes(targets: Mapping[str, ClassTarget] | None) -> int | None:
    """C; None for a loss without a conditional term."""
    return None if targets is None else len(next(iter(targets.values())).shares)


def _labelled(given: Any, reference: Reference, name: str) -> LabelledMoments:
    if not isinstance(given, LabelledMoments):
        classes = reference.moments.classes
        if classes is None:
            raise InputError(
                f"The reference of {name!r}, {reference.name}, has no classes, which a conditional loss needs; write "
                "one from labelled images with fdr stats --labels."
            )
        given = LabelledMoments(reference.moments, classes)
    few = [label for label, count in zip(given.classes.names, given.classes.counts, strict=True) if count < MIN_IMAGES]
    if few:
        raise InputError(
            f"{len(few)} classes of the reference have one image ({_listed(few)}), and a conditional loss needs "
            f"{MIN_IMAGES} or more of each; give more images, or leave those classes out."
        )
    if len(given.classes.names) < 2:
        raise InputError("The reference has one class, so that labels say nothing; leave out the conditional term.")
    return given


def _listed(names: Any) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
