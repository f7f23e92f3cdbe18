"""What the scripts that reproduce FD-loss in small share: runs of post-training, their evaluation, flow matching, rows.

`fd_loss_mnist.py`, `fd_loss_cifar.py` and `fd_loss_populations.py` import it; it is no script.
"""

from __future__ import annotations

import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fdr
from fdr.errors import InputError
from fdr.runtime import write_atomically

BETAS = (0.9, 0.95)
"""AdamW, in every run of post-training."""
WARMUP_STEPS = 20
EVALUATION_SEED = 2
"""Of the noise that FD is measured on; no run trains on it."""
MIN_TIME = 0.05
"""A network that predicts the image divides by no smaller time."""

Encoder = Callable[[Tensor], Tensor]
"""Images [B, 3, H, W] in [0, 1] -> features [B, D]."""
Row = dict[str, float]


@dataclass(frozen=True)
class World:
    """Everything that the runs share."""

    generator: nn.Module
    """Noise [B, *noise_shape] -> images [B, 1 or 3, H, W] in [0, 1]."""
    noise_shape: tuple[int, ...]
    encoders: Mapping[str, Encoder]
    references: Mapping[str, fdr.Moments]
    evaluated: int
    """Samples that FD is measured on afterwards."""


@dataclass(frozen=True)
class Recipe:
    """How every generator is post-trained: AdamW, some steps of warm-up, a cosine to 0."""

    steps: int
    batch_size: int
    lr: float
    eps: float = 0.01
    seed: int = 1
    """Of the noise that is trained on."""
    warmup: int = WARMUP_STEPS
    solver: str = "fast"
    gradient: str = "raw"


def post_train(world: World, names: list[str], population: Any, recipe: Recipe, fill: int) -> tuple[nn.Module, Row]:
    """A post-trained copy; FD per encoder afterwards, seconds, and the numbers that the population holds."""
    trained, costs = trained_copy(world, names, population, recipe, fill)
    return trained, {**evaluate(world, trained), **costs}


def trained_copy(world: World, names: list[str], population: Any, recipe: Recipe, fill: int) -> tuple[nn.Module, Row]:
    """A post-trained copy of the generator; the seconds of its steps, and the numbers that the population holds."""
    trained = copy.deepcopy(world.generator)
    loss = fdr.FDLoss(
        {name: world.encoders[name] for name in names},
        {name: world.references[name] for name in names},
        population=population,
        options=fdr.LossOptions(eps=recipe.eps, solver=recipe.solver, gradient=recipe.gradient),
    )
    noise = torch.Generator().manual_seed(recipe.seed)
    if fill:
        num_batches = math.ceil(fill / recipe.batch_size)
        with torch.no_grad():
            drawn = (torch.randn(recipe.batch_size, *world.noise_shape, generator=noise) for _ in range(num_batches))
            loss.fill((trained(z) for z in drawn), count=fill)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=recipe.lr, betas=BETAS, weight_decay=0)
    previous = Previous(trained) if getattr(population, "lag_correction", False) else None
    began = time.process_time()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * min(1, (step + 1) / recipe.warmup) * cosine(step / recipe.steps)
        z = torch.randn(recipe.batch_size, *world.noise_shape, generator=noise)
        images = trained(z)
        output = loss(images) if previous is None else loss(images, previous=previous.images(z))
        optimizer.zero_grad()
        output.total.backward()
        optimizer.step()
    seconds = time.process_time() - began
    state = sum(x.numel() for x in tensors(loss.state_dict()))
    return trained, {"CPU s": seconds, "numbers kept": state}


class Previous:
    """The weights of the step before, for lag correction."""

    def __init__(self, generator: nn.Module) -> None:
        self._generator, self._old = generator, copy.deepcopy(generator)
        self._is_first = True

    @torch.no_grad()
    def images(self, noise: Tensor) -> Tensor | None:
        """What those weights make of `noise`, None at the first step; the present weights become the previous ones."""
        images = None if self._is_first else self._old(noise)
        for old, new in zip(self._old.parameters(), self._generator.parameters(), strict=True):
            old.copy_(new)
        self._is_first = False
        return images


def row_of(world: World, names: list[str], population: Any, recipe: Recipe, fill: int) -> Row:
    """What `post_train` says, without the network."""
    return post_train(world, names, population, recipe, fill)[1]


def cosine(share: float) -> float:
    """From 1 at the start of a run to 0 at its end."""
    return 0.5 * (1 + math.cos(math.pi * share))


def tensors(state: Any) -> Iterator[Tensor]:
    """All tensors in nested mappings."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors(value)


@torch.no_grad()
def sample(world: World, generator: Callable[[Tensor], Tensor], count: int) -> Tensor:
    """Images [count, C, H, W], quantised to 256 levels of [0, 1], of noise that no run trains on."""
    noise = torch.Generator().manual_seed(EVALUATION_SEED)
    batches = [generator(torch.randn(500, *world.noise_shape, generator=noise)) for _ in range(math.ceil(count / 500))]
    return torch.cat(batches)[:count].clamp(0, 1).mul(255).round().div(255)


@torch.no_grad()
def moments_of(encoder: Encoder, images: Tensor) -> fdr.Moments:
    """Of images [N, 1 or 3, H, W] in [0, 1]."""
    return fdr.Moments.from_features([encoder(batch.expand(-1, 3, -1, -1)) for batch in images.split(500)])


def distances(world: World, images: Tensor) -> Row:
    """FD of images to the references, under every encoder."""
    return {
        name: fdr.frechet_distance(moments_of(encoder, images), world.references[name])
        for name, encoder in world.encoders.items()
    }


def evaluate(world: World, generator: Callable[[Tensor], Tensor]) -> Row:
    """FD of quantised samples under every encoder."""
    return distances(world, sample(world, generator, world.evaluated))


def random_network(channels: int = 1) -> Encoder:
    """A seeded random convolutional network, of one channel or of three: features [B, 64]."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(channels, 32, 5, 2, 2),
            nn.GELU(),
            nn.Conv2d(32, 64, 5, 2, 2),
            nn.GELU(),
            nn.Conv2d(64, 64, 3, 2, 1),
            nn.GELU(),
        )
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return lambda images: network(images[:, :channels]).mean((2, 3))


def fit_flow(
    flow: nn.Module,
    data: Tensor,
    steps: int,
    batch_size: int,
    lr: float,
    schedule: Callable[[float], float] = lambda share: 1.0,
) -> None:
    """Train a velocity network v(x, t) in place by flow matching: data [N, ...] in [-1, 1] at t = 0, noise at 1."""
    optimizer = torch.optim.AdamW(flow.parameters(), lr=lr)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * schedule(step / steps)
        x = data[torch.randint(len(data), (batch_size,))]
        noise, t = torch.randn_like(x), torch.rand(len(x))
        between = x + t.view(-1, *[1] * (x.ndim - 1)) * (noise - x)
        error = (flow(between, t) - (noise - x)).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        losses.append(error.item())
        if step % 100 == 99:
            print(f"flow matching, step {step + 1}: loss {statistics.mean(losses[-50:]):.3f}", flush=True)


def euler(flow: nn.Module, noise: Tensor, num_steps: int) -> Tensor:
    """From noise (t = 1) to images (t = 0), in the range and the shape of the data, not clamped."""
    x = noise
    for index in range(num_steps):
        t = torch.full((len(x),), 1 - index / num_steps)
        x = x - flow(x, t) / num_steps
    return x


class OneStep(nn.Module):
    """A flow network used once: noise -> images [B, *shape] in [0, 1]."""

    def __init__(self, flow: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.flow = flow
        self.shape = shape

    def forward(self, noise: Tensor) -> Tensor:
        return self.sample(noise, 1).clamp(0, 1)

    def sample(self, noise: Tensor, num_steps: int) -> Tensor:
        return (euler(self.flow, noise, num_steps).view(-1, *self.shape) + 1) / 2


class Rows:
    """Rows of tables, by name, printed as they come and kept in a file, so that a run that was cut off goes on."""

    def __init__(self, path: Path | None, settings: Any) -> None:
        self._path = path
        self.found: dict[str, Row] = {}
        self._settings = json.loads(json.dumps(asdict(settings)))
        if path is None or not path.exists():
            return
        kept = json.loads(path.read_text())
        if kept.get("settings") != self._settings:
            raise InputError(
                f"{str(path)!r} is of other settings, {kept.get('settings')}; expected {self._settings}. "
                "Give these settings, or another place."
            )
        self.found = kept["rows"]

    def row(self, name: str, make: Callable[[], Row]) -> Row:
        """The row called `name`, made unless it is there."""
        if name not in self.found:
            self.found[name] = make()
            if self._path is not None:
                kept = {"settings": self._settings, "rows": self.found}
                write_atomically(self._path, (json.dumps(kept, indent=2) + "\n").encode())
        print(f"{name:40s} " + "  ".join(f"{key} {value:.4g}" for key, value in self.found[name].items()), flush=True)
        return self.found[name]


def compare_populations(
    rows: Rows, world: World, name: str, recipe: Recipe, queues: tuple[int, ...], ema_fill: int, start: str = ""
) -> None:
    """One encoder, every kind of population; `start` begins the names of the rows."""
    kinds: dict[str, tuple[Any, int]] = {
        "batch": (fdr.BatchPopulation(), 0),
        **{f"queue {size}": (fdr.QueuePopulation(size), size) for size in queues},
        **{f"ema {beta}": (fdr.EmaPopulation(beta), ema_fill) for beta in (0.9, 0.99, 0.999)},
    }
    rows.row(f"{start}before", lambda: evaluate(world, world.generator))
    for kind, (population, fill) in kinds.items():
        rows.row(f"{start}{name}, {kind}", partial(row_of, world, [name], population, recipe, fill))


def compare_encoders(
    rows: Rows, world: World, sets: Sequence[list[str]], beta: float, recipe: Recipe, ema_fill: int
) -> None:
    """One encoder beside several, on those that watch."""
    for names in sets:
        population = fdr.EmaPopulation(beta)
        rows.row(f"{' + '.join(names)}, ema {beta}", partial(row_of, world, names, population, recipe, ema_fill))
