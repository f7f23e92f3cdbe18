"""Whether samples are copies of training images: AuthPct and C_T. Both need the training set.

- AuthPct (Alaa et al. 2022): the percentage of authentic samples. A sample is authentic if another training image is
  nearer to its nearest training image than the sample is.
- C_T (Meehan et al. 2020): a Mann-Whitney test, in cells of the training set, of whether samples lie nearer to the
  training set than held-out real images do, which are the reference. It is far below 0 if the model copies, about 0 if
  samples are as far away as real images, and above 0 if they are farther away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdr.errors import InputError
from fdr.metrics.base import CollectedFeatures, Context, Metric, Score
from fdr.metrics.feature_checks import check_features, check_training_set
from fdr.metrics.kmeans import cells_of, fit_centres
from fdr.metrics.resampling import jackknife_groups, jackknife_stderr, share_stderr
from fdr.neighbours import nearest_centre, nearest_others
from fdr.runtime import resolve_device

if TYPE_CHECKING:
    import torch

NUM_CELLS, WIDTH, LEAST_SAMPLES, SEED = 3, 64, 20, 2020
"""Cells of C_T, dimensions that remain after PCA, samples below which a cell is left out, and the seed of k-means."""


def authpct(samples: np.ndarray, reference: None, context: Context) -> Score:
    """The percentage of the features [N, D] that are authentic, with the training set in `context.training` [T, D].

    The standard error is binomial, over the samples with the training set as it is.
    """
    training = context.training
    check_training_set("authpct", samples, training)
    device = resolve_device(context.device or "cpu")
    total = len(training) ** 2 + len(samples) * len(training)
    with context.progress.task("authpct", total, "distances") as task:
        radii = nearest_others(training, 1, device, context.memory, task.advance)[:, 0]
        squared, nearest = nearest_centre(samples, training, device, None, context.memory, task.advance)
    share = float((radii[nearest] < squared).double().mean())
    copies = int((squared == 0).count_nonzero())
    return Score(100 * share, 100 * share_stderr(share, len(samples)), details={"copies": copies})


class Cell(NamedTuple):
    """Squared distances of samples and of test images to the nearest training image of one cell."""

    samples: np.ndarray
    test: np.ndarray


def ct(samples: np.ndarray, reference: np.ndarray, context: Context) -> Score:
    """C_T of features [N, D], with the reference [M, D] as held-out images and the training set in `context.training`.

    All sets are projected on the 64 first principal components of the training set, and divided into 3 cells by k-means
    of the training set. The standard error is the jackknife's over samples and held-out images, with the training set
    and its cells as they are. Raises `InputError` if the reference is the training set, or no cell has 20 samples.
    """
    training = context.training
    check_features("ct", samples, reference, 1)
    check_training_set("ct", samples, training, NUM_CELLS)
    device = resolve_device(context.device or "cpu")
    sets = _projected(training, samples, reference)
    centres = fit_centres(sets[0], NUM_CELLS, SEED, device)
    labels = [cells_of(each, centres) for each in sets]
    with context.progress.task("ct", NUM_CELLS, "cells") as task:
        cells = []
        for number in range(NUM_CELLS):
            inside = [each[own == number] for each, own in zip(sets, labels, strict=True)]
            cells.append(_cell(inside, device, context))
            task.advance()
    same = sum(int((cell.test == 0).sum()) for cell in cells)
    if 2 * same > len(reference):
        raise InputError(
            f"{same} of {len(reference)} reference images are training images, so ct cannot tell how far real images "
            "lie from the training set; give held-out images as the reference."
        )
    used = [cell for cell in cells if len(cell.samples) >= LEAST_SAMPLES and len(cell.test)]
    if not used:
        raise InputError(
            f"No cell has {LEAST_SAMPLES} samples and a reference image (samples in the cells: "
            f"{', '.join(str(len(cell.samples)) for cell in cells)}); ct needs more samples."
        )
    details = {"cells": [round(mann_whitney_z(*cell), 4) for cell in used], "skipped_cells": NUM_CELLS - len(used)}
    stderr = _stderr(used) if context.stderr else None
    return Score(weighted_z(used), stderr, details=details)


def mann_whitney_z(samples: np.ndarray, test: np.ndarray) -> float:
    """(U − n m / 2) / √(n m (n + m + 1) / 12), where U counts the pairs in which the sample is larger, ties half."""
    ordered = np.sort(test)
    larger = np.searchsorted(ordered, samples, "left") + np.searchsorted(ordered, samples, "right")
    n, m = len(samples), len(test)
    return float((larger.sum() / 2 - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12))


def weighted_z(cells: list[Cell]) -> float:
    """The mean Z of the cells, weighted by their share of the test images."""
    return float(np.average([mann_whitney_z(*cell) for cell in cells], weights=[len(cell.test) for cell in cells]))


def _cell(inside: list[np.ndarray], device: torch.device, context: Context) -> Cell:
    """From the features of training images, samples and test images in one cell."""
    training, samples, test = inside
    if not len(training):
        return Cell(np.empty(0), np.empty(0))
    near = [
        nearest_centre(each, training, device, None, context.memory)[0].cpu().numpy() if len(each) else np.empty(0)
        for each in (samples, test)
    ]
    return Cell(*near)


def _projected(training: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """All sets on the first principal components of the training set, float32 [n, 64], or [n, D] if D is not more."""
    from scipy.linalg import eigh

    mean, dim = training.mean(0, dtype=np.float64), training.shape[1]
    if dim <= WIDTH:
        return [(each - mean).astype(np.float32) for each in (training, *others)]
    centred = training - mean
    covariance = centred.T @ centred / len(training)
    axes = eigh(covariance, subset_by_index=[dim - WIDTH, dim - 1])[1]
    return [((each - mean) @ axes).astype(np.float32) for each in (training, *others)]


def _stderr(cells: list[Cell]) -> float:
    """The jackknife's: groups of samples, and groups of test images, are left out of all cells."""
    variance = 0.0
    for side in (0, 1):
        owners = np.repeat(np.arange(len(cells)), [len(cell[side]) for cell in cells])
        values = np.concatenate([cell[side] for cell in cells])
        found = []
        for group in jackknife_groups(len(values)):
            is_kept = np.ones(len(values), dtype=bool)
            is_kept[group] = False
            kept = [values[is_kept & (owners == number)] for number in range(len(cells))]
            parts = zip(kept, cells, strict=True)
            rest = [Cell(own, cell.test) if side == 0 else Cell(cell.samples, own) for own, cell in parts]
            found.append(weighted_z([cell for cell in rest if len(cell.samples) and len(cell.test)]))
        variance += jackknife_stderr(np.array(found)) ** 2
    return float(variance**0.5)


AUTHPCT = Metric(authpct, CollectedFeatures, needs_reference=False, needs_training_set=True)
CT = Metric(
    ct,
    CollectedFeatures,
    needs_training_set=True,
    settings={"cells": str(NUM_CELLS), "pca": str(WIDTH), "seed": str(SEED)},
)
