"""What the paper of FD-loss reports in large, in small: a CIFAR-10 generator, post-trained with every population.

    python benchmarks/fd_loss_cifar.py --data FOLDER --out FOLDER [--steps 300]

The data folder holds `cifar10/train10k.npz` and `cifar10/test5k.npz` (arr_0 uint8 [N, 32, 32, 3], arr_1 labels) and
`weights/squeezenet1_1.safetensors` (torchvision's names). The script trains a small flow-matching U-Net, made for many
steps, and a small classifier, and keeps both in the output folder. The U-Net, used once, is then post-trained on
encoders, and others watch:

    squeezenet   ImageNet features, 512-d, of images resized to 64 px
    random       fdr's seeded random network, 256-d
    classifier   the classifier's 128 features; no run is trained on it
    pixels       colours of a 4 x 4 thumbnail, 48-d; no run is trained on it

Every run starts from the same weights, takes the same steps of AdamW on the same noise, and is measured on 5,000
samples of noise that no run trains on, against the training images, quantised to uint8. A run that was cut off goes on
from the last row that was finished.

Questions: is batch-only worse than a queue? does an EMA reach the queue with less memory? do stale, very long queues
hurt? do several encoders beat one on the encoders that watch? can a network made for many steps be turned into a
one-step one?
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from post_training import (
    MIN_TIME,
    OneStep,
    Recipe,
    Rows,
    World,
    compare_encoders,
    compare_populations,
    cosine,
    distances,
    fit_flow,
    moments_of,
    post_train,
    sample,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.utils import save_image

import fdr
from fdr.files import atomic_path

EVALUATED = 5_000
EMA_FILL = 5_000
QUEUES = (2_000, 10_000, 50_000)
ENCODERS = (["squeezenet"], ["random"], ["squeezenet", "random"])
SQUEEZENET_SIZE = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, as torchvision's networks expect."""

Network = TypeVar("Network", bound=nn.Module)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the numbers depend on."""

    steps: int
    batch_size: int
    lr: float
    eps: float
    beta: float
    flow_steps: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("fd_loss_cifar"), help="networks, rows and pictures")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=64, help="below the 512 dimensions, as 1,024 is below 2,048")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--eps", type=float, default=1e-4, help="in F / (F + eps): below the FD of every encoder")
    parser.add_argument("--beta", type=float, default=0.9, help="of the EMA with which several encoders are compared")
    parser.add_argument("--flow-steps", type=int, default=1200, help="training steps of the many-step generator")
    parser.add_argument("--only", choices=["steps", "populations", "encoders"])
    options = parser.parse_args()
    names = [field.name for field in dataclasses.fields(Settings)]
    settings = Settings(**{name: getattr(options, name) for name in names})
    recipe = Recipe(settings.steps, settings.batch_size, settings.lr, settings.eps)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = Rows(options.out / "rows.json", settings)
    world = load_world(options.data, options.out, settings.flow_steps)
    rows.row("real, held out", lambda: distances(world, read_images(options.data / "cifar10" / "test5k.npz")[0]))
    parts = {
        "steps": lambda: many_steps_to_one(rows, world, recipe, settings.beta, options.out),
        "populations": lambda: compare_populations(rows, world, "squeezenet", recipe, QUEUES, EMA_FILL),
        "encoders": lambda: compare_encoders(rows, world, ENCODERS, settings.beta, recipe, EMA_FILL),
    }
    for name, part in parts.items():
        if options.only in (None, name):
            part()


def read_images(path: Path) -> tuple[Tensor, Tensor]:
    """Images [N, 3, 32, 32] in [0, 1], and labels [N]."""
    with np.load(path, allow_pickle=False) as arrays:
        images, labels = arrays["arr_0"], arrays["arr_1"]
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels)


def load_world(folder: Path, out: Path, flow_steps: int) -> World:
    """Generator, encoders and their reference moments; what has to be trained is trained, or read from `out`."""
    images, labels = read_images(folder / "cifar10" / "train10k.npz")
    classifier = kept(out / "classifier.safetensors", Classifier, lambda net: fit_classifier(net, images, labels))
    test_images, test_labels = read_images(folder / "cifar10" / "test5k.npz")
    with torch.no_grad():
        hits = (classifier(test_images).argmax(1) == test_labels).float().mean()
    print(f"classifier: {100 * hits:.1f} % of the test images")
    flow = kept(
        out / f"flow-{flow_steps}.safetensors",
        UNet,
        lambda net: fit_flow(net, images * 2 - 1, flow_steps, 64, 1e-3, cosine),
    )
    print(f"generator: {sum(p.numel() for p in flow.parameters()):,} parameters")
    watch = fdr.load_encoder("random")
    encoders: dict[str, Callable[[Tensor], Tensor]] = {
        "squeezenet": SqueezeNet(folder / "weights" / "squeezenet1_1.safetensors"),
        "random": lambda images: watch(images)["features"],
        "classifier": classifier.requires_grad_(False).features,
        "pixels": lambda images: F.avg_pool2d(images, 8).flatten(1),
    }
    references = {name: moments_of(encoder, images) for name, encoder in encoders.items()}
    return World(OneStep(flow, (3, 32, 32)), (3, 32, 32), encoders, references, EVALUATED)


def kept(path: Path, make: Callable[[], Network], fit: Callable[[Network], None]) -> Network:
    """A network trained by `fit`, or as the file has it."""
    torch.manual_seed(0)
    network = make()
    if path.exists():
        network.load_state_dict(load_file(path))
        return network.eval()
    fit(network)
    with atomic_path(path) as temporary:
        save_file(network.state_dict(), temporary)
    return network.eval()


class SqueezeNet:
    """Images [B, 3, H, W] in [0, 1] -> the mean after the last fire module, [B, 512], at 64 px instead of 224."""

    def __init__(self, path: Path) -> None:
        network = torchvision.models.squeezenet1_1(weights=None)
        network.load_state_dict(load_file(path))
        self._layers = network.features.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self._mean, self._std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))

    def __call__(self, images: Tensor) -> Tensor:
        x = F.interpolate(images, (SQUEEZENET_SIZE, SQUEEZENET_SIZE), mode="bilinear", align_corners=False)
        x = ((x - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        return self._layers(x).mean((2, 3))


class Classifier(nn.Module):
    """Images [B, 3, 32, 32] in [0, 1] -> logits [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        stages = []
        for before, after in ((3, 32), (32, 64), (64, 128)):
            stages += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(8, after), nn.SiLU(), nn.AvgPool2d(2)]
        self.stages = nn.Sequential(*stages, nn.Conv2d(128, 128, 3, padding=1), nn.SiLU())
        self.last = nn.Linear(128, 10)

    def features(self, images: Tensor) -> Tensor:
        return self.stages(2 * images - 1).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.features(images))


def fit_classifier(network: Classifier, images: Tensor, labels: Tensor, epochs: int = 5) -> None:
    """In place: AdamW with a cosine, images mirrored at random."""
    steps = epochs * (len(images) // 64)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * cosine(step / steps)
        chosen = torch.randint(len(images), (64,))
        batch = images[chosen]
        batch = torch.where(torch.rand(64, 1, 1, 1) < 0.5, batch, batch.flip(3))
        optimizer.zero_grad()
        F.cross_entropy(network(batch), labels[chosen]).backward()
        optimizer.step()


class Block(nn.Module):
    """A residual block that time scales and shifts."""

    def __init__(self, width: int, time_width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(2))
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(time_width, 2 * width)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.modulation(time)[:, :, None, None].chunk(2, dim=1)
        h = self.first(F.silu(self.norms[0](x)))
        return x + self.last(F.silu(self.norms[1](h) * (1 + scale) + shift))


class UNet(nn.Module):
    """A velocity network for images [B, 3, 32, 32] in [-1, 1], of x and t, that predicts the image within.

    It works on 2 x 2 patches at 16 x 16 and 8 x 8. Used once at t = 1, it returns the image that it predicts.
    """

    def __init__(self, width: int = 32, time_width: int = 128) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(64, time_width), nn.SiLU(), nn.Linear(time_width, time_width), nn.SiLU())
        self.first = nn.Conv2d(12, width, 3, padding=1)
        self.fine = nn.ModuleList(Block(width, time_width) for _ in range(2))
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.coarse = nn.ModuleList(Block(2 * width, time_width) for _ in range(4))
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join = nn.Conv2d(2 * width, width, 1)
        self.finer = nn.ModuleList(Block(width, time_width) for _ in range(2))
        self.norm = nn.GroupNorm(8, width)
        self.last = nn.Conv2d(width, 12, 3, padding=1)

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """The image within x."""
        angles = t[:, None] * torch.exp(torch.linspace(0, math.log(100), 32))
        time = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        h = self.first(F.pixel_unshuffle(x, 2))
        for block in self.fine:
            h = block(h, time)
        kept = h
        h = self.down(h)
        for block in self.coarse:
            h = block(h, time)
        h = self.join(torch.cat([self.up(h), kept], dim=1))
        for block in self.finer:
            h = block(h, time)
        return F.pixel_shuffle(self.last(F.silu(self.norm(h))), 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return (x - self.predict(x, t)) / t.clamp_min(MIN_TIME).view(-1, 1, 1, 1)


def many_steps_to_one(rows: Rows, world: World, recipe: Recipe, beta: float, out: Path) -> None:
    """The flow network sampled in many steps, in one, and in one after post-training."""
    generator = world.generator
    assert isinstance(generator, OneStep)

    def sampled(count: int) -> dict[str, float]:
        images = sample(world, lambda z: generator.sample(z, count), world.evaluated)
        save_image(images[:64], out / f"flow-{count}.png")
        return distances(world, images)

    def post_trained() -> dict[str, float]:
        trained, row = post_train(world, ["squeezenet", "random"], fdr.EmaPopulation(beta), recipe, EMA_FILL)
        save_image(sample(world, trained, 64), out / "post-trained.png")
        return row

    rows.row("before", lambda: sampled(1))
    rows.row("50 steps", lambda: sampled(50))
    rows.row(f"squeezenet + random, ema {beta}", post_trained)


if __name__ == "__main__":
    main()
