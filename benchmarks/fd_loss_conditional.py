"""Labels that are exchanged and trained back: what FD, the class means beside FD, and the joint FD make of them.

    python benchmarks/fd_loss_conditional.py --data FOLDER                       # some 7 processor minutes
    python benchmarks/fd_loss_conditional.py --data FOLDER --only "FD and class means, ratio 8" --steps 200

FOLDER holds `weights/cdcgan_eyes128_f16.safetensors`, a GAN of 8 classes, and the weights of SqueezeNet and
EfficientNet-Lite0. The rows of the GAN's label table are permuted, so that it makes the same images under other labels,
and the table (8 x 16,384 numbers) is trained with the loss of each row. SqueezeNet is trained on, EfficientNet-Lite0 is
held out. The reference and the classifiers are made of images of the GAN as it was, so the truth is known: its own row.
A classifier is ridge regression on one-hot labels of an encoder's features. Prints the table of docs/conditional-fd.md.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import harness
import torch
import torch.nn.functional as F
from gan_networks import CLASSES, LATENT, cdcgan, efficientnet
from squeezenet import SqueezeNetEncoder
from torch import Tensor, nn

import fdr
from fdr.frechet import (
    LabelledMoments,
    conditional_frechet_distance,
    frechet_distance,
    joint_features,
    joint_moments,
    label_code,
    label_scale,
)

PERMUTATION = (3, 0, 5, 1, 6, 2, 7, 4)
"""The class whose images are made under each label; none keeps its own."""
BATCH = 50
BETA = 0.9
STARTS = {"the GAN as it was": False, "labels exchanged": True}
"""Rows without training, and whether their labels are exchanged."""
ROWS: dict[str, float | str | None] = {
    "FD": None,
    "FD and class means, ratio 2": 2.0,
    "FD and class means, ratio 8": 8.0,
    "FD and class means, ratio 32": 32.0,
    "joint FD alone": "joint",
}
HEADER = (
    "trained with", "accuracy, SqueezeNet", "accuracy, EfficientNet", "FD, SqueezeNet", "FD, EfficientNet",
    "class means, SqueezeNet", "class means, EfficientNet", "processor s",
)  # fmt: skip


class Eyes(nn.Module):
    """The GAN: z [B, 100] and labels [B] -> images [B, 3, 128, 128] in [0, 1]. Only its `table` is trained."""

    def __init__(self, weights: Path, in_bfloat16: bool) -> None:
        super().__init__()
        self.rest = cdcgan(weights).requires_grad_(False)
        first = self.rest[0].weight
        self.register_buffer("noise", first[:LATENT].clone())
        self.table = nn.Parameter(first[LATENT:].clone())
        self.in_bfloat16 = in_bfloat16

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        code = torch.cat([z, F.one_hot(labels, CLASSES).to(z.dtype)], 1)[:, :, None, None]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.in_bfloat16):
            images = self.rest[1:](F.conv_transpose2d(code, torch.cat([self.noise, self.table])))
        return (images.float() + 1) / 2


def drawn(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Latents [count, 100] and labels [count]."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, LATENT, generator=draw), torch.randint(CLASSES, (count,), generator=draw)


@dataclass(frozen=True)
class Judge:
    """An encoder with its reference and its classifier, both of images of the GAN as it was."""

    reference: LabelledMoments
    centre: Tensor
    weights: Tensor

    @classmethod
    def of(cls, features: Tensor, labels: Tensor) -> Judge:
        centre, targets = features.mean(0), F.one_hot(labels, CLASSES).double() - 1 / CLASSES
        rows = features - centre
        ridge = 0.1 * rows.square().sum() / rows.shape[1] * torch.eye(rows.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(rows.T @ rows + ridge, rows.T @ targets)
        return cls(LabelledMoments.from_features(features.numpy(), labels.numpy()), centre, weights)

    def of_samples(self, features: Tensor, labels: Tensor) -> tuple[float, float, float]:
        """Class accuracy, FD, and the distance of the class means in variances within a class."""
        right = ((features - self.centre) @ self.weights).argmax(1) == labels
        samples = LabelledMoments.from_features(features.numpy(), labels.numpy())
        fd = frechet_distance(samples.total, self.reference.total)
        whitened = conditional_frechet_distance(samples, self.reference, stderr=False).whitened
        return float(right.double().mean()), fd, whitened


class World:
    """The GAN, the encoders, and what is known of the GAN as it was."""

    def __init__(self, options: argparse.Namespace) -> None:
        folder = self.folder = options.data / "weights"
        self.options = options
        self.trained_on = SqueezeNetEncoder(folder / "squeezenet1_1.safetensors", options.side).eval()
        network = efficientnet(folder / "efficientnet_lite0.safetensors").requires_grad_(False)
        size = (options.held_out_side, options.held_out_side)
        self.held_out = lambda images: network(F.interpolate(images, size, mode="bilinear", antialias=True))
        self.judges = [Judge.of(*pair) for pair in self._reference()]

    def _reference(self) -> list[tuple[Tensor, Tensor]]:
        """Features and labels of the GAN as it was, from --cache where it holds them."""
        path, count = self.options.cache, self.options.reference_images
        if path is not None and path.is_file():
            return torch.load(path)
        found = self.features(self.generator(), 1, count)
        if path is not None:
            torch.save(found, path)
        return found

    def generator(self, is_permuted: bool = False) -> Eyes:
        """The GAN as it was, or with exchanged labels."""
        found = Eyes(self.folder / "cdcgan_eyes128_f16.safetensors", not self.options.float32)
        if is_permuted:
            found.table.data = found.table.data[list(PERMUTATION)].clone()
        return found

    @torch.inference_mode()
    def features(self, generator: Eyes, seed: int, count: int) -> list[tuple[Tensor, Tensor]]:
        """Features of images rounded to bytes, and labels, for the trained and the held-out encoder."""
        z, labels = drawn(seed, count)
        found: list[list[Tensor]] = [[], []]
        for part in range(0, count, BATCH):
            images = generator(z[part : part + BATCH], labels[part : part + BATCH])
            images = (images * 255).round() / 255
            for rows, encode in zip(found, (self.trained_on, self.held_out), strict=True):
                rows.append(encode(images).double())
        return [(torch.cat(rows), labels) for rows in found]

    def row(self, name: str, generator: Eyes, seconds: float | None = None) -> tuple[object, ...]:
        """A row of the table, of images that no other row drew."""
        pairs = zip(self.judges, self.features(generator, 2, self.options.images), strict=True)
        (acc, fd, means), (other_acc, other_fd, other_means) = (judge.of_samples(*pair) for judge, pair in pairs)
        time = "" if seconds is None else f"{seconds:.0f}"
        numbers = f"{acc:.1%}", f"{other_acc:.1%}", f"{fd:.0f}", f"{other_fd:.1f}", f"{means:.2f}", f"{other_means:.2f}"
        return name, *numbers, time


Step = Callable[[Tensor, Tensor], Tensor]


def loss_of(world: World, kind: float | str | None) -> tuple[fdr.FDLoss, Step]:
    """The loss, and the function that gives its total for images and labels."""
    population, options = fdr.EmaPopulation(BETA), fdr.LossOptions("exact")
    reference = world.judges[0].reference
    if kind != "joint":
        loss = fdr.FDLoss(
            {"squeezenet": world.trained_on}, {"squeezenet": reference}, population, options, conditional=kind
        )
        return loss, lambda images, labels: (loss(images) if kind is None else loss(images, labels)).total
    scale = label_scale(reference)
    codes, current = torch.from_numpy(scale * label_code(CLASSES)), [torch.empty(0, dtype=torch.int64)]

    def encode(images: Tensor) -> Tensor:
        return joint_features(world.trained_on(images), codes[current[0]])

    target = joint_moments(reference, reference.classes.names, scale)
    joint = fdr.FDLoss({"joint": encode}, {"joint": target}, population, options)

    def total(images: Tensor, labels: Tensor) -> Tensor:
        current[0] = labels
        return joint(images).total

    return joint, total


def trained(world: World, kind: float | str | None) -> tuple[Eyes, float]:
    """The GAN with exchanged labels after training, and the processor seconds of the steps."""
    options, generator = world.options, world.generator(is_permuted=True)
    _, total = loss_of(world, kind)
    optimizer, began = torch.optim.Adam([generator.table], betas=(0.9, 0.95)), time.process_time()
    for step in range(options.steps):
        warm = min(1, (step + 1) / 5)
        optimizer.param_groups[0]["lr"] = options.lr * warm * 0.5 * (1 + math.cos(math.pi * step / options.steps))
        z, labels = drawn(1000 + options.seed * 100_000 + step, options.batch_size)
        optimizer.zero_grad()
        total(generator(z, labels), labels).backward()
        optimizer.step()
    return generator, time.process_time() - began


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", action="append", choices=(*STARTS, *ROWS), help="a row to measure; default: all")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-2, help="of Adam, with a cosine to 0 (default: 0.02)")
    parser.add_argument("--reference-images", type=int, default=2000)
    parser.add_argument("--images", type=int, default=400, help="images that a row is measured on (default: 400)")
    parser.add_argument("--cache", type=Path, help="file for the features of the reference, which runs may share")
    parser.add_argument("--side", type=int, default=64, help="pixels of SqueezeNet's input (default: 64)")
    parser.add_argument("--held-out-side", type=int, default=96, help="pixels of EfficientNet's input (default: 96)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--float32", action="store_true", help="run the GAN in float32 instead of bfloat16")
    options = parser.parse_args()
    world = World(options)
    rows = []
    for name in options.only or (*STARTS, *ROWS):
        is_start = name in STARTS
        found = (world.generator(STARTS[name]), None) if is_start else trained(world, ROWS[name])
        rows.append(world.row(name, *found))
    print(harness.table(HEADER, rows))
    harness.write_json(options.json, header=HEADER, rows=rows)


if __name__ == "__main__":
    main()
