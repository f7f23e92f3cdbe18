"""An encoder that follows a metric from device to device, and that a pickled metric loads again by its name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fdr.encoders import AbstractEncoder, EncoderOptions, EncoderSpec
from fdr.errors import InputError
from fdr.loss import LossEncoder, LossOptions, load_named


class LoopEncoder:
    """One encoder as a function from images [B, 3, H, W] in [0, 1] to its main output [B, D], without gradient.

    `encoder` is a name, an `AbstractEncoder`, or a callable from such images to [B, D]. `batch_size` is the number of
    images that pass the encoder at a time; None is all of them. Raises `InputError` as `fdr.load_encoder` does, and for
    several encoders.
    """

    def __init__(self, encoder: Any, options: EncoderOptions, batch_size: int | None) -> None:
        self._given, self._options = encoder, options
        self._loss_options = LossOptions(encoder_batch_size=batch_size)
        self._loaded: LossEncoder | None = None
        self.encoder = self._load()
        self.spec: EncoderSpec = self.encoder.spec

    def _load(self) -> AbstractEncoder:
        loaded = load_named(self._given, self._options, None)
        if len(loaded) != 1:
            raise InputError(
                f"FrechetDistance takes one encoder; got {', '.join(loaded)}: make one metric each, for example in a "
                "torchmetrics.MetricCollection."
            )
        (name, encoder), *_ = loaded.items()
        self._loaded = LossEncoder(name, encoder, self._loss_options)
        return encoder

    @property
    def _ready(self) -> LossEncoder:
        if self._loaded is None:
            self.encoder = self._load()
        assert self._loaded is not None
        return self._loaded

    @property
    def sums_device(self) -> torch.device:
        """Where sums in float64 of the features belong: the encoder's device, or the CPU beside a Mac's GPU."""
        return self._ready.term_device

    @property
    def width(self) -> int | None:
        """Width D of the features; None if the encoder does not say."""
        stated = self.spec.dim or getattr(getattr(self.encoder, "function", None), "num_features", None)
        return int(stated) if stated else None

    def move(self, device: torch.device) -> None:
        """Run on `device` from now on: a named encoder is loaded there when it is next used, a module is moved there.

        An `AbstractEncoder` object stays where its owner has put it.
        """
        is_there = self._loaded is not None and _is_same(self._loaded.device, device)
        if isinstance(self._given, AbstractEncoder) or is_there:
            return
        self._options = replace(self._options, device=str(device))
        self._loaded = None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        return self._ready(images)

    def __getstate__(self) -> dict[str, Any]:
        """The state without the network of a named encoder, which is loaded again by name."""
        is_named = isinstance(self._given, str)
        return {**self.__dict__, **({"_loaded": None, "encoder": None} if is_named else {})}

    def __deepcopy__(self, memo: dict[int, Any]) -> LoopEncoder:
        """A copy that shares the network, which nothing here changes."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin


def _is_same(a: torch.device, b: torch.device) -> bool:
    """True for one device, whether or not its index is given."""
    return torch.empty(0, device=a).device == torch.empty(0, device=b).device
