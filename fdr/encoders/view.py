"""The part of an image that the network of an encoder sees, which is less than the whole where it is cropped."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fdr.encoders.base import AbstractEncoder


@dataclass(frozen=True)
class View:
    """A rectangle in shares of the image's width and height: 0, 0, 1, 1 is the whole image."""

    left: float
    top: float
    right: float
    bottom: float


WHOLE = View(0.0, 0.0, 1.0, 1.0)


def view_of(encoder: AbstractEncoder, height: int, width: int) -> View:
    """Where the network input of an image of this size lies in it.

    Two ramps, whose values are the horizontal and the vertical place of a pixel, go through `preprocess`. What the
    normalisation does to values is undone with the help of a black and a white image.
    """
    x = (torch.arange(width) + 0.5) / width
    y = (torch.arange(height) + 0.5) / height
    ramps = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width), torch.zeros(height, width)])
    images = torch.stack([*ramps, torch.ones(height, width)])[:, None].repeat(1, 3, 1, 1)
    with torch.inference_mode():
        across, down, black, white = encoder.preprocess(
            images if encoder.host_preprocess else images.to(encoder.device)
        )
        values = torch.stack([across, down]).sub_(black).div_(white - black)[:, 0].double().cpu()
    (left, right), (top, bottom) = _ends(values[0].mean(0)), _ends(values[1].mean(1))
    found = View(left, top, right, bottom)
    return found if 0 < right - left < 1.5 and 0 < bottom - top < 1.5 else WHOLE


def _ends(places: Tensor) -> tuple[float, float]:
    """Where the first pixel begins and the last one ends, from the inner half of the pixels' centres [n]."""
    count = len(places)
    if count < 4:
        return 0.0, 1.0
    low, high = count // 4, count - 1 - count // 4
    step = float(places[high] - places[low]) / (high - low)
    start = float(places[low]) - step * (low + 0.5)
    return start, start + step * count
