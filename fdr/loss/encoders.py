"""Encoders inside a loss: frozen, in their own precision, in chunks where asked, with a gradient in the images."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fdr.encoders import AbstractEncoder, CallableEncoder, checked_features
from fdr.errors import FdrError, FdrWarning, InputError, RunError
from fdr.loss.options import LossOptions
from fdr.runtime import described, is_out_of_memory

LOW, HIGH = -0.5, 1.5
"""Values outside this interval suggest another range than [0, 1]. Widening it accepts more of a wrong range."""
OUTSIDE_SHARE = 0.05
"""Largest share of values outside [LOW, HIGH] that is a warning and no error.

A generator without a last tanh overshoots in a few places; images in [-1, 1] do in many. Raising it accepts more of a
wrong range.
"""


def checked_images(images: Any, has_range_check: bool) -> Tensor:
    """The images as [B, 3, H, W]; one channel is repeated to three.

    Raises `InputError` for another shape or dtype and for an empty batch. With `has_range_check`, which reads all
    values, it also raises for another range than [0, 1], and warns (`FdrWarning`) of a few values outside.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        got = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"FDLoss takes images [B, 3, H, W] in [0, 1], with one channel or three; got {got}.")
    if not images.is_floating_point():
        raise InputError(
            f"FDLoss takes floating-point images in [0, 1]; got {str(images.dtype).removeprefix('torch.')}: divide "
            "uint8 images by 255."
        )
    if has_range_check:
        _check_range(images.detach())
    return images.expand(-1, 3, -1, -1)


def _check_range(images: Tensor) -> None:
    outside = int(((images < LOW) | (images > HIGH)).sum())
    if not outside:
        return
    low, high = (float(value) for value in images.aminmax())
    if outside > OUTSIDE_SHARE * images.numel():
        raise InputError(
            f"FDLoss takes images in [0, 1]; these reach from {low:.3g} to {high:.3g}: map [-1, 1] by (x + 1) / 2, "
            "and divide 0..255 by 255."
        )
    warnings.warn(
        f"{outside:,} of {images.numel():,} values of the first images lie outside of [{LOW:g}, {HIGH:g}], from "
        f"{low:.3g} to {high:.3g}; they are used as they are. If [-1, 1] is their range, give (x + 1) / 2.",
        FdrWarning,
        stacklevel=4,
    )


class LossEncoder:
    """An encoder as a function from images [B, 3, H, W] to its main output [B, D].

    The output is float32, or float64 where the images are float64 and the encoder is a callable. The encoder is neither
    trained nor altered: during a pass its modules are in eval mode and its parameters need no gradient.
    """

    def __init__(self, name: str, encoder: AbstractEncoder, options: LossOptions) -> None:
        self.name = name
        self.batch_size = options.encoder_batch_size
        self._encoder = encoder if options.autocast is None else _with_dtype(encoder, options.autocast)
        self._autocast = torch.bfloat16 if options.autocast == "bf16" else None
        self._forward = torch.compile(self._encoder.forward) if options.compile_encoders else self._encoder.forward
        self._modules = [part for part in vars(self._encoder).values() if isinstance(part, nn.Module)]

    @property
    def spec_hash(self) -> str:
        """Hash of the encoder's spec, in the precision in which the encoder runs."""
        return self._encoder.spec.hash

    @property
    def device(self) -> torch.device:
        return self._encoder.device

    @property
    def term_device(self) -> torch.device:
        """The device of the population: that of the encoder, or the CPU beside a Mac's GPU, which has no float64."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    @property
    def has_gradient(self) -> bool:
        """False for an encoder that resizes images in Pillow, which cannot be differentiated."""
        return not self._encoder.host_preprocess

    def __call__(self, images: Tensor) -> Tensor:
        """The features of `images`; under `torch.no_grad` they have no gradient."""
        is_differentiated = torch.is_grad_enabled() and images.requires_grad
        if self.batch_size is None:
            features = self._encode(images)
        elif is_differentiated:
            chunks = images.split(self.batch_size)
            features = torch.cat([checkpoint(self._encode, chunk, use_reentrant=False) for chunk in chunks])
        else:
            features = torch.cat([self._encode(chunk) for chunk in images.split(self.batch_size)])
        if is_differentiated and not features.requires_grad:
            raise InputError(
                f"Encoder {self.name!r} gives features without a gradient (it runs under torch.no_grad, or detaches "
                "them); a loss needs one that differentiates."
            )
        return features

    def outputs(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """The outputs `names` of the encoder for `images`, each [B, D]."""
        chunks = [images] if self.batch_size is None else images.split(self.batch_size)
        parts = [self._outputs(chunk, names) for chunk in chunks]
        return {name: torch.cat([part[name] for part in parts]) for name in names}

    def frozen(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the modules are in eval mode and their parameters need no gradient; both are restored at the end."""
        return _frozen(self._modules)

    def _encode(self, images: Tensor) -> Tensor:
        output = self._encoder.spec.output
        return self._outputs(images, (output,))[output]

    def _outputs(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        encoder, device = self._encoder, self._encoder.device
        images = images.to(self._input_dtype(images))
        with self.frozen(), self._failures(len(images)):
            with torch.autocast(device.type, enabled=False):  # the training loop around us may have switched it on
                inputs = encoder.preprocess(images.cpu() if encoder.host_preprocess else images.to(device)).to(device)
            with torch.autocast(device.type, self._autocast, enabled=self._autocast is not None):
                found = self._forward(inputs, tuple(names))
        features = {name: checked_features(found[name], len(images), self.name) for name in names}
        return {name: one if one.dtype == torch.float64 else one.float() for name, one in features.items()}

    @contextlib.contextmanager
    def _failures(self, count: int) -> Iterator[None]:
        """Turn whatever a user's encoder raises into a `RunError` that names it; out of memory is for the caller."""
        try:
            yield
        except (Exception, SystemExit) as error:
            is_ours = isinstance(error, FdrError) or type(error).__module__.startswith("torch.utils.checkpoint")
            if is_ours or is_out_of_memory(error):  # the checkpoint stops its second forward pass by an exception
                raise
            raise RunError(f"Encoder {self.name!r} failed on a batch of {count} images: {described(error)}.") from error

    def _input_dtype(self, images: Tensor) -> torch.dtype:
        if images.dtype != torch.float64 or not isinstance(self._encoder, CallableEncoder):
            return torch.float32
        parameters = (p for module in self._modules for p in module.parameters() if p.is_floating_point())
        first = next(parameters, None)
        return torch.float64 if first is None else first.dtype


def _with_dtype(encoder: AbstractEncoder, dtype: str) -> AbstractEncoder:
    """The same networks with another precision in the spec, which several families of encoders read."""
    twin = copy.copy(encoder)
    twin.spec = replace(encoder.spec, dtype=dtype)
    return twin


@contextlib.contextmanager
def modes_kept(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Restore the training or eval mode of every part of `modules` at the end, whatever happens inside."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        yield
    finally:
        for part, is_training in modes:
            if part.training != is_training:
                part.training = is_training


@contextlib.contextmanager
def _frozen(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Eval mode inside, and parameters without gradient; both are restored at the end."""
    wanting = [p for module in modules for p in module.parameters() if p.requires_grad]
    with modes_kept(modules):
        for part in (part for module in modules for part in module.modules() if part.training):
            part.training = False  # `eval` is more: exported programs refuse it, and some modules merge weights in it
        try:
            for parameter in wanting:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in wanting:
                parameter.requires_grad_(True)
