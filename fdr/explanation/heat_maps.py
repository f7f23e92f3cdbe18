"""Heat-maps of what a Fréchet distance looks at in an image (Kynkäänniemi et al. 2023, arXiv 2203.06026, section 2).

The gradient of FD by the features f of an image is known in closed form (`fdr.frechet.fd_gradients`), so that one
backward pass from f to the last spatial layer of the encoder is enough. With the activations A [C, h, w] there and
g = d FD / d A,

    alpha_k = mean of g_k^2 over the h w positions,          map = sum_k alpha_k |A_k|

without a ReLU. The paper has A_k in place of |A_k|, which is the same after a ReLU, as in Inception. Other networks
have activations of both signs, and a channel that matters is as active at -3 as at 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fdr.encoders import AbstractEncoder, SpatialLayer, View, find_spatial_layer, view_of
from fdr.errors import InputError
from fdr.evaluation import Evaluator, Measurement
from fdr.explanation.results import EncoderInfluences, HeatMap
from fdr.frechet import fd_gradients
from fdr.images import ImageSource, images_again, pixels
from fdr.runtime import memory_for

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Spatial:
    """An encoder and its last spatial layer."""

    encoder: AbstractEncoder
    layer: SpatialLayer


def spatial_layers(evaluator: Evaluator, source: ImageSource) -> dict[str, Spatial]:
    """The last spatial layer of each encoder by its name, found with the first image of the samples.

    Raises `InputError` for an encoder that has none, and for images that can be read only once, before anything is
    measured.
    """
    if not source.is_repeatable:
        raise InputError(
            f"{source.name} can be read only once, so its images get no heat-maps; leave out the heat-maps."
        )
    image = _first_image(source)
    if image is None:
        return {}  # the measurement says that no image can be read
    return {
        encoder.spec.name: Spatial(encoder, find_spatial_layer(encoder, _inputs(encoder, image)))
        for encoder in evaluator.encoders
    }


@memory_for("the heat-maps", "use --device cpu, or leave out --heat-maps")
def with_heat_maps(
    found: EncoderInfluences,
    measured: Measurement,
    evaluator: Evaluator,
    source: ImageSource,
    spatial: Spatial,
    ends: int,
) -> EncoderInfluences:
    """The same with the heat-maps of the `ends` most and least harmful images."""
    place = (found.encoder, found.output)
    places = np.concatenate(found.ends(ends))
    reference = evaluator.reference.moments[place].moments
    gradients = fd_gradients(measured.moments[place], reference, places, device=spatial.encoder.device)
    views: dict[tuple[int, int], View] = {}
    maps = {}
    images = images_again(source, found.rows[places])
    for position, image, gradient in zip(places.tolist(), images, gradients, strict=True):
        size = (image.shape[0], image.shape[1])
        if size not in views:
            views[size] = view_of(spatial.encoder, *size)
        maps[position] = HeatMap(heat_of(spatial, image, gradient), _box(views[size], spatial.layer))
    return replace(found, heat_maps=maps, heat_map_layer=spatial.layer.name)


def heat_of(spatial: Spatial, image: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The map of one image, uint8 [H, W, 3], scaled to [0, 1]: float32 [h, w]; 0 everywhere where it is constant.

    `gradient` [D] is d FD / d f. Its scale does not matter.
    """
    import torch

    size = float(np.linalg.norm(gradient)) or 1.0
    direction = torch.from_numpy(gradient / size)[None]
    activations, gradients = spatial.layer.activations(spatial.encoder, _inputs(spatial.encoder, image), direction)
    alpha = gradients.double().square().mean((2, 3), keepdim=True)
    heat = (alpha * activations.double().abs()).sum(1)[0].cpu().numpy()
    span = float(np.ptp(heat))
    scaled = (heat - heat.min()) / span if span > 0 else np.zeros_like(heat)
    return scaled.astype(np.float32)


def _inputs(encoder: AbstractEncoder, image: np.ndarray) -> Tensor:
    """Network input [1, 3, h, w] of one image, uint8 [H, W, 3]."""
    import torch

    batch = torch.from_numpy(image.astype(np.float32)).div_(255).permute(2, 0, 1)[None].contiguous()
    with torch.no_grad():
        return encoder.preprocess(batch if encoder.host_preprocess else batch.to(encoder.device)).to(encoder.device)


def _box(view: View, layer: SpatialLayer) -> tuple[float, float, float, float]:
    """Where the grid lies in the image: that of the network's input, and beyond it where the network pads."""
    height, width = layer.covered
    right, bottom = view.left + (view.right - view.left) / width, view.top + (view.bottom - view.top) / height
    return view.left, view.top, right, bottom


def _first_image(source: ImageSource) -> np.ndarray | None:
    for batch in source.batches(1, 0):
        if batch.images:
            return pixels(batch.images[0])
    return None
