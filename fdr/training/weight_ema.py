"""Exponential moving averages of a generator's weights, in images rather than steps (the "edm" kind of EDM)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fdr.errors import InputError

RAMP = 0.05
"""The half-life is at most this share of the images seen so far. Raising it keeps the first weights for longer."""


def decay_at(step: int, batch_size: int, half_life: float) -> float:
    """What an average keeps of itself at step `step` (from 1): 0.5^(B / min(1000 h, 0.05 t B)).

    `half_life` h is in thousands of images; B is the batch over all ranks. (Karras et al. 2022, EDM.)
    """
    return 0.5 ** (batch_size / min(half_life * 1000, RAMP * step * batch_size))


class WeightEmas:
    """One average per half-life of all that `state_dict` holds: parameters are averaged, buffers copied.

    Labelled "edm_250" for a half-life of 250 thousand images.
    """

    def __init__(self, module: torch.nn.Module, half_lives: Sequence[float], batch_size: int) -> None:
        self._module = module
        self._batch_size = batch_size
        self._half_lives = {f"edm_{half_life:g}": half_life for half_life in half_lives}
        self._averaged = {name for name, value in module.named_parameters() if value.is_floating_point()}
        self.shadows = {
            label: {name: value.detach().clone() for name, value in module.state_dict().items()}
            for label in self._half_lives
        }
        """{label: {name: tensor}}, in the order of the half-lives."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Average the weights in after step `step`, counted from 1 over the steps that were taken."""
        state = self._module.state_dict()
        averaged = [name for name in state if name in self._averaged]
        for label, half_life in self._half_lives.items():
            shadow, decay = self.shadows[label], decay_at(step, self._batch_size, half_life)
            torch._foreach_lerp_([shadow[name] for name in averaged], [state[name] for name in averaged], 1 - decay)
            for name in state.keys() - self._averaged:
                shadow[name].copy_(state[name])

    def load(self, shadows: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue with averages that were saved. Raises `InputError` when they are of other half-lives or weights."""
        for label, shadow in self.shadows.items():
            if label not in shadows or shadows[label].keys() != shadow.keys():
                raise InputError(f"The checkpoint has no weight average {label!r} of this generator.")
            for name, value in shadow.items():
                value.copy_(shadows[label][name])
