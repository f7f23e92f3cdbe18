"""Interpolation between the latent of an image and that of one of its neighbours (arXiv 2603.05630, section 3).

`draw` picks the neighbour of each image; `interpolate` goes from one latent to the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from fdr.neighbours import Neighbours

MODES = ("slerp", "linear", "mask")
_NORM_EPS = 1e-7
"""Shorter latents are treated as this long when their angle is computed."""
_ROUNDING = 1e-9
"""Added before rounding down, so that 0.29 of 100 rows are 29 although the floats multiply to just below 29."""
_MIN_SINE = 1e-6
"""Two latents whose angle has a smaller sine count as parallel (or opposite), and slerp becomes linear."""


@dataclass(frozen=True)
class Draws:
    """The neighbour that was drawn for each of Q images."""

    rows: np.ndarray
    """int64 [Q]: the neighbour of each image, as its row in the set of neighbours."""
    entropy: float
    """Mean entropy in nats of the distributions that were drawn from; log K if all K neighbours are equally near."""


def draw(found: Neighbours, dim: int, seed: int) -> Draws:
    """For each image z, draw one of its K neighbours z_k with probability softmax_k(-|z - z_k|^2 / D).

    D is the number of values of a latent. A draw depends on `seed` and the row of the image alone.
    As in the paper's code, the probabilities use the mean squared distance, whichever metric found the neighbours.
    """
    from fdr.generators import NEIGHBOUR, uniform_of  # here, because it imports torch

    logits = -found.squared / dim
    logits -= logits.max(1, keepdims=True)
    weights = np.exp(logits)
    weights /= weights.sum(1, keepdims=True)
    logs = np.log(weights, out=np.zeros_like(weights), where=weights > 0)
    entropy = -(weights * logs).sum(1)
    picks = uniform_of(seed, NEIGHBOUR, found.query_rows.tolist())
    places = (np.cumsum(weights, 1) <= picks[:, None]).sum(1).clip(max=weights.shape[1] - 1)
    return Draws(found.rows[np.arange(len(places)), places], float(entropy.mean()))


def interpolate(mode: str, latents: Tensor, neighbours: Tensor, alpha: float) -> Tensor:
    """Latents float32 [B, ...]: `latents` at alpha 0, `neighbours` at alpha 1, and between them otherwise."""
    functions: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {"slerp": slerp, "linear": linear, "mask": mask}
    return functions[mode](latents, neighbours, alpha)


def linear(latents: Tensor, neighbours: Tensor, alpha: float) -> Tensor:
    """(1 - a) z + a z', with z a latent, z' its neighbour's and a = `alpha`."""
    return (1 - alpha) * latents + alpha * neighbours


def slerp(latents: Tensor, neighbours: Tensor, alpha: float) -> Tensor:
    """sin((1 - a) t) / sin t z + sin(a t) / sin t z', with t the angle between the flattened z and z'.

    The vectors are not normalised before they are weighted. Where sin t is almost 0 the result is that of `linear`.
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
    """The first floor(alpha n) of n rows from the neighbour, and the others from the latent.

    Rows are those of latents [B, C, h, w], or the tokens of [B, L, C], or the values of [B, D].

    At alpha 0.5, n // 2 rows come from the neighbour, as in the paper's code.
    """
    axis = 2 if latents.ndim == 4 else 1
    taken = math.floor(alpha * latents.shape[axis] + _ROUNDING)
    between = latents.clone()
    between.narrow(axis, 0, taken).copy_(neighbours.narrow(axis, 0, taken))
    return between
