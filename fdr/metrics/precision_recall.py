"""Improved precision and recall (Kynkäänniemi et al. 2019): how much of one set lies in the manifold of the other.

The manifold of a set is the union of balls around its features, each reaching to the k-th nearest neighbour in the set.
Precision is the share of the samples in the manifold of the reference, recall the reverse. A point on the border is in.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from fdr.errors import InputError
from fdr.metrics.base import CollectedFeatures, Context, Metric, Score
from fdr.metrics.distances import Blocks, adm_blocks, exact_blocks, squared_radii
from fdr.runtime import resolve_device

K = 3


def precision_recall(
    samples: np.ndarray, reference: np.ndarray, context: Context, *, blocks: Blocks
) -> dict[str, Score]:
    """Precision and recall, or the one of them that is in `context.names`, between features [N, D] and [M, D].

    Both need the distances between the two sets, which are computed once.
    """
    import torch

    kinds = {name.partition(":")[0]: name for name in context.names}
    _check(context.names[0], samples, reference)
    device = resolve_device(context.device or "cpu")
    manifold = {"precision": reference, "recall": samples}
    points = {"precision": samples, "recall": reference}
    total = sum(len(manifold[kind]) ** 2 for kind in kinds) + len(samples) * len(reference)
    with context.progress.task(", ".join(context.names), total, "distances") as task:
        radii = {kind: squared_radii(manifold[kind], K, blocks, device, task.advance) for kind in kinds}
        inside = {kind: torch.zeros(len(points[kind]), dtype=torch.bool, device=device) for kind in kinds}
        for rows, columns, squared in blocks(reference, samples, device):  # in this order, as ADM rounds it
            if "precision" in kinds:
                inside["precision"][columns] |= (squared <= radii["precision"][rows, None]).any(0)
            if "recall" in kinds:
                inside["recall"][rows] |= (squared <= radii["recall"][columns]).any(1)
            task.advance(squared.numel())
    return {
        name: Score(
            float(inside[kind].double().mean()), details={"k": K}, notes=_notes(name, samples, reference, blocks)
        )
        for kind, name in kinds.items()
    }


PRECISION_RECALL = Metric(partial(precision_recall, blocks=exact_blocks), CollectedFeatures, settings={"k": str(K)})
PRECISION_RECALL_ADM = Metric(
    partial(precision_recall, blocks=adm_blocks), CollectedFeatures, settings={"k": str(K), "d": "f16"}
)
"""With the half-precision distances of ADM's evaluator."""


def _notes(name: str, samples: np.ndarray, reference: np.ndarray, blocks: Blocks) -> tuple[str, ...]:
    if blocks is not exact_blocks or len(samples) == len(reference):
        return ()
    return (
        f"{len(samples)} samples and {len(reference)} reference images: {name} moves with either number, compare it at "
        "equal ones only",
    )


def _check(name: str, samples: np.ndarray, reference: np.ndarray) -> None:
    for side, features in (("samples", samples), ("reference images", reference)):
        if features.ndim != 2:
            raise InputError(f"Features of the {side} have shape {list(features.shape)}; expected [N, D].")
        if len(features) <= K:
            raise InputError(
                f"{name} needs more than {K} {side}, for a {K}rd neighbour; got {len(features)}: give it more images."
            )
    if samples.shape[1] != reference.shape[1]:
        raise InputError(
            f"Samples have features of width {samples.shape[1]}, the reference of width {reference.shape[1]}; "
            "both sides need the same encoder and output."
        )
