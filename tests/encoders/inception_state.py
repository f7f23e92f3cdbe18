"""A seeded random state dict in the official layout of FID-Inception, with activations like a trained network's."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from fdr.encoders.inception_network import InceptionNetwork
from fdr.images import procedural


@cache
def make_inception_state(seed: int = 0) -> dict[str, Tensor]:
    """The tensors of the published file by name, without the step counters that the file lacks too.

    Kernels are drawn by He's rule; the batch norms take their statistics from one pass over drawn images, with gains
    and shifts drawn around 1 and 0, so that no layer dies or explodes. Copy before changing a tensor.
    """
    random = torch.Generator().manual_seed(seed)
    network = InceptionNetwork().train().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=random)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.7, 1.3, generator=random)
            module.bias.normal_(0, 0.3, generator=random)
            module.momentum = 1.0
    network.fc.weight.normal_(0, 0.05, generator=random)
    network.fc.bias.normal_(0, 0.05, generator=random)
    drawn = torch.from_numpy(procedural.draw_set(seed, 4)).permute(0, 3, 1, 2).float()
    network((nn.functional.interpolate(drawn, (299, 299), mode="bilinear") - 128) / 128, ("pool",))
    return {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}


def save_inception_state(folder: Path, seed: int = 0, name: str = "pt_inception-2015-12-05-6726825d.pth") -> Path:
    """Write the state dict of `seed` as the official files are written, under the published name."""
    path = folder / name
    torch.save(make_inception_state(seed), path)
    return path
