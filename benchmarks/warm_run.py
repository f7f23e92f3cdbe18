"""How long the same evaluation takes a second time: 50,000 images x 2,048 features, everything cached.

    python benchmarks/warm_run.py [--images 50000] [--dim 2048] [--repeats 3]

A cold run fills the cache (the images are small and the encoder is one product: only what follows is of interest);
then fresh processes run the same again, on an npz and on a folder of PNG files, without the standard error of FD, which
needs stored moments alone, and with it, which needs the features. Prints a Markdown table.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import harness
import numpy as np
import torch
from PIL import Image

import fdr


class Projection(torch.nn.Module):
    """32 x 32 pixels times a seeded matrix: features of full rank up to 3,072."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3072, dim, generator=torch.Generator().manual_seed(0)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight


def evaluate(samples: str, reference: str, cache: str, dim: int, stderr: bool) -> dict[str, float]:
    """One evaluation, in a process of its own."""
    encoder = Projection(dim)
    began, cpu = time.perf_counter(), time.process_time()
    report = fdr.evaluate(samples, reference, encoder, cache=cache, batch_size=256, stderr=stderr)
    seconds = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    return {**seconds, "fd": report["fd"].value, "peak_mib": harness.peak_mib()}


def make_images(folder: Path, count: int) -> dict[str, Path]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "samples.npz", arr_0=pixels)
    files = folder / "files"
    files.mkdir()
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(files / f"{index:06d}.png", compress_level=1)
    return {"npz": folder / "samples.npz", "folder of PNG": files}


def main() -> None:
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=2048)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generator = np.random.default_rng(1)
        mixing = generator.normal(size=(options.dim, options.dim)) / options.dim**0.5
        np.savez(folder / "reference.npz", mu=np.zeros(options.dim), sigma=mixing @ mixing.T)
        rows = {}
        for kind, samples in make_images(folder, options.images).items():
            paths = {
                "samples": str(samples),
                "reference": str(folder / "reference.npz"),
                "cache": str(folder / "cache"),
            }
            runs: dict[str, list[dict[str, float]]] = {}
            for run, stderr in (("cold", True), *(("warm", False), ("warm, with stderr", True)) * options.repeats):
                done = harness.in_child(__file__, "evaluate", dim=options.dim, stderr=stderr, **paths)
                runs.setdefault(run, []).append(done)
            assert len({done["fd"] for found in runs.values() for done in found}) == 1
            for run, found in runs.items():
                rows[f"{kind}, {run}"] = {key: statistics.median(done[key] for done in found) for key in found[0]}
    header = (f"{options.images:,} x {options.dim} (medians)", "wall s", "CPU s", "peak memory, MiB")
    cells = (
        [kind, f"{row['seconds']:.1f}", f"{row['cpu']:.2f}", f"{row['peak_mib']:.0f}"] for kind, row in rows.items()
    )
    print(harness.table(header, cells))
    harness.write_json(options.json, results=rows)


if __name__ == "__main__":
    main()
