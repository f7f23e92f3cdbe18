"""Between a latent and that of its neighbour: spherical, linear, or half of each (arXiv 2603.05630, section 3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MODES = ("slerp", "linear", "mask")
_NORM_EPS = 1e-7
_ROUNDING = 1e-9
"""Added before the floor: 0.29 of 100 rows are 29, although the product of the floats lies just below."""
_MIN_SINE = 1e-6
"""Below it two directions are taken as one (or as opposite), and slerp as linear."""


def interpolate(mode: str, latents: Tensor, neighbours: Tensor, alpha: float) -> Tensor:
    """float32 [B, ...], from `latents` (alpha 0) to `neighbours` (alpha 1), both float32 [B, ...]."""
    functions: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {"slerp": slerp, "linear": linear, "mask": mask}
    return functions[mode](latents, neighbours, alpha)


def linear(latents: Tensor, neighbours: Tensor, alpha: float) -> Tensor:
    """(1 - a) z + a z'"""
    return (1 - alpha) * latents + alpha * neighbours


def slerp(latents: Tensor, neighbours: Tensor, alpha: float) -> Tensor:
    """sin((1 - a) t) / sin t z + sin(a t) / sin t z', with t the angle between the flattened z and z'.

    The weights are applied to the vectors as they are, not normalised; where sin t is next to nothing, `linear`.
    """
    import torch

    a, b = (x.flatten(1).double() for x in (latents, neighbours))
    norms = (torch.linalg.vector_norm(x, dim=1).clamp(min=_NORM_EPS) for x in (a, b))
    cosine = ((a * b).sum(1) / math.prod(norms)).clamp(-1, 1)
    angle = cosine.acos()
    sine = angle.sin()
    is_one_direction = sine < _MIN_SINE
    sine = torch.where(is_one_direction, 1, sine)
    own = torch.where(is_one_direction, 1 - alpha, ((1 - alpha) * angle).sin() / sine)
    other = torch.where(is_one_direction, alpha, (alpha * angle).sin() / sine)
    between = own[:, None] * a + other[:, None] * b
    return between.to(latents.dtype).reshape(latents.shape)


def mask(latents: Tensor, neighbours: Tensor, alpha: float) -> Tensor:
    """The first floor(alpha n) of the n rows (of latents [B, L, C] or [B, D]: of the tokens) from z', the rest from z.

    At alpha 0.5 these are n // 2 rows, as in the paper's code.
    """
    axis = 2 if latents.ndim == 4 else 1
    taken = math.floor(alpha * latents.shape[axis] + _ROUNDING)
    between = latents.clone()
    between.narrow(axis, 0, taken).copy_(neighbours.narrow(axis, 0, taken))
    return between
