"""`FrechetDistance`: FD of the images of a training or validation loop, as a `torchmetrics.Metric`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fdr.encoders import EncoderOptions
from fdr.errors import InputError
from fdr.frechet import frechet_distance
from fdr.images import ImageOptions
from fdr.loss import references_of, warn_of_other_size
from fdr.torchmetrics.batch_images import unit_images
from fdr.torchmetrics.loop_encoder import LoopEncoder
from fdr.torchmetrics.packed_sums import add_features, merged, moments_of, no_sums

try:
    from torchmetrics import Metric
except ModuleNotFoundError as error:
    if error.name != "torchmetrics":
        raise
    raise InputError(
        "fdr.torchmetrics needs the package torchmetrics, which is not installed: pip install 'fdr-eval[torchmetrics]'."
    ) from None


class FrechetDistance(Metric):
    """Fréchet distance between the images of a loop and a reference; with Inception it is FID. Lower is better.

    `encoder` is a name, an `AbstractEncoder`, or a callable from images [B, 3, H, W] in [0, 1] to [B, D].
    `reference` is a registry name, a statistics file, a folder of `fdr stats`, `Moments`, or a dict of those by encoder
    name; None takes the images of `update(..., real=True)`. The number is that of `fdr.evaluate` on the same images.

    Floats are rounded to 8 bits, as a file does, unless `quantize="none"`. `encoder_options` say how a named encoder
    is loaded, and where it runs: by default on CUDA if there is one; `.to(device)` moves the metric with its encoder.
    `batch_size` images pass the encoder at a time (None: the batch as it comes). `num_features` is the width D of a
    callable that has no attribute of this name, where no reference tells. `reset_real_features=False` keeps the real
    images on `reset`. `metric_options` are those of every `torchmetrics.Metric`.

    Sums are float64, whatever dtype the model is moved to, and ranks are merged exactly, with batches of any sizes.

    Raises `InputError` for anything unusable, and `WeightsError` for weights that are missing.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    plot_lower_bound = 0.0

    real_sums: Tensor
    generated_sums: Tensor
    source: Tensor

    def __init__(
        self,
        encoder: Any = "inception",
        reference: Any = None,
        *,
        encoder_options: EncoderOptions | None = None,
        quantize: str = "uint8",
        batch_size: int | None = None,
        num_features: int | None = None,
        reset_real_features: bool = True,
        **metric_options: Any,
    ) -> None:
        super().__init__(**metric_options)
        self.quantize = ImageOptions(quantize=quantize).quantize
        self.reset_real_features = reset_real_features
        options = encoder_options or EncoderOptions()
        self._encoder = LoopEncoder(encoder, options, batch_size)
        name = self._encoder.spec.name
        self._references = {} if reference is None else references_of(reference, {name: self._encoder.encoder}, options)
        self._moments = self._references[name].moments if self._references else None
        width = self._encoder.width or num_features if self._moments is None else self._moments.dim
        if not width:
            raise InputError(f"The encoder {name!r} does not say how wide its features are; give num_features=D.")
        self.add_state("real_sums", no_sums(width), dist_reduce_fx=merged)
        self.add_state("generated_sums", no_sums(width), dist_reduce_fx=merged)
        self.add_state("source", _identity(self._encoder.spec.hash, self.quantize), dist_reduce_fx="max")
        self.to(self._encoder.sums_device)

    def update(self, images: Tensor, real: bool = False) -> None:
        """Add generated images [B, 3, H, W] or [B, 1, H, W], uint8 or floats in [0, 1]; `real=True` adds real ones.

        Raises `InputError` for other images, and for real ones beside a reference; the sums are then as before.
        """
        if real and self._moments is not None:
            raise InputError("This metric has a reference; real images are for FrechetDistance(reference=None).")
        unit = unit_images(images, self.quantize)
        self._check_source()
        if not len(unit):
            return
        if self._references:
            warn_of_other_size(unit, self._references)
        name = "real_sums" if real else "generated_sums"
        sums = getattr(self, name)
        if sums.is_inference() and not torch.is_inference_mode_enabled():
            sums = sums.clone()  # a reset within inference mode left what cannot be changed outside of it
        add_features(sums, self._encoder(unit))
        setattr(self, name, sums)

    def compute(self) -> Tensor:
        """FD of all images since the last reset, over all ranks: a float64 scalar.

        Raises `InputError` below 2 images of either side, and for loaded sums of another encoder.
        """
        self._check_source()
        _check_count(self.generated_sums, "generated", "update(images)")
        if self._moments is None:
            _check_count(self.real_sums, "real", "update(images, real=True), or give the metric a reference")
        reference = moments_of(self.real_sums) if self._moments is None else self._moments
        value = frechet_distance(moments_of(self.generated_sums), reference, device=self.generated_sums.device)
        return torch.tensor(value, dtype=torch.float64, device=self.generated_sums.device)

    def forward(self, images: Tensor, real: bool = False) -> None:
        """As `update`, without a value: FD of one batch is mostly bias, and a decomposition at every step is slow."""
        self.real_sums, self.generated_sums = self.real_sums.clone(), self.generated_sums.clone()
        self.update(images, real)  # a collection may share the sums of metrics, but calls `forward` of each

    def reset(self) -> None:
        """Forget all images, except real ones where `reset_real_features` is False."""
        kept = self.real_sums
        super().reset()
        if not self.reset_real_features:
            self.real_sums = kept

    def _apply(self, fn: Callable, exclude_state: Sequence[str] = "") -> Any:
        """Move the sums and the encoder to the device that `fn` moves to; the sums stay float64."""
        device = fn(torch.zeros(1, device=self.device)).device
        self._encoder.move(device)
        sums_device = torch.device("cpu") if device.type == "mps" else device  # a Mac's GPU has no float64
        return super()._apply(lambda tensor: tensor.to(sums_device), exclude_state)

    def _check_source(self) -> None:
        expected = _identity(self._encoder.spec.hash, self.quantize)
        if not torch.equal(self.source.cpu(), expected):
            raise InputError(
                "The sums of this metric come from another encoder or quantisation than its own, from a checkpoint or "
                "another rank; make the metric as it was made there, or reset it."
            )


def _identity(spec_hash: str, quantize: str) -> Tensor:
    """Eight bytes that tell sums of two encoders apart, so that no collection shares them; int64 [8]."""
    return torch.tensor(list(hashlib.sha256(f"{spec_hash} {quantize}".encode()).digest()[:8]))


def _check_count(sums: Tensor, side: str, call: str) -> None:
    count = int(sums[0, 0])
    if count < 2:
        raise InputError(f"{count} {side} image{'' if count == 1 else 's'} given; FD needs 2 or more: call {call}.")
