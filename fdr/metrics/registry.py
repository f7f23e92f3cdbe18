"""Metrics by name. Adding one: a file beside this, a line in `METRICS`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fdr.errors import InputError, unknown
from fdr.metrics.names import peer_name

if TYPE_CHECKING:
    from fdr.metrics.base import AbstractMetric

METRICS = {
    "fd": "fdr.metrics.fd:FrechetDistance",
    "sfid": "fdr.metrics.fd:spatial_frechet_distance",
    "precision": "fdr.metrics.precision_recall:precision",
    "recall": "fdr.metrics.precision_recall:recall",
    "precision:adm": "fdr.metrics.precision_recall:precision_adm",
    "recall:adm": "fdr.metrics.precision_recall:recall_adm",
    "is": "fdr.metrics.inception_score:InceptionScore",
    "is:adm": "fdr.metrics.inception_score:InceptionScoreADM",
}
DERIVED = {"fdr", "fdr_k"}
"""Given beside every FD whose reference has validation FDs; never asked for by themselves."""


def load_metrics(names: str | Sequence[str]) -> list[AbstractMetric]:
    """Metric objects for "fd,is" or a list of names, in any case. Raises `InputError` with near matches."""
    split = names.split(",") if isinstance(names, str) else list(names)
    asked = [name.strip() for name in split if name.strip()]
    lowered = [name.lower() if name.lower() in METRICS.keys() | DERIVED else name for name in asked]
    wanted = list(dict.fromkeys("fd" if name in DERIVED else name for name in lowered))
    if not wanted:
        raise InputError(f"No metric was named; known: {', '.join(METRICS)}.")
    metrics = []
    for name in wanted:
        if name not in METRICS:
            raise unknown("metric", name, METRICS, peers=peer_name)
        module, _, attribute = METRICS[name].partition(":")
        metrics.append(getattr(importlib.import_module(module), attribute)())
    return metrics
