"""What the paper of FD-loss reports in large, in small: an MNIST generator post-trained with every kind of population.

    python benchmarks/fd_loss_mnist.py --data FOLDER [--steps 2000] [--json out.json]

FOLDER holds `train20k.npz` (arr_0 uint8 [N, 28, 28, 1]), `mlp_gan.safetensors` (64-256-256-784, tanh: the generator)
and `lenet_relu.safetensors`, `lenet_tanh.safetensors` (LeNet-5 classifiers; features: 84-d after f6). The generator is
post-trained on one LeNet; the other one, and a seeded random network, watch. Every run starts from the same weights,
takes the same steps of AdamW on the same noise, and is measured on 10,000 samples of noise that no run trains on,
against the 20,000 training images, quantised to uint8.

Questions: is batch-only worse than a queue? does an EMA reach the queue with less memory? do stale, very long queues
hurt? do several encoders beat one on the encoders that watch? can a network made for many steps be turned into a
one-step one?
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import harness
import numpy as np
import torch
import torch.nn.functional as F
from post_training import (
    OneStep,
    Recipe,
    Rows,
    World,
    compare_encoders,
    compare_populations,
    evaluate,
    fit_flow,
    moments_of,
    random_network,
    row_of,
)
from safetensors.torch import load_file
from torch import Tensor, nn

import fdr

EVALUATED = 10_000
EMA_FILL = 20_000
QUEUES = (1_000, 5_000, 20_000, 100_000)
ENCODERS = (["lenet_tanh"], ["random"], ["lenet_tanh", "random"])

FLOW_RECIPE = Recipe(1500, 32, 1e-4)
"""A network of a million parameters moves faster than the MLP: at its rate, its population is stale and it diverges."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the numbers depend on."""

    steps: int
    batch_size: int
    lr: float
    flow_steps: int


def main() -> None:
    parser = harness.parser(__doc__, json_help="keep the rows in FILE; with it, a run that was cut off goes on")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=32, help="below the 84 dimensions, as 1,024 is below 2,048")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--flow-steps", type=int, default=3000, help="training steps of the many-step generator")
    parser.add_argument("--only", choices=["populations", "encoders", "steps"])
    options = parser.parse_args()
    settings = Settings(options.steps, options.batch_size, options.lr, options.flow_steps)
    rows = Rows(options.json, settings)
    images, world = load_world(options.data)
    recipe = Recipe(options.steps, options.batch_size, options.lr)
    parts = {
        "populations": lambda: compare_populations(rows, world, "lenet_tanh", recipe, QUEUES, EMA_FILL),
        "encoders": lambda: compare_encoders(rows, world, ENCODERS, 0.99, recipe, EMA_FILL),
        "steps": lambda: many_steps_to_one(rows, world, images, options.flow_steps),
    }
    for name, part in parts.items():
        if options.only in (None, name):
            part()


def load_world(folder: Path) -> tuple[Tensor, World]:
    """Training images [N, 1, 28, 28] in [0, 1]; generator, encoders and their reference moments."""
    array = np.load(folder / "train20k.npz", allow_pickle=False)["arr_0"]
    images = torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255
    encoders: dict[str, Callable[[Tensor], Tensor]] = {
        "lenet_tanh": LeNet(folder / "lenet_tanh.safetensors", torch.tanh),
        "lenet_relu": LeNet(folder / "lenet_relu.safetensors", torch.relu),
        "random": random_network(),
    }
    references = {name: moments_of(encoder, images) for name, encoder in encoders.items()}
    return images, World(MlpGenerator(folder / "mlp_gan.safetensors"), (64,), encoders, references, EVALUATED)


class MlpGenerator(nn.Module):
    """Noise [B, 64] -> images [B, 1, 28, 28] in [0, 1]."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        linears = _linears(path)
        self.layers = nn.ModuleList(linears)

    def forward(self, noise: Tensor) -> Tensor:
        x = noise
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return (torch.tanh(self.layers[-1](x)).view(-1, 1, 28, 28) + 1) / 2


def _linears(path: Path) -> list[nn.Linear]:
    """The linear layers of a file, in the order of its keys."""
    state = load_file(path)
    names = sorted(key.removesuffix(".weight") for key in state if key.endswith(".weight"))
    layers = []
    for name in names:
        weight = state[f"{name}.weight"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": state[f"{name}.bias"]})
        layers.append(layer)
    return layers


class LeNet:
    """Images [B, 3, 28, 28] in [0, 1] -> features [B, 84]."""

    def __init__(self, path: Path, activation: Callable[[Tensor], Tensor]) -> None:
        state = load_file(path)
        find = {part: next(k for k in state if part in k and k.endswith("weight")) for part in ("c1", "c3", "c5", "f6")}
        self._weights = {part: (state[key], state[key.removesuffix("weight") + "bias"]) for part, key in find.items()}
        self._activation = activation

    def __call__(self, images: Tensor) -> Tensor:
        x = F.interpolate(images[:, :1], (32, 32), mode="bilinear", align_corners=False)
        for part in ("c1", "c3"):
            x = F.max_pool2d(self._activation(F.conv2d(x, *self._weights[part])), 2)
        x = self._activation(F.conv2d(x, *self._weights["c5"])).flatten(1)
        return self._activation(F.linear(x, *self._weights["f6"]))


class Flow(nn.Module):
    """A velocity network for images [B, 784] in [-1, 1], of x and t."""

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        self.first = nn.Linear(784 + 64, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.last = nn.Linear(width, 784)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * torch.exp(torch.linspace(0, math.log(100), 32))
        h = F.silu(self.first(torch.cat([x, angles.sin(), angles.cos()], dim=1)))
        for layer in self.hidden:
            h = h + F.silu(layer(h))
        return self.last(h)


def many_steps_to_one(rows: Rows, world: World, images: Tensor, flow_steps: int) -> None:
    """A flow-matching network, sampled in many steps, in one, and in one after post-training."""
    torch.manual_seed(0)
    flow = Flow()
    fit_flow(flow, images.flatten(1) * 2 - 1, flow_steps, 256, 1e-3)
    one_step = OneStep(flow, (1, 28, 28))
    world = dataclasses.replace(world, generator=one_step, noise_shape=(784,))
    for count in (50, 1):
        rows.row(f"flow, {count} steps", partial(evaluate, world, partial(one_step.sample, num_steps=count)))
    names = ["lenet_tanh", "random"]
    rows.row("flow, 1 step, post-trained", partial(row_of, world, names, fdr.EmaPopulation(0.9), FLOW_RECIPE, 5_000))


if __name__ == "__main__":
    main()
