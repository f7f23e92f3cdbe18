"""Measure image generators: images -> encoder -> features -> moments -> distance -> report.

Everything is loaded on first use, so `import fdr` costs milliseconds and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from fdr._version import __version__

_EXPORTS = {
    "AbstractEncoder": "fdr.encoders",
    "AutoencoderSpec": "fdr.ifid",
    "EncoderOptions": "fdr.encoders",
    "EncoderSpec": "fdr.encoders",
    "BatchPopulation": "fdr.loss",
    "EmaPopulation": "fdr.loss",
    "FDLoss": "fdr.loss",
    "LossOptions": "fdr.loss",
    "FdrError": "fdr.errors",
    "IfidOptions": "fdr.ifid",
    "ImageOptions": "fdr.images",
    "InputError": "fdr.errors",
    "RunError": "fdr.errors",
    "WeightsError": "fdr.errors",
    "Moments": "fdr.frechet",
    "QueuePopulation": "fdr.loss",
    "Report": "fdr.reports",
    "debiased_frechet_distance": "fdr.frechet",
    "evaluate": "fdr.evaluation",
    "explain": "fdr.explanation",
    "extract": "fdr.features",
    "fd_ratio": "fdr.frechet",
    "fdr_k": "fdr.frechet",
    "frechet_distance": "fdr.frechet",
    "interpolated_fid": "fdr.ifid",
    "join_ranks": "fdr.runtime",
    "list_encoders": "fdr.encoders",
    "load_autoencoder": "fdr.ifid",
    "measure_reconstructions": "fdr.ifid",
    "load_encoder": "fdr.encoders",
    "load_generator": "fdr.generators",
    "load_pipeline": "fdr.generators",
    "load_reference": "fdr.references",
    "open_images": "fdr.images",
    "open_statistics": "fdr.references",
    "register_encoder": "fdr.encoders",
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
