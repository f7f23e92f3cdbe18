"""The worlds in which `fd_loss_populations.py` compares populations; no script.

    linear   z = A x + b, x Gaussian of 32 values; FD in closed form
    mlp      a perturbed MLP is trained back through a fixed random encoder of 48 features
    mnist    a trained generator of digits against real digits; features of two LeNets and of a random network
    faces    a perturbed DCGAN is trained back under one image encoder; another one watches
    eyes     the same with a conditional DCGAN of 128 x 128 pixels

In all of them but `mnist` the truth is known: the reference is what the generator makes before it is perturbed.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from fd_loss_mnist import load_world
from gan_networks import CLASSES, LATENT, cdcgan, dcgan, efficientnet, inception
from populations import population
from post_training import Encoder, Row, World
from squeezenet import SqueezeNetEncoder
from torch import Tensor, nn

import fdr

SPREAD = 16.0
"""Vectors travel as images: 0.5 + x / SPREAD."""
REFERENCE_SEED, JUDGE_SEED, BATCH = 5, 3, 50
SIDES = {"squeezenet": 64, "efficientnet": 64, "inception": 75}
"""Pixels of the encoders' inputs; 75 is the least that Inception-v3 takes."""
TRAINED, ALL, ERRORS = range(3)
"""What a judge is asked for: FD under the trained encoder, under all, or that with the judge's standard errors."""
Judge = Callable[[nn.Module, int], Row]
"""What a generator is worth: FD / tr S_p by encoder, and standard errors as `... se`."""


@dataclasses.dataclass(frozen=True)
class Course:
    """A world, what is trained in it, and how the outcome is judged."""

    world: World
    trained: str
    """The encoder whose FD is the loss; the others watch."""
    truth: nn.Module | None
    """The generator that the reference is of, where there is one."""
    judge: Judge

    @property
    def dim(self) -> int:
        return self.world.references[self.trained].dim

    @property
    def trace(self) -> float:
        return float(np.trace(self.world.references[self.trained].sigma))


def perturbed(network: nn.Module, size: float, seed: int) -> nn.Module:
    """A copy whose every weight tensor has Gaussian noise added, of `size` times its root mean square."""
    random, copied = torch.Generator().manual_seed(seed), copy.deepcopy(network)
    with torch.no_grad():
        for parameter in copied.parameters():
            noise = torch.randn(parameter.shape, generator=random)
            parameter.add_(noise, alpha=size * float(parameter.square().mean().sqrt()))
    return copied


# ------------------------------------------------------------------------------------------------------------- toys


class Vectors(nn.Module):
    """Noise [B, D'] -> vectors of a network [B, D] as images [B, 1, 1, D]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, noise: Tensor) -> Tensor:
        return as_images(self.network(noise))


def as_images(rows: Tensor) -> Tensor:
    """Vectors [B, D] as images [B, 1, 1, D]."""
    return (rows / SPREAD + 0.5)[:, None, None]


def vectors(images: Tensor) -> Tensor:
    """The vectors [B, D] that such images [B, 3, 1, D] hold."""
    return (images[:, 0, 0] - 0.5) * SPREAD


def linear(size: float, dim: int = 32) -> Course:
    """A linear generator of Gaussian features with variances 1 / k; its map is multiplied by 1 + a random matrix."""
    exact, random = population("gauss", dim, 1.0), np.random.default_rng(7)
    root = np.sqrt(exact.covariance)
    noise = random.standard_normal((dim, dim)) / math.sqrt(dim)
    start = root + size * (noise + noise.T) / math.sqrt(2) @ root
    shift = size * math.sqrt(np.trace(exact.covariance) / dim) / 2 * random.standard_normal(dim)
    references = {"vectors": exact.moments}
    worlds = [Vectors(_linear(matrix, bias)) for matrix, bias in ((start, shift), (root, np.zeros(dim)))]
    trace = float(np.trace(exact.covariance))

    def judge(generator: nn.Module, _: int) -> Row:
        layer = generator.network
        weight, bias = (x.detach().double().numpy() for x in (layer.weight, layer.bias))
        return {"vectors": fdr.frechet_distance(fdr.Moments(bias, weight @ weight.T), exact.moments) / trace}

    return Course(World(worlds[0], (dim,), {"vectors": vectors}, references, 0), "vectors", worlds[1], judge)


def _linear(matrix: np.ndarray, bias: np.ndarray) -> nn.Linear:
    layer = nn.Linear(matrix.shape[1], matrix.shape[0])
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(matrix))
        layer.bias.copy_(torch.from_numpy(bias))
    return layer


class HeavyTails(nn.Module):
    """Gaussian values with their tails made heavier."""

    def forward(self, noise: Tensor) -> Tensor:
        return noise.sign() * noise.abs() ** 1.3


def mlp(size: float, reference_count: int, judged: int) -> Course:
    """A perturbed MLP of heavy-tailed latents is trained back through a fixed random encoder."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        widths = ((16, 64), (64, 64), (64, 24))
        layers = [layer for width in widths for layer in (nn.Linear(*width), nn.Tanh())][:-1]
        truth = Vectors(nn.Sequential(HeavyTails(), *layers))
        network = nn.Sequential(nn.Linear(24, 64), nn.GELU(), nn.Linear(64, 48)).requires_grad_(False)
        for module in network:
            if isinstance(module, nn.Linear):
                module.weight.mul_(3.0)
    encoders: dict[str, Encoder] = {"random MLP": lambda images: network(vectors(images))}
    references = {
        name: fdr.Moments.from_features(features_of(truth, (16,), encoder, reference_count, REFERENCE_SEED, levels=0))
        for name, encoder in encoders.items()
    }
    world = World(perturbed(truth, size, 1), (16,), encoders, references, judged)
    return Course(world, "random MLP", truth, partial(judged_by_samples, world, levels=0))


# ------------------------------------------------------------------------------------------------------- real images


def mnist(folder: Path, judged: int) -> Course:
    """A trained generator of digits, as it is, against real digits."""
    _, world = load_world(folder / "mnist")
    world = dataclasses.replace(world, evaluated=judged)
    return Course(world, "lenet_tanh", None, partial(judged_by_samples, world))


class Images(nn.Module):
    """A GAN with images in [-1, 1] as a generator of images in [0, 1]; noise [B, D].

    The last values of the noise of a conditional GAN choose the class: the largest of them.
    """

    def __init__(self, network: nn.Module, num_classes: int, bfloat16: bool) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.num_classes, self.bfloat16 = num_classes, bfloat16

    def forward(self, noise: Tensor) -> Tensor:
        if self.num_classes:
            latent, choice = noise[:, : -self.num_classes], noise[:, -self.num_classes :].argmax(1)
            noise = torch.cat([latent, F.one_hot(choice, self.num_classes).to(latent)], dim=1)
        with torch.autocast(noise.device.type, torch.bfloat16, enabled=self.bfloat16):
            images = self.network(noise[:, :, None, None])
        return (images.float() + 1) / 2


class Resized(nn.Module):
    """An encoder behind a bilinear resize to `side` x `side` pixels."""

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).to(memory_format=torch.channels_last)
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] != self.side:
            size = (self.side, self.side)
            images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        return self.network(images.contiguous(memory_format=torch.channels_last))


ENCODERS: dict[str, Callable[[Path, int], Encoder]] = {
    "squeezenet": lambda folder, side: SqueezeNetEncoder(folder / "squeezenet1_1.safetensors", side),
    "efficientnet": lambda folder, side: Resized(efficientnet(folder / "efficientnet_lite0.safetensors"), side),
    "inception": lambda folder, side: Resized(inception(folder / "inception_v3_nsfwjs_f16.safetensors"), side),
}
GANS: dict[str, tuple[Callable[[Path], nn.Module], str, int]] = {
    "faces": (dcgan, "dcgan_faces64.safetensors", 0),
    "eyes": (cdcgan, "cdcgan_eyes128_f16.safetensors", CLASSES),
}


@dataclasses.dataclass(frozen=True)
class GanOptions:
    """How a world of a GAN is made."""

    data: Path
    cache: Path
    """Moments of references are kept here."""
    encoders: tuple[str, ...]
    """The first is trained on; the others watch."""
    size: float
    """The size of the perturbation, relative to the weights."""
    reference_count: int
    judged: int
    bfloat16: bool


def gan(kind: str, options: GanOptions) -> Course:
    """A GAN whose weights are perturbed is trained back."""
    make, file, num_classes = GANS[kind]
    folder, noise_shape = options.data / "weights", (LATENT + num_classes,)
    truth = Images(make(folder / file), num_classes, options.bfloat16)
    encoders = {name: ENCODERS[name](folder, SIDES[name]) for name in options.encoders}
    references = {
        name: _kept_moments(options, f"{kind}-{name}-{SIDES[name]}", partial(features_of, truth, noise_shape, encoder))
        for name, encoder in encoders.items()
    }
    world = World(perturbed(truth, options.size, 1), noise_shape, encoders, references, options.judged)
    return Course(world, options.encoders[0], truth, partial(judged_by_samples, world))


def _kept_moments(options: GanOptions, name: str, features: Callable[[int, int], Iterator[Tensor]]) -> fdr.Moments:
    """The moments of so many samples, computed or as a file has them; the features [N, D] are in a file beside it."""
    count = options.reference_count
    path = options.cache / f"{name}-{count}{'-bfloat16' if options.bfloat16 else ''}.npz"
    if not path.exists():
        print(f"features of {count} samples: {path.stem}", flush=True)
        options.cache.mkdir(parents=True, exist_ok=True)
        rows = torch.cat(list(features(count, REFERENCE_SEED)))
        np.save(path.with_suffix(".npy"), rows.half().numpy())
        fdr.Moments.from_features(rows).save(path)
    return fdr.Moments.load(path)


# ------------------------------------------------------------------------------------------------------- judgement


@torch.no_grad()
def images_of(
    generator: nn.Module, noise_shape: tuple[int, ...], count: int, seed: int, levels: int = 255
) -> Iterator[Tensor]:
    """Batches of images [B, C, H, W] of seeded noise, rounded to so many levels; 0 rounds nothing."""
    noise = torch.Generator().manual_seed(seed)
    size = BATCH if levels else 2000
    for start in range(0, count, size):
        images = generator(torch.randn(min(size, count - start), *noise_shape, generator=noise))
        yield images.clamp(0, 1).mul(levels).round().div(levels) if levels else images


@torch.no_grad()
def features_of(
    generator: nn.Module, noise_shape: tuple[int, ...], encoder: Encoder, count: int, seed: int, levels: int = 255
) -> Iterator[Tensor]:
    """Batches of features [B, D] of such images."""
    for images in images_of(generator, noise_shape, count, seed, levels):
        yield encoder(images.expand(-1, 3, -1, -1))


@torch.no_grad()
def judged_by_samples(world: World, generator: nn.Module, asked: int, levels: int = 255) -> Row:
    """The debiased FD of fresh samples, divided by tr S_p.

    Every generator is judged on the same noise, on which none trains.
    """
    names = list(world.encoders)[: 1 if asked == TRAINED else None]
    features: dict[str, list[Tensor]] = {name: [] for name in names}
    for images in images_of(generator, world.noise_shape, world.evaluated, JUDGE_SEED, levels):
        for name in names:
            features[name].append(world.encoders[name](images.expand(-1, 3, -1, -1)))
    row: Row = {}
    for name in names:
        reference, rows = world.references[name], torch.cat(features[name]).numpy()
        found = fdr.debiased_frechet_distance(rows, reference, stderr=asked == ERRORS)
        trace = float(np.trace(reference.sigma))
        row[name] = math.nan if found.value is None else found.value / trace
        if found.stderr is not None:
            row[f"{name} se"] = found.stderr / trace
    return row
