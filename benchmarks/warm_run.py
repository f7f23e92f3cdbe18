"""How long the same evaluation takes a second time: 50,000 images x 2,048 features, everything cached.

    python benchmarks/warm_run.py [--images 50000] [--dim 2048] [--repeats 3]

A cold run fills the cache (the images are small and the encoder is one product: only what follows is of interest);
then fresh processes run the same again, on an npz and on a folder of PNG files. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import fdr

CHILD = "import sys; sys.path.insert(0, sys.argv[1]); import warm_run; warm_run.evaluate(*sys.argv[2:])"


class Projection(torch.nn.Module):
    """32 x 32 pixels times a seeded matrix: features of full rank up to 3,072."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3072, dim, generator=torch.Generator().manual_seed(0)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight


def evaluate(samples: str, reference: str, cache: str, dim: str) -> None:
    """One evaluation; prints what it took, in a process of its own."""
    import resource
    import time

    encoder = Projection(int(dim))
    began = time.perf_counter()
    report = fdr.evaluate(samples, reference, encoder, cache=cache, batch_size=256)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    facts = {"seconds": time.perf_counter() - began, "fd": report["fd"].value, "peak_mb": usage.ru_maxrss / 1000}
    print(json.dumps(facts))


def run(samples: Path, reference: Path, cache: Path, dim: int) -> dict[str, float]:
    arguments = [str(Path(__file__).parent), str(samples), str(reference), str(cache), str(dim)]
    done = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def make_images(folder: Path, count: int) -> dict[str, Path]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "samples.npz", arr_0=pixels)
    files = folder / "files"
    files.mkdir()
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(files / f"{index:06d}.png", compress_level=1)
    return {"npz": folder / "samples.npz", "folder of PNG": files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generator = np.random.default_rng(1)
        mixing = generator.normal(size=(options.dim, options.dim)) / options.dim**0.5
        np.savez(folder / "reference.npz", mu=np.zeros(options.dim), sigma=mixing @ mixing.T)
        print(
            f"| {options.images:,} x {options.dim} | cold, s | warm, s (median) | warm peak memory, MB |\n"
            "|---|---:|---:|---:|"
        )
        for kind, samples in make_images(folder, options.images).items():
            arguments = (samples, folder / "reference.npz", folder / "cache", options.dim)
            cold = run(*arguments)
            warm = [run(*arguments) for _ in range(options.repeats)]
            assert all(facts["fd"] == cold["fd"] for facts in warm)
            seconds, peak = (statistics.median(facts[key] for facts in warm) for key in ("seconds", "peak_mb"))
            print(f"| {kind} | {cold['seconds']:.1f} | {seconds:.2f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
