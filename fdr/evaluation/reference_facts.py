"""What `fdr stats` stores of a reference beside its moments: leverage curve, density, noise floor, validation FDs."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from fdr.errors import FdrError, FdrWarning, InputError, warn
from fdr.frechet import DebiasedFD, Moments, debiased_frechet_distance, frechet_distance, leverage_curve
from fdr.neighbours import nearest_others
from fdr.references import NoiseFloor
from fdr.runtime import Progress

DENSITY_K = 5
"""The density is that of the distances to this neighbour."""
DENSITY_COUNT = 5000
"""Images that the density is computed of. Raising it takes quadratically longer and gives other values."""
SPLITS = 4
"""Random splits of a noise floor. Raising it makes its mean more exact and takes longer."""


def with_curve(moments: Moments, rows: np.ndarray) -> Moments:
    """`moments` with their leverage curve, from the features `rows` [M, D] of all or a random part of their images.

    Features that do not vary have none. If it cannot be computed, a warning says why, and nothing else is lost.
    """
    if not np.trace(moments.sigma) > 0:
        return moments
    try:
        return replace(moments, curve=leverage_curve(moments, rows))
    except FdrError as error:
        warn(f"The reference has no leverage curve, so the debiased FD treats it as Gaussian: {error}")
        return moments


def density(rows: np.ndarray) -> dict[str, float]:
    """The mean of -ln d over features [M, D], where d is the distance to the 5th nearest, as attributes of a file.

    It depends on M, so a random part of at most 5,000 is taken, and their number is in the attributes. There is none of
    fewer than 6 features, or if one of them is there more than 5 times.
    """
    import torch

    if len(rows) > DENSITY_COUNT:
        chosen = np.random.default_rng(0).choice(len(rows), DENSITY_COUNT, replace=False)
        rows = rows[np.sort(chosen)]
    if len(rows) <= DENSITY_K:
        return {}
    squared = nearest_others(rows, DENSITY_K, torch.device("cpu"))[:, -1].numpy()
    if not squared.min() > 0:
        return {}
    return {
        "density": -0.5 * float(np.log(squared).mean()),
        "density_k": DENSITY_K,
        "density_count": len(rows),
    }


def noise_floor(rows: np.ndarray, seed: int, progress: Progress, name: str) -> NoiseFloor:
    """FD between random halves of features [M, D], averaged over 4 splits; `name` is that of the encoder.

    Raises `InputError` below 4 features.
    """
    half = len(rows) // 2
    if half < 2:
        raise InputError(f"{len(rows)} images have no halves for --noise-floor; it needs at least 4.")
    draws, found = np.random.default_rng(seed), []
    with progress.task(f"{name}: noise floor", SPLITS, "splits") as task:
        for _ in range(SPLITS):
            order = draws.permutation(len(rows))
            first, second = rows[order[:half]], rows[order[half : 2 * half]]
            found.append(_quietly(first, second, stderr=False))
            task.advance()
    raw, debiased = [one.raw for one in found], [one.value for one in found]
    values = [value for value in debiased if value is not None]
    more = dict(zip(("debiased", "debiased_stderr"), _mean(values), strict=True)) if len(values) == SPLITS else {}
    return NoiseFloor(*_mean(raw), half, SPLITS, seed, **more)


def validation_fds(validation: Moments, moments: Moments) -> dict[str, float]:
    """The FD of validation images against the reference, raw and debiased, as attributes of a file.

    The debiased one is left out where the validation features are not at hand or too few for it.
    """
    found = {"val_fd": frechet_distance(validation, moments), "val_count": validation.count or 0}
    if validation.rows is None or moments.curve is None:
        return found
    try:
        debiased = _quietly(validation, moments)
    except FdrError as error:
        warn(f"The reference has no debiased validation FD: {error}")
        return found
    if debiased.value is not None and debiased.stderr is not None:
        found |= {"val_fd_debiased": debiased.value, "val_fd_debiased_stderr": debiased.stderr}
        for sentence in debiased.warnings:
            warn(f"In the debiased validation FD, where the samples are the validation images: {sentence}")
    return found


def _quietly(samples: Moments | np.ndarray, reference: Moments | np.ndarray, stderr: bool = True) -> DebiasedFD:
    """The debiased FD without its warnings, which it still holds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FdrWarning)
        return debiased_frechet_distance(samples, reference, stderr=stderr)


def _mean(values: list[float]) -> tuple[float, float]:
    """The mean of values and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5
