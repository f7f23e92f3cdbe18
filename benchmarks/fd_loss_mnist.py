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

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import fdr

EVALUATED = 10_000


@dataclass(frozen=True)
class World:
    """Everything that the runs share."""

    generator: nn.Module
    encoders: dict[str, Callable[[Tensor], Tensor]]
    references: dict[str, fdr.Moments]
    images: Tensor
    """[N, 1, 28, 28] in [0, 1]."""


@dataclass(frozen=True)
class Recipe:
    """How every generator is post-trained."""

    steps: int
    batch_size: int
    lr: float


FLOW_RECIPE = Recipe(1500, 32, 1e-4)
"""A network of a million parameters moves faster than the MLP: at its rate, its population is stale and it diverges."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=32, help="below the 84 dimensions, as 1,024 is below 2,048")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--flow-steps", type=int, default=3000, help="training steps of the many-step generator")
    parser.add_argument("--only", choices=["populations", "encoders", "steps"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    world = load_world(options.data)
    recipe = Recipe(options.steps, options.batch_size, options.lr)
    found: dict[str, Any] = vars(recipe) | {}
    parts = {
        "populations": lambda: populations(world, recipe),
        "encoders": lambda: several_encoders(world, recipe),
        "steps": lambda: many_steps_to_one(world, options.flow_steps),
    }
    for name, part in parts.items():
        if options.only in (None, name):
            found[name] = part()
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def load_world(folder: Path) -> World:
    """Generator, encoders and their reference moments."""
    array = np.load(folder / "train20k.npz", allow_pickle=False)["arr_0"]
    images = torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255
    encoders: dict[str, Callable[[Tensor], Tensor]] = {
        "lenet_tanh": LeNet(folder / "lenet_tanh.safetensors", torch.tanh),
        "lenet_relu": LeNet(folder / "lenet_relu.safetensors", torch.relu),
        "random": random_network(),
    }
    references = {}
    with torch.no_grad():
        for name, encoder in encoders.items():
            references[name] = fdr.Moments.from_features(
                [encoder(batch.expand(-1, 3, -1, -1)) for batch in images.split(500)]
            )
    return World(MlpGenerator(folder / "mlp_gan.safetensors"), encoders, references, images)


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


def random_network() -> Callable[[Tensor], Tensor]:
    """A seeded random convolutional network: features [B, 64]."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 32, 5, 2, 2),
            nn.GELU(),
            nn.Conv2d(32, 64, 5, 2, 2),
            nn.GELU(),
            nn.Conv2d(64, 64, 3, 2, 1),
            nn.GELU(),
        )
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return lambda images: network(images[:, :1]).mean((2, 3))


def post_train(
    world: World,
    generator: nn.Module,
    names: list[str],
    population: Any,
    recipe: Recipe,
    fill: int,
    noise_shape: tuple[int, ...],
) -> dict[str, float]:
    """Post-train a copy; FD per encoder afterwards, seconds, and the numbers that the population holds."""
    trained = copy.deepcopy(generator)
    loss = fdr.FDLoss(
        {name: world.encoders[name] for name in names},
        {name: world.references[name] for name in names},
        population=population,
    )
    noise = torch.Generator().manual_seed(1)
    if fill:
        num_batches = math.ceil(fill / recipe.batch_size)
        with torch.no_grad():
            drawn = (torch.randn(recipe.batch_size, *noise_shape, generator=noise) for _ in range(num_batches))
            loss.fill((trained(z) for z in drawn), count=fill)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=recipe.lr, betas=(0.9, 0.95), weight_decay=0)
    began = time.process_time()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * min(1, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        images = trained(torch.randn(recipe.batch_size, *noise_shape, generator=noise))
        optimizer.zero_grad()
        loss(images).total.backward()
        optimizer.step()
    state = sum(x.numel() for x in tensors(loss.state_dict()))
    return {**evaluate(world, trained, noise_shape), "CPU s": time.process_time() - began, "numbers kept": state}


def tensors(state: Any) -> Iterator[Tensor]:
    """All tensors in nested mappings."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors(value)


@torch.no_grad()
def evaluate(world: World, generator: Callable[[Tensor], Tensor], noise_shape: tuple[int, ...]) -> dict[str, float]:
    """FD of 10,000 quantised samples under every encoder."""
    noise = torch.Generator().manual_seed(2)
    batches = [generator(torch.randn(500, *noise_shape, generator=noise)) for _ in range(EVALUATED // 500)]
    images = torch.cat(batches).clamp(0, 1).mul(255).round().div(255).expand(-1, 3, -1, -1)
    found = {}
    for name, encoder in world.encoders.items():
        moments = fdr.Moments.from_features([encoder(batch) for batch in images.split(500)])
        found[name] = fdr.frechet_distance(moments, world.references[name])
    return found


def populations(world: World, recipe: Recipe) -> dict[str, dict[str, float]]:
    """One encoder, every kind of population."""
    kinds: dict[str, tuple[Any, int]] = {
        "batch": (fdr.BatchPopulation(), 0),
        **{f"queue {size}": (fdr.QueuePopulation(size), size) for size in (1_000, 5_000, 20_000, 100_000)},
        **{f"ema {beta}": (fdr.EmaPopulation(beta), 20_000) for beta in (0.9, 0.99, 0.999)},
    }
    rows = {"before": evaluate(world, world.generator, (64,))}
    show("population, trained on lenet_tanh", "before", rows["before"])
    for name, (population, fill) in kinds.items():
        rows[name] = post_train(world, world.generator, ["lenet_tanh"], population, recipe, fill, (64,))
        show("", name, rows[name])
    return rows


def several_encoders(world: World, recipe: Recipe) -> dict[str, dict[str, float]]:
    """One encoder beside two, on those that watch."""
    rows = {}
    for names in (["lenet_tanh"], ["random"], ["lenet_tanh", "random"]):
        rows[" + ".join(names)] = post_train(
            world, world.generator, names, fdr.EmaPopulation(0.99), recipe, 20_000, (64,)
        )
        show("trained on", " + ".join(names), rows[" + ".join(names)])
    return rows


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

    def sample(self, noise: Tensor, num_steps: int) -> Tensor:
        """Euler from noise (t = 1) to images [B, 1, 28, 28] in [0, 1], not clamped."""
        x = noise
        for index in range(num_steps):
            t = torch.full((len(x),), 1 - index / num_steps)
            x = x - self(x, t) / num_steps
        return (x.view(-1, 1, 28, 28) + 1) / 2


class OneStep(nn.Module):
    """A flow network used once."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, noise: Tensor) -> Tensor:
        return self.flow.sample(noise, 1).clamp(0, 1)


def many_steps_to_one(world: World, flow_steps: int) -> dict[str, dict[str, float]]:
    """A flow-matching network, sampled in many steps, in one, and in one after post-training."""
    torch.manual_seed(0)
    flow = Flow()
    optimizer = torch.optim.AdamW(flow.parameters(), lr=1e-3)
    data = world.images.flatten(1) * 2 - 1
    losses = []
    for _ in range(flow_steps):
        x = data[torch.randint(len(data), (256,))]
        noise, t = torch.randn_like(x), torch.rand(len(x))
        error = (flow(x + t[:, None] * (noise - x), t) - (noise - x)).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        losses.append(float(error))
    print(f"flow matching: loss {statistics.mean(losses[:50]):.3f} -> {statistics.mean(losses[-50:]):.3f}")
    rows = {f"{n} steps": evaluate(world, lambda z, n=n: flow.sample(z, n), (784,)) for n in (50, 1)}
    names = ["lenet_tanh", "random"]
    rows["1 step, post-trained"] = post_train(
        world, OneStep(flow), names, fdr.EmaPopulation(0.9), FLOW_RECIPE, 5_000, (784,)
    )
    for name, row in rows.items():
        show("flow", name, row)
    return rows


def show(title: str, name: str, row: dict[str, float]) -> None:
    print(f"{title:36s} {name:24s} " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
