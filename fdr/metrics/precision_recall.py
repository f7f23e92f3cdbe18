"""Precision and recall with the half-precision distances of ADM's evaluator; prdc.py has the exact ones.

Precision is the share of the samples in the balls of the reference, recall the reverse. A ball reaches to the k-th
nearest other feature of its set, and a point on the border is inside.
"""

from __future__ import annotations

import numpy as np

from fdr.metrics.base import CollectedFeatures, Context, Metric, Score
from fdr.metrics.distances import adm_blocks, squared_radii
from fdr.metrics.feature_checks import check_features
from fdr.metrics.resampling import share_stderr
from fdr.runtime import resolve_device

K = 3


def precision_recall(samples: np.ndarray, reference: np.ndarray, context: Context) -> dict[str, Score]:
    """Precision and recall, or the one of them that is in `context.names`, between features [N, D] and [M, D].

    Both need the distances between the two sets, which are computed once. The standard errors are binomial, with the
    balls as they are.
    """
    import torch

    kinds = {name.partition(":")[0]: name for name in context.names}
    check_features(context.names[0], samples, reference, K)
    device = resolve_device(context.device or "cpu")
    manifold = {"precision": reference, "recall": samples}
    points = {"precision": samples, "recall": reference}
    total = sum(len(manifold[kind]) ** 2 for kind in kinds) + len(samples) * len(reference)
    with context.progress.task(", ".join(context.names), total, "distances") as task:
        radii = {kind: squared_radii(manifold[kind], K, device, task.advance) for kind in kinds}
        inside = {kind: torch.zeros(len(points[kind]), dtype=torch.bool, device=device) for kind in kinds}
        for rows, columns, squared in adm_blocks(reference, samples, device):  # in this order, as ADM rounds it
            if "precision" in kinds:
                inside["precision"][columns] |= (squared <= radii["precision"][rows, None]).any(0)
            if "recall" in kinds:
                inside["recall"][rows] |= (squared <= radii["recall"][columns]).any(1)
            task.advance(squared.numel())
    shares = {kind: float(found.double().mean()) for kind, found in inside.items()}
    return {
        name: Score(shares[kind], share_stderr(shares[kind], len(points[kind])), details={"k": K})
        for kind, name in kinds.items()
    }


PRECISION_RECALL_ADM = Metric(precision_recall, CollectedFeatures, settings={"k": str(K), "d": "f16"})
