"""Features of samples of a trained GAN under real encoders: a population that can be sampled without limit.

    python benchmarks/gan_population.py --data FOLDER --out FEATURES                          # all parts, both encoders
    python benchmarks/gan_population.py --data FOLDER --out FEATURES --encoder inception --side 96 --parts pool=20000

FOLDER holds `weights/dcgan_faces64.safetensors` (a DCGAN of faces of 64 x 64 pixels) and the weights of the encoders:
`weights/efficientnet_lite0.safetensors` (1,280 features) and `weights/inception_v3_nsfwjs_f16.safetensors` (2,048).

Parts are sets of samples: `pool` and `population` come from the generator, with different seeds, and `perturbed` from
the same generator with its input scaled by --scale. A part is a folder of float16 files of 2,500 features each. A file
depends on the names of encoder and part and on its number alone, so an interrupted run goes on where it stopped, and
several runs may share the work by --first. `debiased_fd.py --features FEATURES` reads the folders.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import zlib
from pathlib import Path

import harness
import numpy as np
import torch
import torch.nn.functional as F
from gan_networks import LATENT, dcgan, efficientnet, inception
from torch import Tensor

SHARD, BATCH = 2500, 50
PARTS = {"pool": 50_000, "population": 300_000, "perturbed": 300_000}
WEIGHTS = {
    "efficientnet": "efficientnet_lite0.safetensors",
    "inception": "inception_v3_nsfwjs_f16.safetensors",
}
SIDES = {"efficientnet": 224, "inception": 299}


ENCODERS = {"efficientnet": efficientnet, "inception": inception}


class Features:
    """What one encoder makes of the samples of a part, a file at a time."""

    def __init__(self, options: argparse.Namespace) -> None:
        folder = options.data / "weights"
        self.options, self.seed = options, options.seed
        self.side = options.side or SIDES[options.encoder]
        self.generator = dcgan(folder / "dcgan_faces64.safetensors").to(memory_format=torch.channels_last)
        self.encoder = ENCODERS[options.encoder](folder / WEIGHTS[options.encoder])
        self.encoder = self.encoder.to(options.device, memory_format=torch.channels_last)
        self.generator.to(options.device)

    @torch.inference_mode()
    def of(self, part: str, number: int) -> np.ndarray:
        """float16 [2500, D] of file `number`; its noise depends on the seed, the kind of part and the number alone."""
        random = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {part} {number}".encode()))
        scale = self.options.scale if part == "perturbed" else 1.0
        noise = scale * torch.randn(SHARD, LATENT, 1, 1, generator=random)
        return np.concatenate([self._of_batch(batch) for batch in noise.split(BATCH)])

    def _of_batch(self, noise: Tensor) -> np.ndarray:
        images = self.generator(noise.to(self.options.device))
        images = ((images + 1) * 127.5).round_() / 255  # as a file of images holds them
        size = (self.side, self.side)
        images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.options.bfloat16):
            features = self.encoder(images.contiguous(memory_format=torch.channels_last))
        return features.float().cpu().numpy().astype(np.float16)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the folder of features, made where it is missing")
    parser.add_argument("--encoder", choices=tuple(ENCODERS), default="efficientnet")
    parser.add_argument("--side", type=int, help="pixels of the encoder's input (default: what it was trained on)")
    parser.add_argument("--parts", default=",".join(f"{part}={count}" for part, count in PARTS.items()))
    parser.add_argument("--scale", type=float, default=0.9, help="of the noise of the perturbed part (default: 0.9)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bfloat16", action="store_true", help="encode in bfloat16, twice as fast on some processors")
    parser.add_argument("--files", type=int, help="stop after so many new files")
    options = parser.parse_args()
    counts = {part: int(count) for part, count in (pair.split("=") for pair in options.parts.split(","))}
    features, start, made = Features(options), time.perf_counter(), 0
    folder = options.out / f"{options.encoder}-{features.side}"
    for part, count in counts.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        for number in range(-(-count // SHARD)):
            path = folder / part / f"{number:05d}.npy"
            if path.exists() or made == options.files:
                continue
            rows = features.of(part, number)
            unfinished = path.with_suffix(f".{os.getpid()}")
            with unfinished.open("wb") as file:
                np.save(file, rows)
            unfinished.replace(path)
            made += 1
            rate = made * SHARD / (time.perf_counter() - start)
            print(f"{folder.name} {part} {(number + 1) * SHARD}: {rate:.0f} images a second", flush=True)
    described = vars(options) | {"data": None, "out": None, "json": None, "files": None, "side": features.side}
    (folder / "made.json").write_text(json.dumps(described, indent=1) + "\n")
    harness.write_json(options.json, counts=counts)


if __name__ == "__main__":
    main()
