"""The eigenvalues of a covariance: how many directions features vary in, and how much.

Samples whose eigenvalues fall faster than those of the reference lack variety in the directions of small variance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fdr.frechet import covariance as _covariance
from fdr.frechet import linalg
from fdr.frechet.moments import Moments
from fdr.runtime import memory_for

if TYPE_CHECKING:
    import torch

NUM_RANKS = 100
"""Eigenvalues that `spectrum_points` keeps at most. Raising it makes larger reports and smoother charts."""


@memory_for("the eigenvalues of a covariance", "leave out --spectra, or use --device cpu")
def eigenvalues(moments: Moments, device: torch.device) -> np.ndarray:
    """The eigenvalues [r] of the covariance of N features, descending; those within rounding of 0 are left out.

    They are found once for the same moments. With N <= D they are those of the Gram matrix [N, N].
    """
    import torch

    found = moments.derived.get("eigenvalues")
    if found is None:
        matrix = moments.sigma
        if moments.factor is not None:
            assert moments.count is not None
            matrix = moments.factor @ moments.factor.T / (moments.count - moments.ddof)
        if device.type == "cuda":
            values = torch.linalg.eigvalsh(linalg.as_float64(matrix.copy(), device)).cpu().numpy()
        else:
            values = np.linalg.eigvalsh(matrix)
        floor = _covariance.rounding_of(len(matrix), values[-1])
        found = values[values > floor][::-1]
        moments.derived["eigenvalues"] = found
    return found


def spectrum_points(values: np.ndarray, most: int = NUM_RANKS) -> dict[str, list]:
    """At most `most` of the eigenvalues [r] by `rank` 1, 2, ..., evenly spaced on a logarithmic axis.

    Values have six digits.
    """
    if not len(values):
        return {"rank": [], "eigenvalue": []}
    ranks = np.unique(np.rint(np.geomspace(1, len(values), most)).astype(np.int64))
    return {"rank": ranks.tolist(), "eigenvalue": [float(f"{value:.6g}") for value in values[ranks - 1]]}
