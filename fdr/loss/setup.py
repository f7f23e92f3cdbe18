"""Set-up of an `FDLoss`: its encoders by name, their weights and references, all checked before the first image."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fdr.encoders import AbstractEncoder, EncoderOptions, encoder_called, load_encoders
from fdr.errors import FdrWarning, InputError, unknown
from fdr.frechet import Moments
from fdr.images import Preprocessing, other_preprocessing
from fdr.loss.encoders import modes_kept
from fdr.references import Reference, check_one_encoder_each, find_reference, reference_for


def load_named(
    encoders: Any, options: EncoderOptions, weight_files: Mapping[str, Path] | None
) -> dict[str, AbstractEncoder]:
    """Load the encoders and name them: those of a dict by its keys, others by their own names.

    A user's module stays in training or eval mode as it was. Raises `InputError` as `load_encoders` does.
    """
    given = list(encoders.values()) if isinstance(encoders, Mapping) else encoders
    modules = [item for item in (given if isinstance(given, list | tuple) else [given]) if isinstance(item, nn.Module)]
    with modes_kept(modules):
        if not isinstance(encoders, Mapping):
            return {encoder.spec.name: encoder for encoder in load_encoders(encoders, options, weight_files)}
        if not encoders:
            raise InputError("No encoder was given; name at least one, for example inception.")
        files = dict(weight_files or {})
        loaded = {
            name: encoder_called(name, item, replace(options, weights=files.pop(name, None)))
            for name, item in encoders.items()
        }
        if files:
            raise unknown("encoder with explicit weights", next(iter(files)), loaded)
        return loaded


def checked_weights(weights: Mapping[str, float] | None, names: list[str]) -> dict[str, float]:
    """The weight of every encoder; 1 where none is given."""
    given = dict(weights or {})
    for name, weight in given.items():
        if name not in names:
            raise unknown("encoder with a weight", name, names)
        if not (math.isfinite(weight) and weight >= 0):
            raise InputError(f"The weight of {name!r} is {weight}; expected 0 (watched only) or more.")
    found = {name: float(given.get(name, 1.0)) for name in names}
    if not any(found.values()):
        raise InputError("All weights are 0, so there is nothing to train on; give one encoder a weight above 0.")
    return found


def references_of(
    reference: Any, encoders: Mapping[str, AbstractEncoder], options: EncoderOptions
) -> dict[str, Reference]:
    """The reference of each encoder by its name, with its validation FD where one is known."""
    found = {name: _reference_of(reference, name, encoder, options) for name, encoder in encoders.items()}
    if not isinstance(reference, Mapping):
        check_one_encoder_each({(name, encoders[name].spec.output): one for name, one in found.items()})
    return found


def warn_of_other_size(images: Tensor, references: Mapping[str, Reference]) -> None:
    """Warn when images [B, 3, H, W] have another size than those of the first reference, where that is known."""
    first = next(iter(references.values()))
    height, width = images.shape[-2:]
    theirs = Preprocessing.of_attributes(first.moments.attributes)
    sentence = other_preprocessing(Preprocessing(width, height, 1.0, "none"), theirs, first.name)
    if sentence is not None:
        warnings.warn(sentence, FdrWarning, stacklevel=2)


def _reference_of(reference: Any, name: str, encoder: AbstractEncoder, options: EncoderOptions) -> Reference:
    reference = reference_for(reference, name)
    if not isinstance(reference, str | os.PathLike | Moments):
        raise InputError(
            f"The reference of {name!r} is {type(reference).__name__}; expected a registry name, a statistics file or "
            "Moments, or a dict of those by encoder name."
        )
    return find_reference(
        reference, encoder, weights_dir=options.weights_dir, offline=options.offline, progress=options.progress
    )
