"""CMMD: the squared maximum mean discrepancy of CLIP embeddings of unit length (Jayasumana et al. 2024)."""

from __future__ import annotations

import math

import numpy as np

from fdr.errors import InputError
from fdr.metrics.base import CollectedFeatures, Context, Metric, Score
from fdr.metrics.kernels import Gaussian, mmd_of_all_pairs

SIGMA, SCALE = 10.0, 1000.0
UNIT_TOLERANCE = 1e-3
"""Embeddings whose length is further from 1 are refused."""


def cmmd(samples: np.ndarray, reference: np.ndarray, context: Context) -> Score:
    """1000 times the biased MMD² of embeddings [N, D] and [M, D] under exp(−|x − y|² / (2 · 10²)), with its error."""
    for side, features in (("samples", samples), ("reference images", reference)):
        lengths = np.sqrt(np.einsum("nd,nd->n", features, features, dtype=np.float64))
        if np.abs(lengths - 1).max(initial=0) > UNIT_TOLERANCE:
            raise InputError(
                f"CMMD is of embeddings of length 1; those of the {side} have lengths from {lengths.min():.4g} to "
                f"{lengths.max():.4g}: use the encoder clip:cmmd."
            )
    totals, variance = mmd_of_all_pairs(Gaussian(SIGMA), samples, reference, context)
    return Score(SCALE * totals.biased, SCALE * math.sqrt(variance), details={"unbiased": SCALE * totals.unbiased})


CMMD = Metric(cmmd, CollectedFeatures, output="embedding-l2", settings={"kernel": "rbf10"})
