"""FD of two covariances within classes without the bias from the numbers of images, by leverages (docs/debiased-fd.md).

A covariance within C classes of N features has N - C degrees of freedom instead of N - 1, and leaving out a feature
of a class of n_c changes it by n_c / (n_c - 1) x x^T, with the residual x, instead of by N / (N - 1) x x^T. Both enter
here by the count N - C + 1 of the moments and by the scale of the residuals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fdr.errors import InputError
from fdr.frechet.correction import spectral_sum, theta_of_moments
from fdr.frechet.labelled_moments import LabelledMoments
from fdr.frechet.leverages import Ridges, measure_leverages
from fdr.frechet.moments import Moments
from fdr.frechet.whitening import Side, whiten

if TYPE_CHECKING:
    import torch


def debiased_within(
    samples: LabelledMoments, reference: LabelledMoments, within: tuple[Moments, Moments], device: torch.device
) -> float:
    """FD of the covariances `within` the classes of samples and reference, without its bias.

    The samples must have features; what is known of the bias of a reference without them is its leverage curve, as
    for the debiased FD. Raises `InputError` where N - C is below the number of dimensions on one side.
    """
    sides = tuple(
        _side(labelled, moments, name)
        for labelled, moments, name in zip((samples, reference), within, ("samples", "reference images"), strict=True)
    )
    whitening = whiten(sides[0], sides[1], device)
    ridges = Ridges.over(whitening.values)
    theta = np.ones(len(ridges.x))
    for side, projection in zip(sides, whitening.projections, strict=True):
        if side.rows is None:
            theta *= theta_of_moments(side, ridges.h)
        else:
            theta *= measure_leverages(side, whitening.roots, projection, ridges).theta
    spectral = spectral_sum(whitening.values, ridges, theta, min(side.n for side in sides), whitening.dim)
    trace = sum(float(side.moments.sigma.trace()) for side in sides)
    return trace - spectral.finite * sum(1 / side.n for side in sides) - 2 * spectral.value


def _side(labelled: LabelledMoments, within: Moments, name: str) -> Side:
    """S_W of N - C degrees of freedom, with residuals x sqrt(w n_c / (n_c - 1)) for leverages, where w is the weight of
    the outer product of x in S_W.
    """
    classes, dof = labelled.classes, labelled.classes.within_dof
    if dof < within.dim:
        raise InputError(
            f"{classes.total} {name} of {len(classes.names)} classes are too few for a debiased conditional FD in "
            f"{within.dim} dimensions: it needs {within.dim + len(classes.names)}. Take fd_conditional, or more images."
        )
    rows = None
    if within.rows is not None and labelled.labels is not None:
        scales = classes.counts / np.maximum(classes.counts - 1, 1) * (dof**2 / ((dof + 1) * (classes.total - 1)))
        rows = within.rows * np.sqrt(scales)[labelled.labels, None].astype(within.rows.dtype)
    return Side(Moments(within.mu, within.sigma, dof + 1, curve=labelled.total.curve), rows)
