"""`Evaluation`: all encoders and metrics of `fdr.evaluate` on the images of a loop, as a `torchmetrics.Metric`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fdr.encoders import EncoderOptions
from fdr.errors import warn
from fdr.neighbours import DEFAULT_MEMORY
from fdr.torchmetrics.loop_evaluation import LoopSetup
from fdr.torchmetrics.loop_metric import FEATURE_MEMORY, LoopMetric


class Evaluation(LoopMetric):
    """The numbers of `fdr.evaluate` for the images of a loop: several encoders and metrics, each image encoded once.

    `encoders`, `metrics`, `reference`, `training_set`, `prompts`, `weights` and `memory` are those of `fdr.evaluate`;
    without a reference, the real images come through `update(..., real=True)`. The other options are those of
    `FrechetDistance`.

    Metrics that need moments only (fd, sfid) keep float64 sums. Others (kid, precision, fd_debiased, is, ...) keep the
    features of all images, float32 [N, D] for each encoder, up to `feature_memory` bytes over all ranks. Ranks are
    merged in their order: the numbers are those of the images of rank 0, then rank 1, and so on. Standard errors that
    cost time are left out of the report.

    Raises `InputError` for anything unusable, and `WeightsError` for weights that are missing.
    """

    def __init__(
        self,
        encoders: Any = "inception",
        metrics: str | Sequence[str] = "fd",
        reference: Any = None,
        *,
        training_set: Any = None,
        prompts: Any = None,
        encoder_options: EncoderOptions | None = None,
        weights: Mapping[str, Path] | None = None,
        quantize: str = "uint8",
        batch_size: int | None = None,
        num_features: int | None = None,
        memory: int = DEFAULT_MEMORY,
        feature_memory: int = FEATURE_MEMORY,
        reset_real_features: bool = True,
        **metric_options: Any,
    ) -> None:
        setup = LoopSetup(
            encoders,
            metrics,
            reference,
            training_set=training_set,
            prompts=prompts,
            weights=weights,
            encoder_options=encoder_options or EncoderOptions(),
            quantize=quantize,
            batch_size=batch_size,
            num_features=num_features,
            memory=memory,
        )
        super().__init__(setup, reset_real_features, feature_memory, metric_options)

    def update(self, images: Tensor, real: bool = False, labels: Any = None) -> None:
        """Add generated images [B, 3, H, W] or [B, 1, H, W], uint8 or floats in [0, 1]; `real=True` adds real ones.

        `labels` [B] are the classes of the images, for metrics that need them. Raises `InputError` for other images,
        and where the features of all images become too large; what was collected is then as before.
        """
        self._add(images, real, labels)

    def compute(self) -> dict[str, Tensor]:
        """The numbers of all images since the last reset, over all ranks, as float64 scalars, by the keys of reports:
        "fd:dinov2", "kid:inception", "fdr_k".

        A number that cannot be computed is left out with a warning. Raises `InputError` if that is true of all.
        """
        report = self._measured()
        for failure in report.failed:
            warn(f"{failure.key} could not be computed: {failure.sentence}")
        return {result.key: self._scalar(result.value) for result in report.results}

    def forward(self, images: Tensor, real: bool = False, labels: Any = None) -> None:
        """As `update`, without a value: numbers of one batch are mostly bias."""
        self._add_without_value(images, real, labels)
