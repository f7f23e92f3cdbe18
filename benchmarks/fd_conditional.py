"""What conditional FD sees and FD does not: the labels of a class-conditional GAN are exchanged, its images stay.

    python benchmarks/fd_conditional.py --data FOLDER

FOLDER holds `weights/cdcgan_eyes128_f16.safetensors`, a GAN of 8 classes, and `weights/squeezenet1_1.safetensors`. The
reference is images of the GAN with their labels; the samples are other images of it, of which labels or spread are
changed. So the truth is known: everything about the first row is right. Prints the table of docs/conditional-fd.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import harness
import numpy as np
import torch
from gan_networks import CLASSES, LATENT, cdcgan
from squeezenet import SqueezeNetEncoder

from fdr.frechet import Moments
from fdr.metrics import Context, Labelled, load_metrics

BATCH = 100
METRICS = ("fd", "fd_conditional", "fd_joint", "fd_per_class", "class_accuracy_linear")


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--per-class", type=int, default=250, help="images of each of the 8 classes")
    parser.add_argument("--side", type=int, default=96, help="pixels that images are resized to for SqueezeNet")
    options = parser.parse_args()
    began = time.process_time()
    world = World(options.data / "weights", options.per_class, options.side)
    rows = [(name, *measure(samples, world.reference)) for name, samples in world.samples()]
    header = (
        "samples", "FD", "conditional FD", "between", "within", "whitened", "spread", "joint FD", "FD per class",
        "class accuracy",
    )  # fmt: skip
    print(harness.table(header, rows))
    print(f"\n{time.process_time() - began:.0f} processor seconds; {harness.machine_line()}")
    harness.write_json(options.json, header=header, rows=rows)


class World:
    """Features of the GAN's images, and sample sets with other labels or less spread."""

    def __init__(self, weights: Path, per_class: int, side: int) -> None:
        self._generator = cdcgan(weights / "cdcgan_eyes128_f16.safetensors")
        self._encoder = SqueezeNetEncoder(weights / "squeezenet1_1.safetensors", side)
        self._labels = np.arange(CLASSES * per_class) % CLASSES
        self.reference = self._labelled(self._features(seed=0))

    @torch.inference_mode()
    def _features(self, seed: int, noise: float = 1.0) -> np.ndarray:
        """[N, 512] of images of `labels`, of latents that are `noise` times as wide as those of the GAN."""
        random, found = torch.Generator().manual_seed(seed), []
        for start in range(0, len(self._labels), BATCH):
            labels = torch.from_numpy(self._labels[start : start + BATCH])
            z = noise * torch.randn(len(labels), LATENT, generator=random)
            condition = torch.nn.functional.one_hot(labels, CLASSES)
            images = self._generator(torch.cat([z, condition], 1)[:, :, None, None])
            found.append(self._encoder((images + 1) / 2).numpy())
        return np.concatenate(found)

    def _labelled(self, features: np.ndarray, labels: np.ndarray | None = None) -> Labelled:
        return Labelled(features, self._labels if labels is None else labels, None, "samples")

    def samples(self) -> Iterator[tuple[str, Labelled]]:
        """The sample sets, by what was done to them."""
        features, labels = self._features(seed=1), self._labels
        random = np.random.default_rng(0)
        yield "other noise, all labels right", self._labelled(features)
        for share in (0.1, 0.5):
            wrong = np.where(random.random(len(labels)) < share, random.integers(CLASSES, size=len(labels)), labels)
            yield f"{share:.0%} of the labels drawn at random", self._labelled(features, wrong)
        yield "all labels drawn at random", self._labelled(features, random.permutation(labels))
        swapped = np.where(labels < 2, 1 - labels, labels)
        yield "classes 0 and 1 exchanged", self._labelled(features, swapped)
        yield "each label moved on by one", self._labelled(features, (labels + 1) % CLASSES)
        yield "noise 0.8 times as wide: classes narrower", self._labelled(self._features(seed=1, noise=0.8))


def measure(samples: Labelled, reference: Labelled) -> Iterator[str]:
    """The cells of a row."""
    metrics, scores = load_metrics(METRICS), {}
    for metric in metrics.values():
        sides = (samples, reference) if metric.labels else (_moments(samples), _moments(reference))
        scores |= metric.scores(*sides, Context())
    conditional = scores["fd_conditional"]
    for name in METRICS:
        score = scores[name]
        yield (
            f"{score.value:.2f} ± {score.stderr:.2f}" if score.value <= 1 else f"{score.value:.0f} ± {score.stderr:.0f}"
        )
        if name == "fd_conditional":
            for part in ("between", "within", "whitened", "spread"):
                value = conditional.details[part]
                yield f"{value:.2f}" if part in ("whitened", "spread") else f"{value:.0f}"


def _moments(side: Labelled) -> Moments:
    return replace(Moments.from_features(side.collected), rows=side.collected)


if __name__ == "__main__":
    main()
