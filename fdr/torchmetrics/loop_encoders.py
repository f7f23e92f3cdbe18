"""Encoders that follow a metric from device to device, and that a pickled metric loads again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fdr.encoders import AbstractEncoder, EncoderOptions, EncoderSpec, load_encoders
from fdr.errors import InputError
from fdr.loss import LossEncoder, LossOptions, modes_kept


class LoopEncoders:
    """Encoders as a function from images [B, 3, H, W] in [0, 1] to named outputs [B, D], without gradient.

    `given` is what `fdr.evaluate` takes as encoders. `batch_size` is the number of images that pass an encoder at a
    time; None is all of them. Raises `InputError` as `fdr.evaluate` does.
    """

    def __init__(
        self, given: Any, options: EncoderOptions, weights: Mapping[str, Path] | None, batch_size: int | None
    ) -> None:
        self._given, self._options, self._weights = given, options, weights
        self._loss_options = LossOptions(encoder_batch_size=batch_size)
        self._loaded: tuple[AbstractEncoder, ...] | None = None
        self._networks: dict[str, LossEncoder] = {}
        self.specs: dict[str, EncoderSpec] = {encoder.spec.name: encoder.spec for encoder in self.encoders}
        """The spec of each encoder by its name, in order."""

    @property
    def encoders(self) -> tuple[AbstractEncoder, ...]:
        """The encoders, in order; they are loaded if they are not."""
        if self._loaded is None:
            with modes_kept([item for item in self._items if isinstance(item, nn.Module)]):
                self._loaded = tuple(load_encoders(self._given, self._options, self._weights))
            self._networks = {
                encoder.spec.name: LossEncoder(encoder.spec.name, encoder, self._loss_options)
                for encoder in self._loaded
            }
        return self._loaded

    @property
    def _items(self) -> list[Any]:
        """The encoders as they were given."""
        if isinstance(self._given, Mapping):
            return list(self._given.values())
        return list(self._given) if isinstance(self._given, list | tuple) else [self._given]

    @property
    def options(self) -> EncoderOptions:
        """How encoders are run: where, and in which precision."""
        return replace(self._options, weights=None)

    @property
    def sums_device(self) -> torch.device:
        """Where sums in float64 belong: the device of the first encoder, or the CPU beside a Mac's GPU."""
        device = self.encoders[0].device
        return torch.device("cpu") if device.type == "mps" else device

    def width(self, name: str, output: str) -> int | None:
        """Width D of an output; None if the encoder does not say and cannot be asked."""
        encoder = next(encoder for encoder in self.encoders if encoder.spec.name == name)
        if output != encoder.spec.output:
            return self(torch.zeros(1, 3, 64, 64), {name: (output,)})[name, output].shape[1]
        stated = encoder.spec.dim or getattr(getattr(encoder, "function", None), "num_features", None)
        return int(stated) if stated else None

    def move(self, device: torch.device) -> bool:
        """Run on `device` from now on: a named encoder is loaded there when it is next used, a module is moved there.

        An `AbstractEncoder` object stays where its owner has put it. Returns False if nothing has to move.
        """
        if self._loaded is not None:
            items = self._items
            moved = [encoder for encoder in self._loaded if not any(encoder is item for item in items)]
            if all(_is_same(encoder.device, device) for encoder in moved):
                return False
        self._options = replace(self._options, device=str(device))
        self._loaded = None
        return True

    @torch.no_grad()
    def __call__(self, images: Tensor, outputs: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], Tensor]:
        """The outputs that are named for each encoder, by (encoder, output)."""
        found: dict[tuple[str, str], Tensor] = {}
        for encoder in self.encoders:
            name = encoder.spec.name
            features = self._networks[name].outputs(images, outputs[name]) if outputs.get(name) else {}
            found |= {(name, output): rows for output, rows in features.items()}
        return found

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Eval mode inside, and parameters without gradient; both are restored at the end."""
        with contextlib.ExitStack() as stack:
            for encoder in self.encoders:
                stack.enter_context(self._networks[encoder.spec.name].frozen())
            yield

    def __getstate__(self) -> dict[str, Any]:
        """The state without what was loaded: named encoders are loaded again, and objects are wrapped again."""
        return {**self.__dict__, "_loaded": None, "_networks": {}}

    def __deepcopy__(self, memo: dict[int, Any]) -> LoopEncoders:
        """A copy that shares the networks, which nothing here changes."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin


def check_one(specs: Mapping[str, EncoderSpec]) -> None:
    """Raise `InputError` for several encoders."""
    if len(specs) != 1:
        raise InputError(
            f"FrechetDistance takes one encoder; got {', '.join(specs)}: use fdr.torchmetrics.Evaluation, which takes "
            "several."
        )


def _is_same(a: torch.device, b: torch.device) -> bool:
    """True for one device, whether or not its index is given."""
    return torch.empty(0, device=a).device == torch.empty(0, device=b).device
