"""What all metrics of two sets of features refuse, in one sentence each."""

from __future__ import annotations

import numpy as np

from fdr.errors import InputError

_ORDINALS = {1: "1st", 2: "2nd", 3: "3rd"}


def check_features(name: str, samples: np.ndarray, reference: np.ndarray, k: int = 1) -> None:
    """Raise `InputError` unless features [N, D] and [M, D] have one width, differ, and are more than k on each side.

    `name` is the metric's, for the sentence.
    """
    check_one_set(name, "samples", samples, k)
    check_one_set(name, "reference images", reference, k)
    _check_widths(samples, reference, "reference")


def check_training_set(name: str, samples: np.ndarray, training: np.ndarray, k: int = 1) -> None:
    """The same for the training set [T, D]."""
    check_one_set(name, "training images", training, k)
    _check_widths(samples, training, "training set")


def _check_widths(samples: np.ndarray, others: np.ndarray, side: str) -> None:
    if samples.shape[1] != others.shape[1]:
        raise InputError(
            f"Samples have features of width {samples.shape[1]}, the {side} of width {others.shape[1]}; "
            "both sides need the same encoder and output."
        )


def check_one_set(name: str, side: str, features: np.ndarray, k: int) -> None:
    """Raise `InputError` unless `features` are [N, D] with N > k, and differ; `side` names the set."""
    if features.ndim != 2:
        raise InputError(f"Features of the {side} have shape {list(features.shape)}; expected [N, D].")
    if len(features) <= k:
        raise InputError(
            f"{name} needs more than {k} {side}, for a {_ORDINALS.get(k, f'{k}th')} neighbour; got {len(features)}: "
            "give it more images."
        )
    parts = (features[start : start + 256] for start in range(0, len(features), 256))
    if all((part == features[0]).all() for part in parts):
        raise InputError(
            f"All {len(features)} {side} have the same features, so {name} has no distances to work with; look at the "
            "images."
        )
