"""Measure image generators: images -> encoder -> features -> moments -> distance -> report.

Everything is loaded on first use, so `import fdr` costs milliseconds and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from fdr._version import __version__

_EXPORTS = {
    "AbstractEncoder": "fdr.encoders.base",
    "AutoencoderSpec": "fdr.autoencoders.base",
    "EncoderOptions": "fdr.encoders.base",
    "EncoderSpec": "fdr.encoders.base",
    "BatchPopulation": "fdr.population",
    "EmaPopulation": "fdr.population",
    "ExactPopulation": "fdr.population",
    "FDLoss": "fdr.loss",
    "FdrError": "fdr.errors",
    "ImageOptions": "fdr.images",
    "InputError": "fdr.errors",
    "RunError": "fdr.errors",
    "WeightsError": "fdr.errors",
    "Moments": "fdr.moments",
    "QueuePopulation": "fdr.population",
    "Report": "fdr.report",
    "evaluate": "fdr.evaluation",
    "extract": "fdr.extraction",
    "fd_ratio": "fdr.ratio",
    "fdr_k": "fdr.ratio",
    "frechet_distance": "fdr.frechet",
    "interpolated_fid": "fdr.ifid.interpolated",
    "join_ranks": "fdr.distributed",
    "list_encoders": "fdr.encoders.registry",
    "load_autoencoder": "fdr.autoencoders.loading",
    "load_encoder": "fdr.encoders.registry",
    "load_generator": "fdr.generators.loading",
    "load_reference": "fdr.reference",
    "open_images": "fdr.images",
    "open_statistics": "fdr.statistics",
    "register_encoder": "fdr.encoders.registry",
}

__all__ = ["__version__", *sorted(_EXPORTS)]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'fdr' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
