"""`FrechetDistance`: FD of the images of a training or validation loop, as a `torchmetrics.Metric`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fdr.encoders import EncoderOptions
from fdr.torchmetrics.loop_encoders import check_one
from fdr.torchmetrics.loop_evaluation import LoopSetup
from fdr.torchmetrics.loop_metric import FEATURE_MEMORY, LoopMetric


class FrechetDistance(LoopMetric):
    """Fréchet distance between the images of a loop and a reference; with Inception it is FID. Lower is better.

    `encoder` is a name, an `AbstractEncoder`, or a callable from images [B, 3, H, W] in [0, 1] to [B, D].
    `reference` is a registry name, a statistics file, a folder of `fdr stats`, `Moments`, a dict of those by encoder
    name, or images as `fdr.open_images` takes them; None takes the images of `update(..., real=True)`. The number is
    that of `fdr.evaluate` on the same images.

    Floats are rounded to 8 bits, as a file does, unless `quantize="none"`. `encoder_options` say how a named encoder
    is loaded, and where it runs: by default on CUDA if there is one; `.to(device)` moves the metric with its encoder.
    `weights` gives weight files by encoder. `batch_size` images pass the encoder at a time (None: the batch as it
    comes). `num_features` is the width D of a callable that has no attribute of this name, where no reference tells.
    `reset_real_features=False` keeps the real images on `reset`. `metric_options` are those of every
    `torchmetrics.Metric`.

    Sums are float64, whatever dtype the model is moved to, and ranks are merged exactly, with batches of any sizes.

    Raises `InputError` for anything unusable, and `WeightsError` for weights that are missing.
    """

    higher_is_better = False
    plot_lower_bound = 0.0

    def __init__(
        self,
        encoder: Any = "inception",
        reference: Any = None,
        *,
        encoder_options: EncoderOptions | None = None,
        weights: Mapping[str, Path] | None = None,
        quantize: str = "uint8",
        batch_size: int | None = None,
        num_features: int | None = None,
        reset_real_features: bool = True,
        **metric_options: Any,
    ) -> None:
        setup = LoopSetup(
            encoder,
            "fd",
            reference,
            weights=weights,
            encoder_options=encoder_options or EncoderOptions(),
            quantize=quantize,
            batch_size=batch_size,
            num_features=num_features,
        )
        super().__init__(setup, reset_real_features, FEATURE_MEMORY, metric_options)
        check_one(self._evaluation.encoders.specs)

    def update(self, images: Tensor, real: bool = False) -> None:
        """Add generated images [B, 3, H, W] or [B, 1, H, W], uint8 or floats in [0, 1]; `real=True` adds real ones.

        Raises `InputError` for other images, and for real ones beside a reference; the sums are then as before.
        """
        self._add(images, real, None)

    def compute(self) -> Tensor:
        """FD of all images since the last reset, over all ranks: a float64 scalar.

        Raises `InputError` below 2 images of either side, and for loaded sums of another encoder.
        """
        return self._scalar(self._measured()["fd"].value)

    def forward(self, images: Tensor, real: bool = False) -> None:
        """As `update`, without a value: FD of one batch is mostly bias, and a decomposition at every step is slow."""
        self._add_without_value(images, real)
