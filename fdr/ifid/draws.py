"""Which of its nearest neighbours an image is paired with: drawn by closeness, from (seed, row) alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fdr.generators import NEIGHBOUR, uniform_of
from fdr.ifid.neighbours import Neighbours


@dataclass(frozen=True)
class Draws:
    """One neighbour for every query."""

    rows: np.ndarray
    """int64 [Q]: rows of the neighbours' set."""
    entropy: float
    """Mean entropy of the distributions drawn from, in nats; log K where all K candidates are alike."""


def draw(found: Neighbours, dim: int, seed: int) -> Draws:
    """Draw from softmax(-|z - z_k|^2 / D) over the K neighbours of each query, D the width of the latents.

    The distance is the mean squared one whatever the neighbours were found by, as in the paper's code.
    """
    logits = -found.squared / dim
    logits -= logits.max(1, keepdims=True)
    weights = np.exp(logits)
    weights /= weights.sum(1, keepdims=True)
    logs = np.log(weights, out=np.zeros_like(weights), where=weights > 0)
    entropy = -(weights * logs).sum(1)
    picks = uniform_of(seed, NEIGHBOUR, found.query_rows.tolist())
    places = (np.cumsum(weights, 1) <= picks[:, None]).sum(1).clip(max=weights.shape[1] - 1)
    return Draws(found.rows[np.arange(len(places)), places], float(entropy.mean()))
