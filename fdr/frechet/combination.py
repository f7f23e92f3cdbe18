"""The standard error of the difference of two FDs, or of sums of FDs, that share their reference images.

An FD moves by about IF_a / N when sample a is added, and by IF_r / M with reference image r (`influence`). Both sets
share the reference images, so their influences are subtracted row by row before they are squared, and most of that
noise cancels:

    V1 = var(IF_a of set 1) / N_1 + var(IF_a of set 2) / N_2 + var(IF_r of set 1 - IF_r of set 2) / M

V2, the part that remains where both distributions are equal, has a share (1/M)^2 / (1/N + 1/M)^2 that comes from the
reference alone. It cancels too, so that V2 of the difference is the sum of the V2 of both sets without that share. As
for one set, V1 counts V2 twice in addition, and the standard error is sqrt(max(V1 - V2, V2)).

The two sample sets are taken as independent. If they share noise (one seed, two models), the true error is smaller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fdr.frechet.influence import Influence, stderr_from


@dataclass(frozen=True)
class Combination:
    """A number as a weighted sum of FDs: its influences, with the weights taken in."""

    samples: np.ndarray
    """The influences of the samples, or of a random part of them."""
    reference: np.ndarray | None
    """The influences of the reference images, or of a random part of them that depends on the reference alone; None
    where their features are not known, so that the reference is taken as exact."""
    second_order: float
    """V2"""
    count: int
    """Number N of samples."""
    reference_count: int
    """Number M of reference images."""

    @classmethod
    def of(
        cls, parts: Sequence[tuple[float, Influence]], count: int | None = None, reference_count: int | None = None
    ) -> Combination | None:
        """The sum of weights times influences of the same images; None if these have not the same number everywhere.

        The counts are by default the numbers of influences.
        """
        if len({(len(one.samples), None if one.reference is None else len(one.reference)) for _, one in parts}) != 1:
            return None
        samples = sum(weight * one.samples for weight, one in parts)
        known = [(weight, one.reference) for weight, one in parts if one.reference is not None]
        spread = sum(abs(weight) * math.sqrt(one.second_order) for weight, one in parts)
        reference = np.asarray(sum(weight * values for weight, values in known)) if known else None
        of_reference = 0 if reference is None else reference_count or len(reference)
        return cls(np.asarray(samples), reference, spread**2, count or len(parts[0][1].samples), of_reference)

    @property
    def stderr(self) -> float:
        """The standard error of the number itself."""
        first = float(np.var(self.samples)) / self.count
        if self.reference is not None:
            first += float(np.var(self.reference)) / self.reference_count
        return stderr_from(first, self.second_order)

    @property
    def own_second_order(self) -> float:
        """V2 without the share that comes from the reference alone."""
        if self.reference is None:
            return self.second_order
        own, shared = 1 / self.count, 1 / self.reference_count
        return self.second_order * (1 - (shared / (own + shared)) ** 2)


def paired_stderr(a: Combination, b: Combination) -> float | None:
    """The standard error of the difference; None if the two were measured against different reference images."""
    first = float(np.var(a.samples)) / a.count + float(np.var(b.samples)) / b.count
    if a.reference is not None and b.reference is not None:
        if (len(a.reference), a.reference_count) != (len(b.reference), b.reference_count):
            return None
        first += float(np.var(a.reference - b.reference)) / a.reference_count
    elif a.reference is not None or b.reference is not None:
        return None
    return stderr_from(first, a.own_second_order + b.own_second_order)
