"""The weights of the step before, for lag correction (`fdr/loss/lag.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fdr.errors import InputError

LARGEST_GAP = 1e-3
"""Largest difference of two passes of the same noise, relative to the spread of the images.

Raising it accepts generators that draw a little noise of their own, of which the history then takes some for movement.
"""


class PreviousWeights:
    """A copy of the weights and buffers that a generator had in the last step that was taken."""

    def __init__(self, generator: nn.Module) -> None:
        self._generator = generator
        self.stored: dict[str, Tensor] = {}
        """By the names of the state dict: trainable parameters, and buffers; empty before the first step."""

    def __bool__(self) -> bool:
        return bool(self.stored)

    @torch.no_grad()
    def remember(self) -> None:
        """Copy the present weights and buffers."""
        for name, tensor in self._tensors():
            if name in self.stored:
                self.stored[name].copy_(tensor)
            else:
                self.stored[name] = tensor.detach().clone()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the copied weights into the generator; at the end it has its own again, and buffers as they were.

        No autograd graph of the generator may be in use.
        """
        own = [(tensor, tensor.data) for _, tensor in self._tensors()]
        try:
            for name, tensor in self._tensors():  # a normalisation in training mode counts the images in its buffers
                tensor.data = self.stored[name] if isinstance(tensor, nn.Parameter) else self.stored[name].clone()
            yield
        finally:
            for tensor, data in own:
                tensor.data = data

    def load(self, stored: Mapping[str, Tensor]) -> None:
        """Continue with weights that were saved. Raises `InputError` when they are of another generator."""
        tensors = dict(self._tensors())
        if stored and (
            stored.keys() != tensors.keys() or any(stored[n].shape != value.shape for n, value in tensors.items())
        ):
            raise InputError("The weights of the step before in the checkpoint are not those of this generator.")
        self.stored = {name: value.to(tensors[name], copy=True) for name, value in stored.items()}

    @torch.no_grad()
    def check_repeats(self, make: Callable[[], Tensor], name: str) -> None:
        """Raise `InputError` unless `make` makes the same images twice, in training mode; nothing is remembered."""
        self.remember()
        self._generator.train()
        passes = []
        for _ in range(2):
            with self.in_place():
                passes.append(make())
        self._generator.eval()
        self.stored.clear()
        check_same(name, *passes)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        saved = self._generator.state_dict().keys()  # constants, such as a fixed decoder, are in no state dict
        yield from ((name, p) for name, p in self._generator.named_parameters() if p.requires_grad)
        yield from ((name, buffer) for name, buffer in self._generator.named_buffers() if name in saved)


def check_same(name: str, first: Tensor, second: Tensor) -> None:
    """Raise `InputError` unless two passes of the same noise, under one seed and one set of weights, are equal."""
    spread = float((first - first.mean(0)).norm())
    gap = float((first - second).norm())
    if not gap <= LARGEST_GAP * spread:
        share = f"{gap / spread:.2g} times the spread of the images" if spread else f"{gap:.2g}"
        raise InputError(
            f"{name} draws noise of its own, which torch's seed does not fix: two passes of the same noise under the "
            f"same weights differ by {share}. Lag correction would take that for movement; leave out --lag-correction."
        )
